#!/bin/bash
# One benchmark over several nodes without a scheduler: run it on every node.
#   NODES=2 NODE=0 HOST=first.example.org configs/cluster/torchrun.sh voc21 /shared/runs/voc21
#   NODES=2 NODE=1 HOST=first.example.org configs/cluster/torchrun.sh voc21 /shared/runs/voc21
# From the checkout's folder, or from any where ovss is installed.
set -euo pipefail
config=${1:?"usage: torchrun.sh CONFIG RUN_FOLDER [OPTION ...]"}
folder=${2:?"usage: torchrun.sh CONFIG RUN_FOLDER [OPTION ...]"}
shift 2
nodes=${NODES:-1}
processes=${PROCESSES:-4}  # of this node, one for each GPU
# In a virtual environment: PYTHON=.venv/bin/python configs/cluster/torchrun.sh ...
# The folder must be on a file system that all nodes share.
exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes "$nodes" --node-rank "${NODE:-0}" --nproc-per-node "$processes" \
  --master-addr "${HOST:-127.0.0.1}" --master-port "${PORT:-29500}" \
  -m ovss test --config "$config" --trainer.default_root_dir "$folder" \
  --trainer.num_nodes "$nodes" --trainer.devices "$processes" --trainer.strategy ddp "$@"
