#!/usr/bin/env bash
# On a GPU machine: the gpu-marked tests, then every benchmark, inside 9 minutes. Results and logs go to $OUT.
# Needs nothing but a python with torch and triton; PYTHON names another one. --dry-run shows what would run.
set -euo pipefail
cd "$(dirname "$0")/.."
export OUT="${OUT:-benchmarks/results}" PYTHONPATH=.:kernels:export
exec "${PYTHON:-python3}" -m benchmarks.all "$@"
