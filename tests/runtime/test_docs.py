"""docs/deploy.md and the runtime agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sfda_runtime import Status
from sfda_runtime.faults import KINDS
from sfda_runtime.infer import EXIT_CODES, build_parser

PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()


def test_statuses_and_exit_codes_are_all_there() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| (?:of|255)", PAGE, re.MULTILINE)) == {status.value for status in Status}
    codes = set(re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE))
    assert set(re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)) == codes
    assert f"of {len(KINDS)} kinds" in PAGE


@pytest.mark.parametrize("command", sorted(set(re.findall(r"sfda-infer [^`\n#]+", PAGE))))
def test_every_command_parses(command: str) -> None:
    build_parser().parse_args(command.split()[1:])


def test_the_python_example_is_real() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    compile(code, "docs/deploy.md", "exec")
    exec(code.split("\n\n")[0])
