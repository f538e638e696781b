"""What the README says can be typed: every command parses, every key exists, the Python compiles."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import sfda_engine
from sfda_engine.cli import COMMANDS
from sfda_engine.config.keys import KEYS, SECTIONS
from sfda_engine.config.loader import load_config, to_yaml
from sfda_engine.models import ARCHITECTURES
from sfda_runtime.infer import build_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BY_ARGPARSE = re.compile(
    r"sfda-infer |sfda (?:inspect|certify) |python -m (benchmarks|sfda_export|sfda_engine\.data)\."
)
ENGINE_COMMAND = re.compile(r"(?:accelerate launch (?:--\S+ \S+ )*|python )-m (sfda_engine\.\w+)(.*)")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def command_lines() -> Iterator[str]:
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(("accelerate launch", "python -m", "sfda ", "sfda-infer ")):
                yield line.partition(" # ")[0].strip()


@pytest.fixture
def readers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader would stand: the YAML of the README is my_city.yaml, a run of the demo is in runs/x."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_city.yaml").write_text(blocks("yaml")[0])
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "config.yaml").write_text(to_yaml(load_config("demo")))
    return tmp_path


@pytest.mark.parametrize("line", [line for line in command_lines() if BY_ARGPARSE.match(line)])
def test_command_of_argparse_parses(line: str, readers_folder: Path) -> None:
    if line.startswith("sfda-infer "):
        build_parser().parse_args(shlex.split(line)[1:])
        return
    words = shlex.split(line)
    name, *argv = words[2:] if line.startswith("python") else [COMMANDS[words[1]][0], *words[2:]]
    module = import_module(name)
    if hasattr(module, "__path__"):
        module = import_module(f"{name}.__main__")
    with pytest.raises(SystemExit) as stop:
        module.main([*argv, "--help"])
    assert stop.value.code == 0


@pytest.mark.parametrize("line", [line for line in command_lines() if not BY_ARGPARSE.match(line)])
def test_command_parses(line: str, readers_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matched = ENGINE_COMMAND.fullmatch(line)
    if matched is not None:
        module, argv = matched[1], shlex.split(matched[2])
    else:
        command, *argv = shlex.split(line.removeprefix("sfda "))
        module = f"sfda_engine.{command.replace('-', '_')}"
    with pytest.raises(SystemExit) as stop:
        import_module(module).main([*argv, "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for option, value in pairwise(argv):
        if option.startswith("--") and option != "--config":
            section, key = option.removeprefix("--").split(".")
            assert str(printed[section][key]) == value


def test_there_are_commands_to_check() -> None:
    configured = [line for line in command_lines() if not BY_ARGPARSE.match(line)]
    named = {matched[1] for line in configured if (matched := ENGINE_COMMAND.fullmatch(line))}
    assert named == {"sfda_engine.adapt", "sfda_engine.train_source", "sfda_engine.evaluate"}
    assert {line.split()[2] if line.startswith("python") else line.split()[0] for line in command_lines()} > {
        *("sfda-infer", "sfda_export.to_onnx", "sfda_engine.data.check"),
        *("benchmarks.attention", "benchmarks.patch_entropy", "benchmarks.adapt_step"),
    }


def test_first_commands_are_the_two_make_targets() -> None:
    assert [line.split("#")[0].strip() for line in blocks("bash")[0].splitlines()] == ["make demo", "make test"]
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test"} <= targets


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_target_sets_itself_up(target: str, tmp_path: Path) -> None:
    dry = subprocess.run(
        ["make", "-n", target, f"VENV={tmp_path / 'venv'}"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert dry.returncode == 0, dry.stderr
    assert "-m venv" in dry.stdout
    assert "pip install" in dry.stdout
    assert ("sfda_engine.adapt" if target == "demo" else "pytest") in dry.stdout


def test_keys_exist() -> None:
    sections = "|".join(section for section in SECTIONS if "." not in section)
    mentioned = set(re.findall(rf"`(?:--)?((?:{sections})\.[a-z_]+)", README))
    assert len(mentioned) > 3
    files = {"result.json", "config.yaml"}
    assert mentioned - files <= KEYS.keys() | SECTIONS.keys()


def test_shipped_names_exist() -> None:
    for name in ("demo", "demo_source", "camvid_source", "camvid_day_to_dusk"):
        assert f"`{name}`" in README
        load_config(name)
    assert all(f"`{arch}`" in README for arch in ARCHITECTURES)


def test_python_compiles_and_imports_what_there_is() -> None:
    assert blocks("python")
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "sfda_engine":
                assert all(alias.name in sfda_engine.__all__ for alias in node.names)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "load_config":
                load_config(*[ast.literal_eval(argument) for argument in node.args])


def test_files_it_links_to_are_there() -> None:
    links = re.findall(r"\]\(((?!http|#)[^)]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link.partition("#")[0]).exists()]
