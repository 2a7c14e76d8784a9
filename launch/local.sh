#!/usr/bin/env bash
# Run an experiment on this machine: bash launch/local.sh --config=configs/lsd_text.py [--workdir=DIR] [--config.field=value ...]
cd "$(dirname "$0")/.." && . launch/env.sh
exec python -m jddd.main "$@"
