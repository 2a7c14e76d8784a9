#!/usr/bin/env bash
# Run an experiment on every worker of a TPU VM slice; each worker runs this same script, jax finds the others.
#   gcloud compute tpus tpu-vm ssh NAME --worker=all --command "cd jddd && bash launch/tpu_vm.sh --config=configs/teacher_text.py:base --workdir=gs://..."
cd "$(dirname "$0")/.." && . launch/env.sh
python -m pip install --quiet --disable-pip-version-check -e '.[tpu]'
exec python -m jddd.main "$@"
