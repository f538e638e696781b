"""The map of the code holds: imports point upwards only, and target labels have one reader."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest
from accelerate import Accelerator
from torch import nn

import sfda_engine
from benchmarks.common.methods import PEERS
from benchmarks.common.methods.source_driven import SOURCE_DRIVEN
from benchmarks.common.methods.source_driven.source import LabelledSource
from benchmarks.common.methods.target import Target
from sfda_engine.data.images import ImageSize
from sfda_engine.data.readers import Images
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.weights import WeightsInfo

ROOT = Path(__file__).parents[2]
ENGINE, KERNELS = ROOT / "sfda_engine", ROOT / "kernels" / "sfda_kernels"
EXPORT, RUNTIME = ROOT / "export" / "sfda_export", ROOT / "export" / "sfda_runtime"
METHODS = ROOT / "benchmarks" / "common" / "methods"


def reading_order() -> dict[str, int]:
    """Rank of every part of the engine, from the map in its docstring: name(s), two blanks or more, what it is."""
    lines = [line.strip() for line in (sfda_engine.__doc__ or "").splitlines() if line.startswith("    ")]
    parts = [re.split(r" {2,}", line)[0].split(", ") for line in lines]
    return {name: rank for rank, names in enumerate(parts) for name in names}


RANK = reading_order()
ANYWHERE = {"exit_codes"}  # how a command ends: every module that is a command closes with it
# Config objects stop at the pipelines; below, only what opens or guards what a section names may read one.
CONFIG_READERS = {
    "data/datasets",
    "audit/label_places",
    "audit/firewall",
    "audit/manifest",
    "audit/certificate",
    "run_folder/resume",
}
LABELLED = {
    "open_evaluate",
    "open_source",
    "FolderLabelled",
    "SceneLabelled",
    "PairedFiles",
    "Pair",
    "pairs_of",
    "pair_of",
}
LABEL_READERS = {
    "pipelines/evaluation",
    "pipelines/scoring",
    "pipelines/source_training",
    "pipelines/reporting",
    "data/datasets",
    "data/frame_files",
    "data/check",
    "data/preflight",
}


def modules(package: Path) -> list[Path]:
    return sorted(path for path in package.rglob("*.py") if path != ENGINE / "__init__.py")


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import in a file, those inside functions too; name is "" for `import module`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def at_import(path: Path) -> Iterator[tuple[str, str]]:
    """`imports` that run when the module is imported."""
    for node in _outside_functions(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def unit(dotted: str) -> str:
    """The part of the engine that a module belongs to: sfda_engine.data.folder -> data."""
    return dotted.split(".")[1]


def name_of(path: Path) -> str:
    return path.relative_to(ENGINE).with_suffix("").as_posix()


@pytest.mark.parametrize("path", modules(ENGINE), ids=name_of)
def test_imports_point_upwards(path: Path) -> None:
    own = name_of(path).split("/")[0]
    for module, _ in imports(path):
        if module.startswith("sfda_engine.") and unit(module) not in ANYWHERE:
            assert RANK[unit(module)] <= RANK[own], f"{own} imports {module}, which comes after it"


def test_no_module_imports_itself_in_a_circle() -> None:
    """Importing each module in a process that has seen no other would be the proof; the graph is the cheaper one."""
    graph = {dotted(path): {m for m, _ in at_import(path) if m.startswith("sfda_engine.")} for path in modules(ENGINE)}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"{' -> '.join([*way, module])}"
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_every_part_is_in_the_map() -> None:
    assert {name_of(path).split("/")[0] for path in modules(ENGINE)} | {"recipes"} == set(RANK)


def test_configuration_stops_at_the_pipelines() -> None:
    below = [path for path in modules(ENGINE) if RANK[name_of(path).split("/")[0]] < RANK["pipelines"]]
    readers = {
        name_of(path)
        for path in below
        if name_of(path).split("/")[0] != "config"
        and any(module.startswith("sfda_engine.config") for module, _ in imports(path))
    }
    assert readers == CONFIG_READERS


def test_kernels_know_nothing_of_the_engine() -> None:
    assert modules(KERNELS)
    for path in modules(KERNELS):
        assert not [module for module, _ in imports(path) if module.split(".")[0].startswith("sfda_engine")]


@pytest.mark.parametrize("package", [ENGINE, KERNELS], ids=lambda package: package.name)
def test_training_knows_nothing_of_deployment(package: Path) -> None:
    for path in modules(package):
        assert not {module.split(".")[0] for module, _ in imports(path)} & {"sfda_export", "sfda_runtime"}, path


def test_the_vehicle_needs_numpy_and_onnxruntime_alone() -> None:
    optional = {"av", "cv2"}  # for video and cameras; imported where they are used
    allowed = {*sys.stdlib_module_names, "numpy", "onnxruntime", "PIL", "sfda_runtime"}
    assert modules(RUNTIME)
    for path in modules(RUNTIME):
        assert {module.split(".")[0] for module, _ in imports(path)} <= allowed | optional, path
        at_import = {alias for node in _outside_functions(ast.parse(path.read_text())) for alias in _packages(node)}
        assert not at_import & optional, path


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported; type-checking blocks count as functions do."""
    for child in ast.iter_child_nodes(node):
        checking = isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
        if not checking and not isinstance(child, (ast.FunctionDef, ast.Lambda)):
            yield child
            yield from _outside_functions(child)


