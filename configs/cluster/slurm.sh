#!/bin/bash
# One benchmark over several nodes, requeued until it is finished.
#   sbatch configs/cluster/slurm.sh voc21 runs/voc21
# From the checkout's folder, or from any where ovss is installed.
#SBATCH --job-name=ovss
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ovss-%j.log
# SIGUSR1 reaches the processes two minutes before the time is up.
#SBATCH --signal=USR1@120
set -uo pipefail
config=${1:?"usage: sbatch slurm.sh CONFIG RUN_FOLDER [OPTION ...]"}
folder=${2:?"usage: sbatch slurm.sh CONFIG RUN_FOLDER [OPTION ...]"}
shift 2
# In a virtual environment: PYTHON=.venv/bin/python sbatch configs/cluster/slurm.sh ...
# The folder must be on a file system that all nodes share.
srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m ovss test \
  --config "$config" --trainer.default_root_dir "$folder" \
  --trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" \
  --trainer.strategy ddp "$@"
code=$?
if [ "$code" -eq 75 ]; then
  echo "Stopped by a signal: the job goes back to the queue and will take up what is missing."
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
