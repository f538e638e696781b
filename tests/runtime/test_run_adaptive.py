"""`sfda-infer run --adapt`: the state goes on from drive to drive, and a wrong one stops before the first frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda_runtime.infer import main
from sfda_runtime.pictures import read_index_png
from tests.runtime.tiny import picture
from tests.runtime.tiny_adaptive import START_MEAN, statistics_of, write_adaptive_bundle


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Four frames in reddish light, and a black one."""
    folder = tmp_path / "drive"
    folder.mkdir()
    for number in range(4):
        tinted = (picture(number) * [1.0, 0.8, 0.7]).astype(np.uint8)
        Image.fromarray(tinted).save(folder / f"{number}.png")
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / "2black.png")
    return folder


def test_the_state_goes_on_from_drive_to_drive(drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, state = write_adaptive_bundle(tmp_path / "bundle"), tmp_path / "state.npz"
    arguments = ["run", str(bundle), str(drive), "--adapt", "--state", str(state), "--max-bad-share", "0.5"]
    assert main([*arguments, "-o", str(tmp_path / "one"), "--save", "index,entropy"]) == 0
    saved = np.load(state)
    assert saved["updates"] == 4  # the black one is none
    mean = START_MEAN.astype(np.float64)
    for number in range(4):
        frame = np.asarray(Image.open(drive / f"{number}.png"))
        mean += 0.05 * (statistics_of(frame)[0] - mean)
    np.testing.assert_allclose(saved["mean"], mean, rtol=1e-5)
    statuses = [json.loads(line)["status"] for line in (tmp_path / "one" / "frames.jsonl").read_text().splitlines()]
    assert sorted(statuses) == ["bad_input", "ok", "ok", "ok", "ok"]
    assert (tmp_path / "one" / "entropy" / "0.png").exists()
    assert main([*arguments, "-o", str(tmp_path / "two")]) == 0
    assert np.load(state)["updates"] == 8
    first, again = (read_index_png((tmp_path / run / "labels" / "0.png").read_bytes()) for run in ("one", "two"))
    assert (first != again).any()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--state", "s.npz"], 2, "add --adapt"),
        (["--adapt", "--state", "absent/s.npz"], 2, "cannot be written"),
        (["--adapt", "--state", "text"], 3, "damaged"),
        (["--adapt", "--state", "other.npz"], 3, "another model"),
    ],
)
def test_a_wrong_state_stops_before_the_first_frame(
    drive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    said: str,
) -> None:
    bundle = write_adaptive_bundle(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("no state")
    np.savez("other.npz", mean=START_MEAN, var=START_MEAN, updates=np.int64(1), model_sha256=np.str_("0" * 64))
    before = {path: path.read_bytes() for path in (Path("text"), Path("other.npz"))}
    assert main(["run", str(bundle), str(drive), "-o", "out", *options]) == code
    assert said in capsys.readouterr().err
    assert not Path("out").exists()
    assert {path: path.read_bytes() for path in before} == before


def test_a_bundle_without_the_graph_says_so(
    shared_bundle: Path, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(shared_bundle), str(drive), "-o", str(tmp_path / "out"), "--adapt"]) == 2
    assert "has no model_adaptive.onnx" in capsys.readouterr().err
