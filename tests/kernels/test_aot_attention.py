"""Ahead-of-time compilation of the attention kernels: registers, spills and instructions, on no GPU.

`aot_attention.json` holds the registers and shared memory of every launch. A change that needs more fails here; once it
is meant, `python -m tests.kernels.test_aot_attention` writes the table anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfda_kernels.backend import has_triton, interpreted

if not has_triton() or interpreted():
    pytest.skip("needs triton, compiling instead of interpreting", allow_module_level=True)

from sfda_kernels import attended_l1_triton, gram_kl_triton
from tests.kernels import aot

TABLE = Path(__file__).with_suffix("").parent / "aot_attention.json"
SLACK = 16
"""Registers by which another version of triton may differ."""

CAPABILITIES = (80, 90, 100)
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
TENSOR_CORE = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}


def features(count: int, depth: int, layout: str, dtype: torch.dtype) -> Tensor:
    shape = (1, count, depth) if layout == "channel" else (1, depth, count)
    x = torch.ones(shape, dtype=dtype)
    return x if layout == "channel" else x.mT


def gram_kl(path: str, count: int, depth: int, layout: str, dtype: torch.dtype, cosine: bool = True) -> None:
    x = features(count, depth, layout, dtype)
    _, *saved = gram_kl_triton.forward(x, x, 0.1, cosine, path)
    for wrt_target in (False,) if path == "tiles" else (False, True):
        gram_kl_triton.backward(torch.ones(1), x, x, *saved, 0.1, path, wrt_target)


def attended_l1(layout: str, dtype: torch.dtype) -> None:
    x = features(128, 64, layout, dtype)
    _, sign, rows, scales, healthy, attention, _ = attended_l1_triton.forward(x, x, 0.1, True, True, False)
    side = (attention, rows[0], rows[1], scales[0], healthy[0])
    attended_l1_triton.backward(torch.ones(1), x, sign, *side, 0.1)


CASES: dict[str, Callable[[], None]] = {
    "tiles small channel": lambda: gram_kl("tiles", 512, 128, "channel", torch.bfloat16),
    "tiles small spatial": lambda: gram_kl("tiles", 128, 512, "spatial", torch.float16),
    "tiles large channel": lambda: gram_kl("tiles", 2048, 512, "channel", torch.bfloat16),
    "tiles large spatial": lambda: gram_kl("tiles", 2048, 96, "spatial", torch.bfloat16),
    "rows bf16": lambda: gram_kl("hybrid", 128, 32, "spatial", torch.bfloat16),
    "rows fp32 dot odd": lambda: gram_kl("hybrid", 117, 33, "channel", torch.float32, cosine=False),
    "l1": lambda: attended_l1("spatial", torch.bfloat16),
}

ONCE = {"token_scales", "kl_merge_tiles", "kl_diagonal"}
"""Kernels that are the same in every case."""


def launches(case: str, capability: int) -> dict[str, aot.Launch]:
    """The launches of a case by name of the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gram_kl_triton, "_major", lambda _: capability // 10)
        found: dict[str, aot.Launch] = {}
        for launch in aot.record(CASES[case]):
            name = launch.kernel.fn.__name__
            target = " target" if launch.arguments.get("TARGET") else ""
            if case == "tiles small channel" or name not in ONCE:
                found.setdefault(name + target, launch)
    return found


def measure(case: str, capability: int) -> dict[str, aot.Resources]:
    return {name: aot.compile_launch(launch, capability) for name, launch in launches(case, capability).items()}


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("case", CASES)
def test_resources(case: str, capability: int) -> None:
    table: dict[str, Any] = json.loads(TABLE.read_text())[f"sm_{capability}"][case]
    measured = measure(case, capability)
    assert measured.keys() == table.keys()
    for name, resources in measured.items():
        assert resources.stack == 0, f"{name} spills"
        assert resources.count("LDL") == resources.count("STL") == 0, f"{name} spills"
        assert resources.registers <= table[name]["registers"] + SLACK, name
        assert resources.shared <= min(table[name]["shared"], SHARED_LIMIT[capability]), name
        assert resources.count("ATOMG") == resources.count("REDG") == 0, f"{name} is not deterministic"
        if name in ("kl_forward_tiles", "kl_backward_tiles"):
            assert resources.count(TENSOR_CORE[capability]) > 0, f"{name} leaves the tensor cores idle"
            assert resources.count("LDGSTS") > 0, f"{name} does not copy asynchronously"


if __name__ == "__main__":
    TABLE.write_text(
        json.dumps(
            {
                f"sm_{capability}": {
                    case: {
                        name: {"registers": resources.registers, "shared": resources.shared}
                        for name, resources in measure(case, capability).items()
                    }
                    for case in CASES
                }
                for capability in CAPABILITIES
            },
            indent=1,
        )
        + "\n"
    )
