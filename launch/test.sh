#!/usr/bin/env bash
# Run the tests on this machine: bash launch/test.sh [pytest options]
cd "$(dirname "$0")/.." && . launch/env.sh
exec python -m pytest "$@"
