# Sourced by the other scripts: makes .venv from pyproject.toml where it is not there yet (uv if present, else python -m venv), and activates it.
# PYTHON names the interpreter (default python3; 3.11 or newer), JDDD_EXTRAS the extras to install (default test).
set -euo pipefail
extras="${JDDD_EXTRAS:-test}"
stamp=".venv/installed-$(sha256sum pyproject.toml | cut -c1-12)-${extras//,/-}"
if [ ! -e "$stamp" ]; then
  python="${PYTHON:-python3}"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $python is $("$python" --version 2>&1); jddd needs Python 3.11 or newer (set PYTHON=...)" >&2; exit 1; }
  echo "making .venv (once, about a minute)" >&2
  if command -v uv >/dev/null 2>&1; then
    uv venv --quiet --allow-existing --python "$python" .venv
    uv pip install --quiet --python .venv/bin/python -e ".[$extras]"
  else
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[$extras]"
  fi
  touch "$stamp"
fi
. .venv/bin/activate
