"""From YAML and dotted overrides to a Config, and back.

Both sources become one table of dotted key -> text, the later entry winning, and jsonargparse converts that
table by the fields' types: so YAML and the command line accept the same values and fail with the same words.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sfda_engine.config.checks import validate
from sfda_engine.config.keys import KEYS, SECTIONS, describe, shown
from sfda_engine.config.presets import ALIASES, PRESETS
from sfda_engine.config.schema import Config
from sfda_engine.config.yaml_file import Entry, check_key, yaml_entries
from sfda_engine.errors import UserError
from sfda_engine.files import write_text

PACKAGE = Path(__file__).parents[1]
SWITCHES = {"--dry-run": "run.dry_run", "--as-deployed": "evaluate.as_deployed"}
FLAGS = {"-h", "--help", "--print_config", *SWITCHES}
# of jsonargparse, and of the YAML reader within it
MISREAD = (argparse.ArgumentError, yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError, RecursionError)


class _Dumper(yaml.SafeDumper):
    """Tuples as [a, b] on one line."""


_Dumper.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def load_config(config: str | Path | None = None, overrides: Sequence[str] = (), *, default: str = "demo") -> Config:
    """Read a path or a shipped config's bare name, then overrides ("--run.steps", "5" or "--run.steps=5").

    `default` is used where `config` is None, unless a model or frames of the user's own are named: then `own` is.
    Raises UserError on a missing file, an unknown key, a wrong type or a value out of range; never exits.
    """
    entries = list(_override_entries(overrides))
    return _load(_default(entries, default) if config is None else config, entries)


def parse_command(
    argv: Sequence[str] | None,
    prog: str,
    description: str,
    default_config: str,
    own: tuple[tuple[str, str], ...] = (),
) -> Config:
    """The configuration of a command line (None = the process's own): --config, --SECTION.KEY, SWITCHES.

    own: further arguments of the command with their help, which --help shows first; taken out of `argv` before.
    --help and --print_config print and leave with SystemExit(0). Raises UserError as `load_config` does.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(argv):
        _parser(prog, f"{description} Without --config: {default_config}.", own).print_help()
        raise SystemExit(0)
    entries = list(_override_entries(token for token in argv if token not in FLAGS))
    entries += [(key, "true", "the command line") for switch, key in SWITCHES.items() if switch in argv]
    named = [text for key, text, _ in entries if key == "config"]
    entries = [entry for entry in entries if entry[0] != "config"]
    config = _load(named[-1] if named else _default(entries, default_config), entries)
    if "--print_config" in argv:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    return config


def to_yaml(config: Config) -> str:
    """The resolved configuration, every key spelled out, as YAML that `load_config` reads back."""
    sections = asdict(config)
    del sections["name"]
    return yaml.dump(sections, Dumper=_Dumper, sort_keys=False)


def save_config(config: Config, path: str | Path) -> None:
    """Write `to_yaml(config)` to `path`, whole or not at all."""
    write_text(Path(path), to_yaml(config))


def resolve_weights(weights: str | None) -> Path:
    """The file behind `model.weights`; package:NAME is NAME.safetensors as shipped. UserError if absent."""
    if weights is None:
        raise UserError("model.weights is null: name the weights of the source model with --model.weights FILE")
    scheme, _, name = weights.rpartition(":")
    path = PACKAGE / "recipes" / f"{name}.safetensors" if scheme == "package" else Path(weights)
    if scheme == "package" and not path.is_file():
        there = ", ".join(f"package:{file.stem}" for file in sorted((PACKAGE / "recipes").glob("*.safetensors")))
        raise UserError(f"model.weights: no model is shipped as {shown(weights)}; there is {there}")
    if not path.is_file():
        raise UserError(f"model.weights: there is no file {str(path)!r}; give an existing file")
    return path


def require_data(config: Config, *sections: str, dispensable: bool = False) -> None:
    """UserError unless each named section (target, evaluate, source) says where its frames lie.

    dispensable: whether the command could do without section evaluate.
    """
    for name in sections:
        section = getattr(config, name)
        if section is None or (section.dataset != "scenes" and section.root is None):
            what = f"section {name} is null, and this command needs it" if section is None else f"{name}.root is null"
            raise UserError(
                f"{what}: name the folder of the frames with --{name}.root FOLDER, "
                f"or take procedural scenes with --{name}.dataset scenes --{name}.split day"
                + (", or do without labels by --evaluate null" if name == "evaluate" and dispensable else "")
            )


def shipped_configs() -> list[str]:
    """Bare names that `--config` takes, sorted."""
    return sorted(path.stem for path in (PACKAGE / "recipes").glob("*.yaml"))


def _default(entries: Iterable[Entry], default: str) -> str:
    """The shipped configuration of a command that names none: the user's own model or frames inherit nothing."""
    own = {"model.weights", "target.root", "source.root", "evaluate.root"}
    return "own" if any(key in own and text != "null" for key, text, _ in entries) else default


def _implied(entries: Iterable[Entry], file: dict[str, str]) -> Iterator[Entry]:
    """A root on the command line means a folder where the file says scenes, unless a data set is named beside it."""
    entries = list(entries)
    named = {key for key, _, _ in entries}
    for key, text, where in entries:
        section, _, name = key.partition(".")
        scenes = file.get(f"{section}.dataset") == "scenes" and f"{section}.dataset" not in named
        if name == "root" and text != "null" and scenes:
            yield f"{section}.dataset", "folder", where
            if f"{section}.split" not in named:
                yield f"{section}.split", "null", where
        yield key, text, where


def _load(config: str | Path, entries: Iterable[Entry]) -> Config:
    path = _config_path(config)
    table = _table({}, yaml_entries(path))
    table = _table(table, _implied(entries, table))
    loaded = replace(_build(Config, "", _convert(table), table), name=path.stem)
    validate(loaded)
    return loaded


def _table(table: dict[str, str], entries: Iterable[Entry]) -> dict[str, str]:
    """`table` with what the entries say of its keys; the last one wins."""
    for key, text, where in entries:
        check_key(key, where)
        if key == "method.preset":
            text = ALIASES.get(text, text)
        if key not in SECTIONS:
            table = table | {key: text}
        elif text == "null":
            table = {k: v for k, v in table.items() if not k.startswith(f"{key}.")}
        else:
            raise UserError(f"{key}: expected a section of keys in {where}, got {shown(text)}")
    return table


def _config_path(config: str | Path) -> Path:
    shipped = shipped_configs()
    path = PACKAGE / "recipes" / f"{config}.yaml" if str(config) in shipped else Path(config)
    if not path.is_file():
        raise UserError(
            f"--config: there is no file {str(path)!r}; give a path or one of the shipped configs: "
            + ", ".join(shipped)
        )
    return path


def _override_entries(tokens: Iterable[str]) -> Iterator[Entry]:
    tokens = list(tokens)
    where = "the command line"
    while tokens:
        token = tokens.pop(0)
        key, equals, text = token.removeprefix("--").partition("=")
        if not token.startswith("--"):
            named = token in shipped_configs() or Path(token).suffix in (".yaml", ".yml")
            hint = f"; did you mean --config {token}?" if named else ""
            raise UserError(f"unexpected argument {shown(token)}: options are written --section.key VALUE{hint}")
        if key != "config":
            check_key(key, where)
        if not equals:
            if not tokens or tokens[0].startswith("--"):
                expected = describe(KEYS[key].hint) if key in KEYS else "a value"
                raise UserError(f"--{key}: the value is missing; expected {expected}")
            text = tokens.pop(0)
        yield key, text, where


def _convert(table: dict[str, str]) -> dict[str, Any]:
    """Values of all keys: from the table, else from the preset, else the fields' defaults."""
    # Plain text bypasses jsonargparse, which reads a folder called "#1" as a YAML comment, hence as null.
    plain = {key: None if text == "null" else text for key, text in table.items() if KEYS[key].is_text}
    typed = {key: text for key, text in table.items() if key not in plain}
    parser = _parser()
    try:
        parsed = parser.parse_args([f"--{key}={text}" for key, text in typed.items()])
    except MISREAD:
        for key, text in typed.items():
            _convert_one(parser, key, text)
        raise
    values = {key: parsed[key] for key in KEYS} | plain
    preset = {f"method.{key}": value for key, value in PRESETS[values["method.preset"]].items()}
    return values | {key: value for key, value in preset.items() if key not in table}


def _convert_one(parser: argparse.ArgumentParser, key: str, text: str) -> None:
    try:
        parser.parse_args([f"--{key}={text}"])
    except MISREAD as error:
        expected = describe(KEYS[key].hint)
        items = [item.strip() for item in text.split(",")]
        listed = f'; write "[{", ".join(items)}]", in quotes' if expected[0] == "[" != text[:1] and items[1:] else ""
        raise UserError(f"{key}: expected {expected}, got {shown(text)}{listed}") from error


def _build(cls: type, prefix: str, values: dict[str, Any], named: Iterable[str]) -> Any:
    arguments = {}
    for field in fields(cls):
        key = f"{prefix}{field.name}"
        if key in KEYS:
            arguments[field.name] = values[key]
        elif key in SECTIONS:
            section = SECTIONS[key]
            absent = section.optional and not any(name.startswith(f"{key}.") for name in named)
            arguments[field.name] = None if absent else _build(section.cls, f"{key}.", values, named)
    return cls(**arguments)


@cache
def _parser(prog: str | None = None, description: str = "", own: tuple[tuple[str, str], ...] = ()) -> Any:
    from jsonargparse import ArgumentParser  # here, since benchmarks run on machines without it

    words = "".join(f" {name}" for name, _ in own)
    usage = f"{prog}{words} [--config PATH_OR_NAME] [--section.key VALUE ...]"
    parser = ArgumentParser(prog=prog, usage=usage, description=description, exit_on_error=False)
    for name, text in own:
        option, _, value = name.strip("[]").partition(" ")
        shape: dict[str, Any] = {"metavar": value} if value else {"action": "store_true"} if option[0] == "-" else {}
        parser.add_argument(option, help=text, **shape)
    names = ", ".join(shipped_configs())
    parser.add_argument("--config", help=f"YAML file or the bare name of a shipped config: {names}.")
    parser.add_argument("--print_config", action="store_true", help="Print the resolved YAML and exit.")
    parser.add_argument("--dry-run", action="store_true", help="Check everything, train nothing.")
    parser.add_argument("--as-deployed", action="store_true", help="Score also what the vehicle writes.")
    groups = {
        name: parser.add_argument_group(f"{name}{' (optional)' if section.optional else ''}", section.doc)
        for name, section in SECTIONS.items()
    }
    for name, key in KEYS.items():
        group = groups[name.rpartition(".")[0]]
        group.add_argument(f"--{name}", type=key.hint, default=key.default, help=key.doc)
    return parser
