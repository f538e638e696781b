"""Weights files that nobody trained: safetensors with lying headers and descriptions, torch files with code."""

from __future__ import annotations

import io
import json
import random
import struct
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from sfda_engine.errors import UserError
from sfda_engine.models import build_segmenter
from sfda_engine.models.weights import METADATA_KEY, WeightsInfo, build_from_weights
from tests.fuzz.conftest import amounts
from tests.fuzz.mutate import hostile, json_bytes, spoiled, spoiled_json
from tests.fuzz.trial import run_cases

DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "U8", "BOOL", "F4", "", "X")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return build_segmenter("streetnet", 3, None).state_dict()


def with_header(content: bytes, dice: random.Random) -> bytes:
    """A safetensors file with a header that lies: lengths, offsets, shapes, types, the description."""
    (length,) = struct.unpack("<Q", content[:8])
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    match dice.randrange(5):
        case 0:
            text = json_bytes(json.loads(header["__metadata__"][METADATA_KEY]), dice).decode("utf-8", "replace")
            header["__metadata__"][METADATA_KEY] = text
        case 1:
            header = spoiled_json(header, dice)
        case 2:
            entry = header[dice.choice([key for key in header if key != "__metadata__"])]
            field = dice.choice(list(entry))
            entry[field] = dice.choice(DTYPES) if field == "dtype" else spoiled_json(entry[field], dice)
        case 3:
            header["__metadata__"] = spoiled_json(header["__metadata__"], dice)
        case 4:
            header[str(hostile(dice))] = header.pop(dice.choice(list(header)))
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    lie = dice.choice((0, len(text) + 1, 2**27, 2**63, 2**64 - 1)) if dice.random() < 0.1 else len(text)
    return struct.pack("<Q", lie) + text + rest


@amounts(60, 1500)
def test_safetensors(count: int, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "w.safetensors"
    info = WeightsInfo(arch="streetnet", num_classes=3, class_names=("a", "b", "c"), palette=((1, 2, 3),) * 3)
    whole = save(state, metadata={METADATA_KEY: json.dumps(asdict(info))})

    def case(dice: random.Random) -> None:
        path.write_bytes(spoiled(whole, dice) if dice.random() < 0.4 else with_header(whole, dice))
        build_from_weights(path)

    outcomes = run_cases("safetensors", case, count, refusals=(UserError,))
    assert outcomes["taken"]
    assert outcomes["UserError"]


class Code:
    """What a pickle must never run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (str(self.path),)


@amounts(60, 1500)
def test_torch_files(count: int, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path, ran = tmp_path / "w.pth", tmp_path / "ran"
    contents = [state, {"state_dict": state}, {"x": Code(ran)}, [1], {"a": 1}, {1: state}, torch.zeros(3), "x" * 9]
    files = []
    for content in contents:
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            files.append(file.getvalue())

    def case(dice: random.Random) -> None:
        path.write_bytes(spoiled(dice.choice(files), dice, donor=dice.choice(files)))
        build_from_weights(path, "streetnet", 3)

    outcomes = run_cases("torch files", case, count, refusals=(UserError,))
    assert outcomes["UserError"]
    assert not ran.exists()
