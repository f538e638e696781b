"""Small files are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from sfda_engine.errors import StorageError
from sfda_engine.files import write_json, write_text


def test_text_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "one\n")
    write_text(path, "two\n")
    assert path.read_text() == "two\n"
    assert list(path.parent.iterdir()) == [path]


def test_json_reads_back(tmp_path: Path) -> None:
    content = {"miou": {"source": 12.5, "adapted": None}, "names": ["straße", 'a "quote"'], "steps": 3}
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == content


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_no_json_leaves_the_old_file(number: float, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"miou": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"miou": number})
    assert json.loads((tmp_path / "a.json").read_text()) == {"miou": 1.0}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.txt", "old")

    def full(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"a\.txt .*No space left.*--run.resume"):
        write_text(tmp_path / "a.txt", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
