"""Figures of a run: latency quantiles, memory, versions and the machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from sfda_runtime.model import Model
from sfda_runtime.session import assigned_nodes

P99_FROM = 100
# what decides the kernels that onnxruntime picks, and with them the last digits and INT8's speed
VECTORS = {"avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve"}


def quantiles(values_ms: Sequence[float]) -> dict[str, Any]:
    """n, p50, p95, p99, max and jitter (p95 - p50) in milliseconds; p99 is null below 100 values, all below one."""
    if not values_ms:
        return {"n": 0, "p50": None, "p95": None, "p99": None, "max": None, "jitter": None}
    p50, p95, p99 = (float(q) for q in np.quantile(values_ms, (0.5, 0.95, 0.99)))
    return {
        "n": len(values_ms),
        "p50": round(p50, 3),
        "p95": round(p95, 3),
        "p99": round(p99, 3) if len(values_ms) >= P99_FROM else None,
        "max": round(max(values_ms), 3),
        "jitter": round(p95 - p50, 3),
    }


def rss_mb() -> float:
    """Resident memory of this process in MB; its peak where the system tells only that."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def slope_per_thousand(frames: Sequence[int], values: Sequence[float]) -> float | None:
    """Least squares: how much `values` grow in a thousand frames; None from fewer than two points."""
    if len(frames) < 2:
        return None
    return float(1000 * np.polyfit(np.asarray(frames, float), np.asarray(values, float), 1)[0])


def describe_session(model: Model, threads: int, spinning: bool) -> dict[str, Any]:
    """What ran where: the model's hash, the provider really in use, versions, the machine."""
    return {
        "model": str(model.path),
        "sha256": model.sha256,
        "arch": model.card.arch,
        "graph": model.card.graph,
        "precision": model.card.precision,
        "size": list(model.card.size),
        "provider": model.session.get_providers()[0],
        "nodes": assigned_nodes(model.session),
        "threads": threads,
        "spinning": spinning,
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "machine": {
            "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
            "vectors": sorted(VECTORS & set(_cpuinfo("flags").split() + _cpuinfo("Features").split())),
            "cores": os.cpu_count(),
            "system": platform.system(),
        },
    }


def _cpuinfo(key: str) -> str:
    """The first value of a key in Linux's /proc/cpuinfo, or nothing."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
