"""`sfda-infer run`: what it writes, how it names it, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfda_runtime import pacing
from sfda_runtime.commands import run
from sfda_runtime.infer import main
from sfda_runtime.pictures import read_index_png
from tests.runtime.tiny import PALETTE, SIZE, broken_output, labels_of, picture

ROOT = Path(__file__).parents[2]


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (output / "frames.jsonl").read_text().splitlines()]


def labels(path: Path) -> Any:
    return read_index_png(path.read_bytes())


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Two folders with frames of equal names, one damaged and one black among them."""
    folder = tmp_path / "drive"
    for number, name in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/10.png", "b/9.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(folder / name)
    (folder / "b" / "3.png").write_bytes((folder / "b" / "1.png").read_bytes()[:500])
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / "b" / "4.png")
    return folder


def test_everything_it_writes(shared_bundle: Path, drive: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["run", str(shared_bundle), str(drive), "-o", str(output), "--save", "index,overlay,entropy"]
    assert main([*arguments, "--max-bad-share", "0.3"]) == 0
    told = lines(output)
    names = ["a/1", "a/2", "b/1", "b/3", "b/4", "b/9", "b/10"]
    assert [line["frame"] for line in told] == names
    assert [line["status"] for line in told] == ["ok", "ok", "ok", "bad_input", "bad_input", "ok", "ok"]
    assert "cannot be decoded" in told[3]["reason"]
    assert "black" in told[4]["reason"]
    for name, seed in (("a/1", 0), ("a/2", 1), ("b/1", 2), ("b/10", 3), ("b/9", 4)):
        np.testing.assert_array_equal(labels(output / "labels" / f"{name}.png"), labels_of(picture(seed)))
    for name in ("b/3", "b/4"):
        assert (labels(output / "labels" / f"{name}.png") == 255).all()
    written = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    expected = {f"{kind}/{name}.png" for kind in ("labels", "overlay", "entropy") for name in names}
    assert written == expected - {"overlay/b/3.png"} | {"frames.jsonl", "summary.json"}
    with Image.open(output / "overlay" / "a" / "1.png") as overlay:
        mixed = 0.5 * picture(0) + 0.5 * np.array(PALETTE)[labels_of(picture(0))]
        np.testing.assert_allclose(np.asarray(overlay), mixed, atol=0.51)


def test_the_summary(shared_bundle: Path, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert main(["run", str(shared_bundle), str(drive), "-o", str(output), "--json", "--max-bad-share", "1"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((output / "summary.json").read_text())
    assert printed["status"] == {"ok": 5, "bad_input": 2}
    assert (printed["frames"], printed["dropped"], printed["bad_share"]) == (7, 0, pytest.approx(2 / 7, abs=1e-4))
    assert printed["latency_ms"]["n"] == 5
    assert printed["provider"] == "CPUExecutionProvider"


@pytest.mark.parametrize(("size", "shape"), [("frame", (70, 90)), ("network", (48, 64)), ("45x35", (35, 45))])
def test_label_size(shared_bundle: Path, tmp_path: Path, size: str, shape: tuple[int, int]) -> None:
    output = tmp_path / "out"
    assert main(["run", str(shared_bundle), "synthetic:90x70@1", "-o", str(output), "--label-size", size]) == 0
    assert labels(output / "labels" / "000000.png").shape == shape


def test_a_source_model_without_manifest_runs(shared_bundle: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone.onnx"
    lone.write_bytes((shared_bundle / "model.onnx").read_bytes())
    assert main(["run", str(lone), "synthetic:64x48@3", "-o", str(tmp_path / "out"), "--max-frames", "2"]) == 0
    assert len(lines(tmp_path / "out")) == 2


def test_hold_writes_the_last_good_labels(shared_bundle: Path, drive: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["run", str(shared_bundle), str(drive), "-o", str(output), "--on-error", "hold", "--max-age", "1"]
    assert main([*arguments, "--max-bad-share", "0.2"]) == 5  # held frames are bad input all the same
    told = lines(output)
    assert [(line["status"], line["fault"], line["age"]) for line in told[3:5]] == [
        ("stale", "bad_input", 1),
        ("bad_input", "bad_input", 0),
    ]
    np.testing.assert_array_equal(labels(output / "labels" / "b" / "3.png"), labels_of(picture(2)))


def test_too_much_bad_input_is_exit_5(shared_bundle: Path, drive: Path, tmp_path: Path) -> None:
    assert main(["run", str(shared_bundle), str(drive), "-o", str(tmp_path / "out"), "--max-bad-share", "0.28"]) == 5
    assert len(lines(tmp_path / "out")) == 7


def test_frozen_frames_are_bad_input(shared_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "still.npy", np.stack([picture(1)] * 6))
    arguments = ["run", str(shared_bundle), str(tmp_path / "still.npy"), "--frozen-after", "4"]
    assert main([*arguments, "-o", str(tmp_path / "out"), "--max-bad-share", "1"]) == 0
    assert [line["status"] for line in lines(tmp_path / "out")] == ["ok"] * 4 + ["bad_input"] * 2


def test_late_frames_are_exit_6_and_keep_their_labels(shared_bundle: Path, tmp_path: Path) -> None:
    arguments = ["run", str(shared_bundle), "synthetic:64x48@3", "--deadline-ms", "1e-6"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 6
    assert {line["status"] for line in lines(tmp_path / "out")} == {"deadline_miss"}
    assert (labels(tmp_path / "out" / "labels" / "000000.png") != 255).all()
    assert main([*arguments, "-o", str(tmp_path / "out2"), "--max-late-share", "1"]) == 0


def test_an_output_that_is_no_class_is_exit_3(shared_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", np.stack([picture(1), broken_output(picture(2))]))
    assert main(["run", str(shared_bundle), str(tmp_path / "frames.npy"), "-o", str(tmp_path / "out")]) == 3
    assert [line["status"] for line in lines(tmp_path / "out")] == ["ok", "model_error"]
    assert (labels(tmp_path / "out" / "labels" / "000001.png") == 255).all()


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 0, 64, 3), np.uint8),
        np.full((2, 48, 64, 3), np.nan, np.float32),
        np.full((2, 48, 64, 1), 9, np.uint8),
        np.full((2, 3, 48, 64), 9, np.uint8),
        np.full((2, 1, 1, 3), 9, np.uint8),
    ],
    ids=["no rows", "float with NaN", "one channel", "channels first", "one pixel"],
)
def test_arrays_that_are_no_frames(shared_bundle: Path, tmp_path: Path, frames: Any) -> None:
    np.save(tmp_path / "frames.npy", frames)
    arguments = ["run", str(shared_bundle), str(tmp_path / "frames.npy"), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--save", "index,overlay,entropy"]) == 5
    assert [line["status"] for line in lines(tmp_path / "out")] == ["bad_input"] * 2
    assert (labels(tmp_path / "out" / "labels" / "000000.png") == 255).all()


def test_paced_frames_are_dropped_and_counted(
    shared_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock on which every look takes 40 ms: at 20 fps some frames cannot be taken."""
    now = iter(np.arange(0, 1e4, 0.04))
    paced = pacing.pace
    monkeypatch.setattr(run, "pace", lambda frames, fps: paced(frames, fps, lambda: float(next(now)), lambda s: None))
    output = tmp_path / "out"
    arguments = ["run", str(shared_bundle), "synthetic:64x48@20", "-o", str(output), "--fps", "20"]
    assert main([*arguments, "--deadline-ms", "60000"]) == 0
    summary, told = json.loads((output / "summary.json").read_text()), lines(output)
    assert 0 < summary["dropped"] == 20 - summary["frames"]
    assert summary["dropped"] == sum(line["dropped"] for line in told)
    assert told[-1]["frame"] == "000019"
    assert len(list((output / "labels").iterdir())) == len(told)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{bundle}", "nowhere", "-o", "out"], 2, "nowhere"),
        (["nowhere", "synthetic:64x48@1", "-o", "out"], 2, "nowhere"),
        (["{bundle}", "synthetic:64x48@1", "-o", "full"], 2, "not empty"),
        (["{bundle}", "synthetic:64x48@1", "-o", "full/file"], 2, "cannot be written"),
        (["{bundle}", "synthetic:64x48@1", "-o", "out", "--save", "index,video"], 2, "not video"),
        (["{bundle}/model.onnx", "synthetic:64x48@1", "-o", "out", "--save", "entropy"], 2, "no entropy"),
        (["{bundle}", "synthetic:64x48@1", "-o", "out", "--providers", "tpu"], 2, "provider tpu"),
        (["{bundle}", "synthetic:64x48@1", "-o", "out", "--sha256", "00"], 3, "not the file"),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing(
    shared_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", *(text.format(bundle=shared_bundle) for text in arguments)]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "options", [["--fps", "0"], ["--max-frames", "0"], ["--max-bad-share", "2"], ["--label-size", "5"]]
)
def test_options_out_of_range_are_usage(shared_bundle: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", str(shared_bundle), "synthetic:64x48@1", "-o", "x", *options])
    assert caught.value.code == 2


def failing(real: Callable[..., Any], after: int) -> Callable[..., Any]:
    """A function that works `after` times; then the disk is full."""
    left = iter([True] * after)

    def call(*arguments: Any) -> Any:
        if not next(left, False):
            raise OSError(28, "No space left on device")
        return real(*arguments)

    return call


def test_a_full_disk_leaves_whole_files(
    shared_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "replace", failing(os.replace, 2))
    assert main(["run", str(shared_bundle), "synthetic:64x48@5", "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "000002.png" in error
    assert sorted(p.name for p in (tmp_path / "out" / "labels").iterdir()) == ["000000.png", "000001.png"]
    assert [line["frame"] for line in lines(tmp_path / "out")] == ["000000", "000001"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output(shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o555)
    try:
        assert main(["run", str(shared_bundle), "synthetic:64x48@1", "-o", str(tmp_path / "out")]) == 2
    finally:
        tmp_path.chmod(0o755)
    assert "(Permission denied)" in capsys.readouterr().err


def test_a_file_system_that_is_read_only(
    shared_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert main(["run", str(shared_bundle), "synthetic:64x48@1", "-o", str(tmp_path / "out")]) == 2
    assert "(Read-only file system)" in capsys.readouterr().err


@pytest.fixture
def endless(shared_bundle: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run in a process of its own, some frames in."""
    output = tmp_path / "out"
    command = [sys.executable, "-m", "sfda_runtime.infer", "run", str(shared_bundle), "synthetic:64x48@1000000"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "export")}
    process = subprocess.Popen(
        [*command, "-o", str(output), "--save", "index,overlay"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # a shell's background job ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while process.poll() is None and not (output / "labels" / "000020.png").exists():
            time.sleep(0.02)
        yield process, output
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_stopped_half_way(endless: tuple[subprocess.Popen[str], Path], sent: signal.Signals, code: int) -> None:
    process, output = endless
    process.send_signal(sent)
    _, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert error == ("interrupted\n" if sent is signal.SIGINT else "")
    told = lines(output)
    assert [line["frame"] for line in told] == [f"{n:06d}" for n in range(len(told))]
    assert len(told) >= 20
    for line in told:  # every frame that is told of has its pictures, whole
        assert labels(output / "labels" / f"{line['frame']}.png").shape == SIZE[::-1]
        with Image.open(output / "overlay" / f"{line['frame']}.png") as overlay:
            overlay.load()
    assert not (output / "summary.json").exists()
