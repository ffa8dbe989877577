#!/bin/sh
# Everything worth knowing of this library on one GPU or TPU, in ten minutes at most: see scripts/check_accelerator.py.
#   scripts/check_accelerator.sh                     writes accelerator-DEVICE-DATE.json and .md
#   scripts/check_accelerator.sh --tiny              rehearses it, on a CPU
#   PYTHON=~/venv/bin/python scripts/check_accelerator.sh --torch-python ~/torch/bin/python
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" scripts/check_accelerator.py "$@"
