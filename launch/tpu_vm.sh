#!/usr/bin/env bash
# Run an experiment on a TPU VM of one host (v4-8, v5e-8, v6e-8 and smaller): copy the repository there, then
#   gcloud compute tpus tpu-vm ssh NAME --command "cd jddd && bash launch/tpu_vm.sh --config=configs/teacher_text.py:base"
export JDDD_EXTRAS=test,tpu
cd "$(dirname "$0")/.." && . launch/env.sh
exec python -m jddd.main "$@"
