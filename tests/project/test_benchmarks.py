"""The benchmarks' house: what several subjects share knows none of them, and no subject imports another."""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.project.test_imports import ROOT, imports

BENCHMARKS = ROOT / "benchmarks"
FILES = sorted(BENCHMARKS.rglob("*.py"))


def name_of(path: Path) -> str:
    """benchmarks.paper.run; benchmarks.paper for its __init__."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in FILES}


def own_imports(path: Path) -> set[str]:
    """Modules of the benchmarks that a file imports, those inside functions too."""
    found = {f"{module}.{name}" if f"{module}.{name}" in NAMES else module for module, name in imports(path)}
    return {module for module in found if module.split(".")[0] == "benchmarks"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_subject_imports_what_is_shared_and_its_own_folder(path: Path) -> None:
    allowed = {"common", name_of(path).split(".")[1]}
    assert {module.split(".")[1] for module in own_imports(path)} <= allowed


def test_every_import_of_the_benchmarks_is_written_as_one() -> None:
    for path in FILES:
        assert "import_module" not in path.read_text(), path
        assert "__import__" not in path.read_text(), path


def test_no_import_goes_in_a_circle() -> None:
    order = list(TopologicalSorter({name_of(path): own_imports(path) for path in FILES}).static_order())
    assert len(order) > 60
    assert set(order) <= NAMES | {"benchmarks"}
