#!/usr/bin/env bash
# Batch inference on four machines of a SLURM cluster: Ray's head on the first, a worker process of Ray on each other.
#
#     sbatch examples/slurm_batch.sh s3://registry/manifest.parquet s3://registry/results
#
# A job that ends early (time limit, preemption, a dead machine) is submitted again as it is: it does what is missing.
#SBATCH --job-name=lmsfe-batch
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=2
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=%x-%j.log
set -euo pipefail

input=$1
output=$2
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token # the same on all machines: Ray answers nobody without it
[[ -s $RAY_AUTH_TOKEN_PATH ]] || { mkdir -p "${RAY_AUTH_TOKEN_PATH%/*}"; (umask 077; openssl rand -hex 32 >"$RAY_AUTH_TOKEN_PATH"); }

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
export RAY_ADDRESS=$head:$port

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
    ray start --head --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false --block &
sleep 30
if ((SLURM_JOB_NUM_NODES > 1)); then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" --overlap \
        ray start --address="$RAY_ADDRESS" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi

# Four workers share a GPU, so that it need not wait while one of them reads a file.
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
    python -m lmsfe_sam.batch --input "$input" --output "$output" --workers $((SLURM_JOB_NUM_NODES * 8)) --gpus 0.25 &
job=$!
trap 'kill -TERM "$job"' TERM # before the time limit: the job notes what is finished
wait "$job"
