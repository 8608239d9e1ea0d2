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
if ! "$uv" --version >/dev/null 2>&1; then
  # --target, not a venv: Debian's python3 has no ensurepip, and its own packages stay untouched.
  rm -rf .uv # pip adds nothing to what an interrupted installation has left
  "$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --target .uv --require-hashes -r requirements/uv.txt
fi
case $(.venv/bin/python -c 'import sys; print(sys.version_info[:2])' 2>/dev/null) in
  "(3, 11)") ;;
  "") # none, one whose Python has gone, or what an interruption has left
    rm -rf .venv
    "$uv" venv --quiet --python "$wanted" .venv ;;
  *) echo ".venv has another Python than 3.11: remove it (rm -r .venv) and run this again." >&2; exit 1 ;;
esac
echo "Installing $lock into .venv (3.6 GB on disk; the first time downloads about 1 GB) ..."
"$uv" pip sync --quiet --python .venv/bin/python --require-hashes --compile-bytecode "$lock"
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
