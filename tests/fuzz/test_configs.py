"""Configurations that nobody meant: YAML, values and command lines. Each ends in exit code 0 or 2."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

from sfda_engine.config.keys import KEYS, SECTIONS
from sfda_engine.config.loader import PACKAGE, load_config, parse_command, to_yaml
from sfda_engine.errors import UserError
from tests.fuzz.conftest import amounts
from tests.fuzz.mutate import hostile, spoiled
from tests.fuzz.trial import run_cases

SHIPPED = sorted((PACKAGE / "recipes").glob("*.yaml"))
WORDS = (
    *("run: {", "&a ", "*a", "<<: *a", "? [*a, *a] : 1", "!!python/name:os.system", "!!binary aGk=", "--- \n", "...\n"),
    *("'", '"', "|\n", ">\n", "- ", ": ", "[", "]", "}", "\t", "\0", "\x85", "\ufeff", "#", "run: ", "steps: ", "null"),
)
LAUGHS = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))


def text_of(value: object) -> str:
    return str(value).encode("utf-8", "replace").decode()


def yaml_text(dice: random.Random) -> bytes:
    """A shipped configuration, spoiled as text, as bytes, or in one of its values."""
    text = dice.choice(SHIPPED).read_text()
    lines = text.splitlines(keepends=True)
    match dice.randrange(6):
        case 0:
            return spoiled(text.encode(), dice, donor=to_yaml(load_config("demo")).encode())
        case 1:
            for _ in range(dice.randrange(1, 4)):
                at = dice.randrange(len(text))
                text = text[:at] + dice.choice(WORDS) + text[at:]
        case 2:
            lines.insert(dice.randrange(len(lines)), dice.choice(lines))
            text = "".join(lines)
        case 3:
            section, _, key = dice.choice(list(KEYS)).partition(".")
            text = f"{section}:\n  {key}: {text_of(hostile(dice))}\n"
        case 4:
            text = "l0: &l0 lol\n" + LAUGHS + dice.choice(("run: *l9\n", "? *l9\n: 1\n", "target: {size: *l9}\n"))
        case 5:
            depth = dice.choice((5, 100, 900, 5000))
            text = dice.choice(("run: ", "target: {size: ", "? ", "")) + dice.choice("[{") * depth
    return text.encode("utf-8", "surrogatepass")


def overrides(dice: random.Random) -> list[str]:
    """Command-line tokens, most of them about keys that exist."""
    tokens = []
    for _ in range(dice.randrange(1, 4)):
        key = dice.choice([*KEYS, *SECTIONS, text_of(hostile(dice))])
        value = text_of(hostile(dice)) if dice.random() < 0.8 else dice.choice(("1", "true", "null"))
        tokens += dice.choice(([f"--{key}", value], [f"--{key}={value}"], [f"--{key}"], [value]))
    return tokens


@amounts(60, 3000)
def test_yaml(count: int, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"

    def case(dice: random.Random) -> None:
        path.write_bytes(yaml_text(dice))
        again = load_config(path)
        path.write_text(to_yaml(again))
        assert load_config(path) == again

    outcomes = run_cases("yaml", case, count, refusals=(UserError,))
    assert outcomes["taken"]
    assert outcomes["UserError"]


@amounts(60, 2500)
def test_command_line(count: int) -> None:
    def case(dice: random.Random) -> None:
        with suppress(SystemExit):  # --help
            parse_command(overrides(dice), "prog", "", "demo")

    outcomes = run_cases("command line", case, count, refusals=(UserError,))
    assert outcomes["taken"]
    assert outcomes["UserError"]
