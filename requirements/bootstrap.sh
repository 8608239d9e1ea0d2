#!/bin/sh
# Makes .venv from a hashed lock: `requirements/bootstrap.sh dev`. Needs Python 3.11 with pip, or
# any Python 3 with pip (uv then brings its own 3.11). Nothing outside this folder is changed.
set -eu
cd "$(dirname "$0")/.."
lock=requirements/$1.lock
python=$(command -v python3.11 || command -v python3) || { echo "Python 3.11 is needed: apt-get install python3 python3-pip" >&2; exit 1; }
if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then wanted=3.11; else wanted=$python; fi
uv=.uv/bin/uv
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV
if ! [ -x "$uv" ]; then
  # --target, not a venv: Debian's python3 has no ensurepip, and its own packages stay untouched.
  "$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --target .uv --require-hashes -r requirements/uv.txt
fi
[ -x .venv/bin/python ] || "$uv" venv --quiet --python "$wanted" .venv
echo "Installing $lock into .venv (3.6 GB on disk; the first time downloads about 1 GB) ..."
"$uv" pip sync --quiet --python .venv/bin/python --require-hashes --compile-bytecode "$lock"
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
