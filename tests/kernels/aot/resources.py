"""What each kernel takes of a GPU (registers, spills, shared memory), compiled without one.

    python tests/kernels/aot/resources.py            # print the table of this machine's triton
    python tests/kernels/aot/resources.py --write    # put it into the committed one, resources.csv

A file `*_cases.py` beside this one has CASES, named calls of launchers on meta tensors. The launches that a call
makes are recorded instead of run and compiled for every architecture, specialized as the JIT would: pointers and
integers divisible by 16, integers equal to 1, None. Needs TRITON_INTERPRET unset.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import inspect
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

HERE = Path(__file__).parent
TABLE = HERE / "resources.csv"
ARCHITECTURES = (80, 90, 100)
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
}

Launch = tuple[JITFunction, dict[str, Any], dict[str, int]]


@dataclass(frozen=True)
class Row:
    """One kernel of one case on one architecture."""

    case: str
    kernel: str
    architecture: str
    registers: int
    """A thread's."""
    stack: int
    """Bytes a thread spills to local memory."""
    shared: int
    """Bytes a program."""
    barriers: int
    """In the PTX; one in an inner loop tells of a reduction across warps."""
    atomics: int
    """In the PTX; the kernels promise equal bits for equal inputs, so none."""
    triton: str


def record_launches(call: Callable[[], object]) -> list[Launch]:
    """The kernels that `call` launches: function, argument by name, options (num_warps, num_stages)."""
    launches: list[Launch] = []

    def record(function: JITFunction, *args: Any, grid: object, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
        arguments = inspect.signature(function.fn).bind(*args, **kwargs).arguments
        launches.append((function, dict(arguments), options))

    run, JITFunction.run = JITFunction.run, record
    try:
        call()
    finally:
        JITFunction.run = run
    return launches


def specialize(function: JITFunction, arguments: dict[str, Any]) -> ASTSource:
    """The source that triton's JIT would compile for these arguments."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for index, parameter in enumerate(function.params):
        value = arguments[parameter.name]
        specialized = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (specialized and type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[index,] = value
            continue
        signature[parameter.name] = _type_of(value)
        address = value.storage_offset() * value.element_size() if isinstance(value, torch.Tensor) else value
        if specialized and type(address) is int and address % 16 == 0:
            attributes[index,] = [["tt.divisibility", 16]]
    return ASTSource(function, signature, constants, attributes)


def _type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def measure(case: str, launch: Launch, architecture: int) -> Row:
    """Compile one launch with triton's ptxas and read what the binary declares."""
    function, arguments, options = launch
    source = specialize(function, arguments)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        dump = subprocess.run([_cuobjdump(), "--dump-resource-usage", file.name], capture_output=True, text=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", dump.stdout)
    if not found:
        raise RuntimeError(f"cuobjdump says no registers for {function.__name__}: {dump.stdout}{dump.stderr}")
    registers, stack = map(int, found.groups())
    ptx = compiled.asm["ptx"]
    return Row(
        case=case,
        kernel=function.__name__,
        architecture=f"sm_{architecture}",
        registers=registers,
        stack=stack,
        shared=compiled.metadata.shared,
        barriers=len(re.findall(r"\bbar(rier)?\.", ptx)),
        atomics=len(re.findall(r"\b(atom|red)\.", ptx)),
        triton=triton.__version__,
    )


def _cuobjdump() -> str:
    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    path = str(bundled) if bundled.exists() else shutil.which("cuobjdump")
    if path is None:
        raise RuntimeError("no cuobjdump, neither in triton's wheel nor on the PATH")
    return path


def all_rows() -> list[Row]:
    """A row for each kernel, specialization and architecture, under the first case that launches it."""
    rows, seen = [], set()
    for file in sorted(HERE.glob("*_cases.py")):
        cases = importlib.import_module(file.stem).CASES
        for case, call in cases.items():
            for launch in record_launches(call):
                key = specialize(*launch[:2]).hash() + str(launch[2])
                if key in seen:
                    continue
                seen.add(key)
                rows += [measure(case, launch, architecture) for architecture in ARCHITECTURES]
    return rows


def rows_of_other_versions() -> list[Row]:
    """The committed rows that another triton compiled."""
    if not TABLE.exists():
        return []
    with TABLE.open(newline="") as file:
        rows = [Row(**row) for row in csv.DictReader(file)]
    return [row for row in rows if row.triton != triton.__version__]


def write(rows: list[Row], file: Any) -> None:
    """Rows as CSV."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([field.name for field in fields(Row)])
    writer.writerows(astuple(row) for row in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help=f"into {TABLE.name}, the rows of another triton kept")
    if parser.parse_args().write:
        result = sorted([*rows_of_other_versions(), *all_rows()], key=lambda row: row.triton)
        with TABLE.open("w", newline="") as table:
            write(result, table)
    else:
        write(all_rows(), sys.stdout)
