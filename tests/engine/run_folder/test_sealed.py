"""A sealed folder is whole or not there, and tells every damage that a disk can do to its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfda_engine.run_folder.sealed import damage, discard, partial_of, remove_unsealed, seal


def sealed(parent: Path, **files: bytes) -> Path:
    final = parent / "box"
    partial = partial_of(final)
    partial.mkdir(parents=True)
    for name, content in files.items():
        (partial / name).write_bytes(content)
    seal(partial, final)
    return final


def test_manifest_holds_the_hash_of_every_file(tmp_path: Path) -> None:
    box = sealed(tmp_path, a=b"abc", b=b"")
    listed = json.loads((box / "manifest.json").read_text())["files"]
    assert listed == {
        "a": {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()},
        "b": {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()},
    }
    assert damage(box) is None
    assert list(tmp_path.iterdir()) == [box]


def test_files_in_subfolders_are_held_too(tmp_path: Path) -> None:
    box = tmp_path / "box"
    inner = partial_of(box) / "inner"
    inner.mkdir(parents=True)
    (inner / "a").write_bytes(b"abc")
    seal(partial_of(box), box)
    assert damage(box) is None
    (box / "inner" / "a").write_bytes(b"abd")
    assert (damage(box) or "").startswith("inner/a ")


def test_sealing_again_replaces(tmp_path: Path) -> None:
    sealed(tmp_path, a=b"old", b=b"gone")
    box = sealed(tmp_path, a=b"new")
    assert {path.name: path.read_bytes() for path in box.iterdir() if path.name != "manifest.json"} == {"a": b"new"}
    assert damage(box) is None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_or_cut_is_seen(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    box = sealed(tmp_path_factory.mktemp("boxes"), weights=bytes(range(100)), state=b"0123456789")
    path = box / data.draw(st.sampled_from(["weights", "state"]))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path.write_bytes(content)
    what = damage(box)
    assert what is not None
    assert what.startswith(path.name)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_manifest_never_raises_nor_passes_other_files(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    box = sealed(tmp_path_factory.mktemp("boxes"), state=b"0123456789")
    path = box / "manifest.json"
    written = json.loads(path.read_text())
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    if damage(box) is None:  # a flip between blanks: the manifest still says the same
        assert json.loads(path.read_text()) == written


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": 3}', '{"files": {"a": 1}}', '{"files": {"a": {}}}'])
def test_manifest_of_another_form_is_damage(manifest: str, tmp_path: Path) -> None:
    box = sealed(tmp_path, a=b"abc")
    (box / "manifest.json").write_text(manifest)
    assert (damage(box) or "").startswith("manifest.json ")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    box = sealed(tmp_path, a=b"abc")
    (box / "a").unlink()
    assert damage(box) == "a is missing"
    (box / "manifest.json").unlink()
    assert damage(box) == "manifest.json is missing"


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    box = sealed(tmp_path, a=b"abc")
    for name in (".partial-other", ".dropped-box"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
    remove_unsealed(tmp_path)
    assert list(tmp_path.iterdir()) == [box]
    discard(box)
    discard(box)
    assert list(tmp_path.iterdir()) == []
