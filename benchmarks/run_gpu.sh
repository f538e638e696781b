#!/usr/bin/env bash
# On a GPU machine: the gpu-marked tests, then every benchmark, inside 9 minutes. All goes to benchmarks/results; OUT=folder
# gets a copy as one archive. Needs no installation; PYTHON names another python. --dry-run shows what would run.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=.:kernels:export
exec "${PYTHON:-python3}" -m benchmarks.all "$@"
