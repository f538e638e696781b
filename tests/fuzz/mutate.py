"""Spoil bytes, JSON and values, deterministic by the random generator that is given."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
FRAGMENTS = (b"\0", b"\xff\xfe", b"\xc3\x28", b"[" * 3000, b"{" * 50, b'"', b"\x1b[2J", b"../" * 9, b"NaN", b"-1")

NUMBERS: tuple[Any, ...] = (
    *(float("nan"), float("inf"), -float("inf"), -1, 0, -0.0, 1.5, 2**31, 2**63, 2**64, 10**30, 10**400, 1e308, True),
)
TEXTS = (
    *("", " ", "null", "~", "NaN", ".inf", "-.inf", "1e999", "0x10", "1_0", "../../../x", "/dev/zero", "/dev/null"),
    *("a\0b", "\ud800", "é" * 300, "x" * 5000, "&a [*a]", "!!python/object/apply:os.system [x]", "{}", "[]", "[[]]"),
    *(
        "[" * 2000,
        "{a: " * 500,
        "9" * 5000,
        "@file",
        "%s%n",
        "${HOME}",
        "$(id)",
        "\n\n",
        "- a",
        ": :",
        "'",
        '"',
        "\x1b[2J",
    ),
)


def spoiled(content: bytes, dice: random.Random, *, donor: bytes | None = None) -> bytes:
    """One to four faults in `content`: flipped bits, cuts, repeats, splices of `donor`, lying lengths, fragments."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        _spoil(data, dice, donor or content)
    return bytes(data)


def _spoil(data: bytearray, dice: random.Random, donor: bytes) -> None:
    # headers are where the lies matter: half of all faults lie in the first bytes
    end = len(data) if dice.random() < 0.5 else min(len(data), 128)
    at = dice.randrange(end + 1)
    match dice.randrange(8):
        case 0:
            for _ in range(dice.choice((1, 1, 8, 64))):
                if data:
                    data[dice.randrange(max(1, min(end, len(data))))] ^= 1 << dice.randrange(8)
        case 1:
            del data[at:]
        case 2:
            del data[at : at + dice.choice((1, 4, 64, 1000))]
        case 3:
            data[at:at] = data[at : at + dice.choice((1, 8, 200))] * dice.choice((1, 2, 30))
        case 4:
            start = dice.randrange(len(donor) + 1)
            data[at : at + dice.choice((0, 16, 400))] = donor[start : start + dice.choice((4, 16, 400))]
        case 5:
            form = dice.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
            mask = (1 << 8 * struct.calcsize(form)) - 1
            length = struct.pack(form, dice.choice((*LENGTHS, len(data), dice.getrandbits(64))) & mask)
            data[at : at + len(length)] = length
        case 6:
            data[at:at] = dice.choice(FRAGMENTS)
        case 7:
            data[at : at + dice.choice((1, 4, 32))] = dice.randbytes(dice.choice((1, 4, 32)))


def hostile(dice: random.Random) -> Any:
    """A value that JSON may hold and nobody expects."""
    match dice.randrange(6):
        case 0 | 1:
            return dice.choice(NUMBERS)
        case 2 | 3:
            return dice.choice(TEXTS)
        case 4:
            return dice.choice(([], {}, None, [None], [[1, 2], [3]], {"a": {"b": [0]}}, [1e308] * 3, ["x", 1]))
        case _:
            return dice.choice((list(range(1000)), {"": ""}, {"..": 1}, [-1, 2**40], [0, 0], ["../../x"] * 2))


def spoiled_json(value: Any, dice: random.Random) -> Any:
    """`value` with one of its parts exchanged, dropped, doubled or renamed."""
    if not isinstance(value, dict | list) or not value or dice.random() < 0.15:
        return hostile(dice)
    if isinstance(value, list):
        parts, index = list(value), dice.randrange(len(value))
        match dice.randrange(4):
            case 0:
                del parts[index]
            case 1:
                parts.append(parts[index])
            case _:
                parts[index] = spoiled_json(parts[index], dice)
        return parts
    fields, key = dict(value), dice.choice(list(value))
    match dice.randrange(5):
        case 0:
            del fields[key]
        case 1:
            fields[str(hostile(dice))] = fields.pop(key)
        case _:
            fields[key] = spoiled_json(fields[key], dice)
    return fields


def json_bytes(value: Any, dice: random.Random) -> bytes:
    """`value` spoiled as JSON, and a third of the time as bytes too."""
    text = json.dumps(spoiled_json(value, dice) if dice.random() < 0.8 else value)
    if dice.random() < 0.1:
        text = text.replace("{", '{"format": 2, "format": [1], ', 1)
    content = text.encode("utf-8", "surrogatepass")
    return spoiled(content, dice) if dice.random() < 0.33 else content
