"""The distribution: its commands, its version, and the data that it must carry."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from sfda_engine import cli
from sfda_engine.report.result import versions

tomllib = pytest.importorskip("tomllib", reason="part of Python since 3.11")
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_version_is_the_one_of_the_project() -> None:
    assert version("sfda-engine") == PROJECT["project"]["version"] == versions()["sfda-engine"]
    assert f"{PROJECT['project']['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_console_script_is_the_shell() -> None:
    (script,) = entry_points(group="console_scripts", name="sfda")
    assert script.load() is cli.main


def test_every_command_of_the_shell_has_a_main() -> None:
    for module, _ in cli.COMMANDS.values():
        assert callable(import_module(module).main)


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from sfda_engine.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: sfda COMMAND")


@pytest.mark.parametrize("name", ["demo", "demo_source", "camvid_source", "camvid_day_to_dusk"])
def test_configs_are_package_data(name: str) -> None:
    text = (files("sfda_engine") / "recipes" / f"{name}.yaml").read_text()
    assert isinstance(yaml.safe_load(text), dict)
    first = text.splitlines()[0]
    assert first.startswith("# ")
    assert "-m sfda_engine." in first  # the command that runs it


def test_report_template_and_type_marker_are_package_data() -> None:
    assert (files("sfda_engine") / "report" / "report.html.j2").is_file()
    assert (files("sfda_engine") / "py.typed").is_file()
    assert (files("sfda_kernels") / "py.typed").is_file()


def test_whatever_is_no_python_is_declared() -> None:
    """A data file that no pattern of package-data matches is there in the checkout and missing in a wheel."""
    for package, home in {"sfda_engine": ROOT / "sfda_engine", "sfda_kernels": ROOT / "kernels/sfda_kernels"}.items():
        patterns = PROJECT["tool"]["setuptools"]["package-data"][package]
        for path in home.rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                name = path.relative_to(home).as_posix()
                assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


def test_assets_stay_small() -> None:
    assets = list((ROOT / "sfda_engine" / "recipes").glob("*.safetensors"))
    assert all(path.stat().st_size <= 3_000_000 for path in assets)
