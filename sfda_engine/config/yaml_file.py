"""A YAML file as entries: dotted key, text of its value, and the line it stands on.

The texts are not converted here: the loader does that for the file and for the command line alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from sfda_engine.config.keys import KEYS, SECTIONS, describe, shown, suggest
from sfda_engine.errors import UserError

LARGEST = 1 << 20
"""Bytes of a configuration; the shipped ones have about a thousand."""
Entry = tuple[str, str, str]  # dotted key, text of its value, where it was found


def yaml_entries(path: Path) -> Iterator[Entry]:
    """The entries of a file in its order. Raises UserError where it cannot be read or is no mapping of known keys."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} has more than {LARGEST} bytes: that is no configuration; give a YAML file")
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply: expected sections, each with its keys") from error
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: expected sections ({', '.join(SECTIONS)}), each with its keys")
    yield from _node_entries(root, "", path)


def _node_entries(mapping: yaml.MappingNode, prefix: str, path: Path) -> Iterator[Entry]:
    seen: set[str] = set()
    for key_node, value in mapping.value:
        where = f"{path}, line {key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):  # its text could be exponentially long
            raise UserError(f"expected the name of a key in {where}, got a mapping or list")
        key = f"{prefix}{key_node.value}"
        check_key(key, where)
        if key in seen:
            raise UserError(f"{key}: given twice in {where}; keep one")
        seen.add(key)
        if isinstance(value, yaml.MappingNode) and key in SECTIONS:
            yield from _node_entries(value, f"{key}.", path)
        else:
            yield key, _text(value, key, where), where


def _text(node: yaml.Node, key: str, where: str) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "null" if node.tag == "tag:yaml.org,2002:null" else str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        # A quoted item stays quoted: "no" and "a, b" are strings.
        items = (json.dumps(item.value, ensure_ascii=False) if item.style else item.value for item in node.value)
        return f"[{', '.join(items)}]"
    raise UserError(f"{key}: expected {describe(KEYS[key].hint)} in {where}, got a nested mapping or list")


def check_key(key: str, where: str) -> None:
    """Raise UserError, with the nearest names, if no key or section is called `key`."""
    if key not in KEYS and key not in SECTIONS:
        raise UserError(f"unknown key {shown(key)} in {where}; {suggest(key)}")
