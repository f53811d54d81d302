#!/usr/bin/env bash
# Training on two machines of a SLURM cluster with four GPUs each: one torchrun a machine, joined by a rendezvous.
#
#     sbatch examples/slurm_train.sh /data/BUSI runs/slurm
#
# From a clone's root, on a file system that all machines see. Submit it again with --resume to go on.
#SBATCH --job-name=lmsfe-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail

dataset=$1
output=$2
shift 2
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

cd bundle
srun torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node=4 --max_restarts=3 \
    --rdzv_backend=c10d --rdzv_id="$SLURM_JOB_ID" --rdzv_endpoint="$head:$((20000 + SLURM_JOB_ID % 10000))" \
    -m monai.bundle run training --config_file "['configs/train.json','configs/multi_gpu_train.json']" \
    --dataset_dir "$dataset" --output_dir "$output" "$@"
