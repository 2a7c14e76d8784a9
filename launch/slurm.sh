#!/usr/bin/env bash
#SBATCH --job-name=jddd --gpus=1 --cpus-per-task=8 --mem=64G --time=12:00:00 --requeue
# sbatch launch/slurm.sh --config=configs/teacher_text.py:base --workdir=runs/base   (a requeued job resumes from its newest checkpoint)
cd "${SLURM_SUBMIT_DIR:-.}" && . launch/env.sh
python -m pip install --quiet --disable-pip-version-check -e '.[cuda]'
exec python -m jddd.main "$@"
