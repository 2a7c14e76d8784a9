#!/usr/bin/env bash
#SBATCH --job-name=jddd --gpus=1 --cpus-per-task=8 --mem=64G --time=12:00:00 --requeue
# sbatch launch/slurm.sh --config=configs/teacher_text.py:base --workdir=runs/base   (one host; a requeued job resumes from its newest checkpoint)
export JDDD_EXTRAS=test,cuda
cd "${SLURM_SUBMIT_DIR:-.}" && . launch/env.sh
exec python -m jddd.main "$@"