def _packages(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()


def test_labelled_data_has_few_readers() -> None:
    readers = {name_of(path) for path in modules(ENGINE) if {name for _, name in imports(path)} & LABELLED}
    assert readers <= LABEL_READERS
    assert {"pipelines/scoring", "pipelines/source_training"} <= readers


@pytest.mark.parametrize(
    "part",
    [
        "losses",
        "views",
        "judge",
        "method",
        "training",
        "run_folder",
        "pipelines/training",
        "pipelines/preparation",
        "pipelines/judging",
        "pipelines/cost",
    ],
)
def test_adaptation_has_no_word_for_labels(part: str) -> None:
    for path in modules(ENGINE):
        if name_of(path) == part or name_of(path).split("/")[0] == part:
            names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
            names |= {name for _, name in imports(path)}
            assert not names & (LABELLED | {"LabelledImages", "LabelledItem", "EvaluationFrames"})
            assert "TrainingFrames" not in names or name_of(path) == "method/self_training"  # over pseudo-labels


def test_methods_without_source_data_have_no_way_to_it_nor_to_labels() -> None:
    """`run` scores when a method is done; beside it and `domains`, nothing in the folder may open any."""
    shell = {"run", "domains"}
    closed = {"sfda_engine.data.datasets", "sfda_engine.data.scenes.render", "sfda_engine.data.folder"}
    closed |= {
        "sfda_engine.pipelines.scoring",
        "sfda_engine.pipelines.source_training",
        *(f"benchmarks.common.methods.{name}" for name in shell),
    }
    words = LABELLED | {"LabelledImages", "LabelledItem", "EvaluationFrames", "EvaluateConfig", "SourceConfig"}
    methods = [path for path in modules(METHODS) if path.stem not in shell and path.parent == METHODS]
    assert len(methods) > 10
    for path in methods:
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        found = {(module, name) for module, name in imports(path)}
        assert not (names | {name for _, name in found}) & words, path
        assert {name for module, name in found if module in closed} <= {"IGNORE"}, path
        assert "TrainingFrames" not in names or path.stem == "target", path  # there, over pseudo-labels alone
        assert not {pair for pair in found if "source_driven" in " ".join(pair)}, path


def test_source_driven_methods_are_given_source_data_and_open_none() -> None:
    for path in modules(METHODS / "source_driven"):
        assert not {name for _, name in imports(path)} & LABELLED, path


def test_methods_without_source_data_are_so_by_type() -> None:
    assert get_type_hints(Target) == {
        "images": Images,  # no way from here to a label
        "preprocess": Preprocess,
        "info": WeightsInfo,
        "weights": str,  # the source network's file, not its data
        "size": ImageSize,
        "batch_size": int,
        "steps": int,
        "seed": int,
        "accelerator": Accelerator,
        "num_workers": int,
    }
    for method in PEERS.values():
        assert get_type_hints(method) == {"network": nn.Module, "target": Target, "return": Iterator[nn.Module]}, method
    for driven in SOURCE_DRIVEN.values():
        hints = {"network": nn.Module, "target": Target, "labelled": LabelledSource, "return": Iterator[nn.Module]}
        assert get_type_hints(driven) == hints, driven


def test_files_are_short() -> None:
    ours = [path for package in (ENGINE, KERNELS, EXPORT, RUNTIME, ROOT / "benchmarks") for path in modules(package)]
    lengths = {path: len(path.read_text().splitlines()) for path in ours}
    assert not {path: length for path, length in lengths.items() if length > 350}
