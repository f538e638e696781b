"""The main loops of the tile kernels feed the tensor cores by asynchronous copies, without atomics on the results."""

from __future__ import annotations

import importlib
import os
import re
from importlib.util import find_spec
from typing import Any

import pytest

HERE = "tests.kernels.aot"
PRODUCT = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1", reason="needs triton's compiler"
)


@pytest.fixture(scope="module")
def launches() -> list[Any]:
    resources = importlib.import_module(f"{HERE}.resources")
    cases = importlib.import_module(f"{HERE}.attention_cases").CASES
    calls = [cases["KL by tiles, channel, T 512"], cases["KL by tiles, spatial, T 2048"]]
    return [launch for call in calls for launch in resources.record_launches(call) if "tiles" in launch[0].__name__]


@pytest.mark.parametrize("architecture", PRODUCT)
def test_tile_kernels(launches: list[Any], architecture: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget

    specialize = importlib.import_module(f"{HERE}.resources").specialize
    with_products = []
    for function, arguments, options in launches:
        source = specialize(function, arguments)
        ptx = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options).asm["ptx"]
        assert re.search(r"\s(atom|red)\.global", ptx) is None
        if PRODUCT[architecture] in ptx:
            assert "cp.async" in ptx
            with_products.append(function.__name__)
    assert with_products == ["kl_forward_tiles", "kl_backward_tiles"] * 2
