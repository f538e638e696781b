"""`double_precision.py adapt|train_source ...`: the command in float64 throughout, where rounding hides nothing.

In fp32 a rounding error grows within ten steps as Adam divides by gradients that are nearly zero: one process on one
thread and on two are then as far apart as one process and two are. What two processes compute shows in float64.
"""

from __future__ import annotations

import sys
from importlib import import_module

import torch

from sfda_engine.exit_codes import exit_code
from sfda_engine.pipelines import adaptation, source_training  # noqa: F401  (constants of float32 are made before)

torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(exit_code(import_module(f"sfda_engine.{sys.argv[1]}").main, sys.argv[2:]))
