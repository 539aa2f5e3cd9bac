#!/bin/bash
# The runs of a suite as a job array, each requeued until it is finished; then `ovss suite SUITE` makes the table.
#   runs=$(python -m ovss suite clip --output /shared/runs --list | wc -l)
#   sbatch --array=1-$runs configs/cluster/suite.sh clip --output /shared/runs
# From the checkout's folder, or from any where ovss is installed.
#SBATCH --job-name=ovss-suite
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ovss-suite-%A-%a.log
# SIGUSR1 reaches the processes two minutes before the time is up.
#SBATCH --signal=USR1@120
set -uo pipefail
: "${1:?"usage: sbatch --array=1-RUNS suite.sh SUITE [OPTION ...]"}"
number=${SLURM_ARRAY_TASK_ID:?"usage: sbatch --array=1-RUNS suite.sh SUITE [OPTION ...]"}
# In a virtual environment: PYTHON=.venv/bin/python sbatch --array=... configs/cluster/suite.sh ...
# The folder must be on a file system that all nodes share.
command=$("${PYTHON:-python}" -m ovss suite "$@" --list | sed -n "${number}p") || exit
if [ -z "$command" ]; then
  echo "Expected a run for each number of the array, but the suite has no run $number." >&2
  exit 2
fi
# The line is quoted for a shell. Its own options stand last: they win over the job's.
eval "set -- ${command#ovss test }" || exit 2
srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m ovss test \
  --trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" \
  --trainer.strategy ddp "$@"
code=$?
if [ "$code" -eq 75 ]; then
  echo "Stopped by a signal: the job goes back to the queue and will take up what is missing."
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$number"  # this run alone
fi
exit "$code"
