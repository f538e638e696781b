"""The label firewall: what it closes, what it refuses, what it writes down; its proof comes from the kernel."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sfda_engine import adapt
from sfda_engine.adapt import main
from sfda_engine.audit.firewall import LOG, closed_folders, firewall, statement
from sfda_engine.audit.label_places import check_target_place, scored_files
from sfda_engine.config.schema import Config, EvaluateConfig, SourceConfig, TargetConfig
from sfda_engine.data.classes import class_set
from sfda_engine.data.datasets import LAYOUTS, check_label_folder
from sfda_engine.data.published.layout import frames_of
from sfda_engine.errors import FirewallError, UserError
from sfda_engine.exit_codes import exit_code
from sfda_engine.files import append_line
from sfda_engine.pipelines.training import Trainer
from sfda_engine.report.trust import firewall_sentence
from tests.engine.audit.opened_files import Watch
from tests.engine.conftest import launcher
from tests.engine.data.fabricate import fabricate

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify")


@pytest.fixture
def watch() -> Iterator[Callable[..., Watch]]:
    watches: list[Watch] = []

    def start(*folders: Path) -> Watch:
        watches.append(Watch(*folders))
        return watches[-1]

    yield start
    for one in watches:
        one.close()


@pytest.fixture
def walled(night_frames: Path, day_frames: Path) -> Config:
    """Labels beside the target frames, which are scored, and source data."""
    return Config(
        target=TargetConfig(root=str(night_frames)),
        evaluate=EvaluateConfig(root=str(night_frames)),
        source=SourceConfig(root=str(day_frames)),
    )


@on_linux
def test_the_kernel_sees_no_label_opened_before_the_weights_are_final_and_no_source_data(
    tiny_yaml: Path,
    night_frames: Path,
    day_frames: Path,
    tmp_path: Path,
    watch: Callable[..., Watch],
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    """From outside, C code included: inotify on the label folder, the source data and the run folder at once."""
    run, labels = tmp_path / "run", night_frames / "labels"
    run.mkdir()
    kernel = watch(labels, day_frames / "images", day_frames / "labels", run)
    argv = ["--config", str(tiny_yaml), "--run.output", str(run), "--run.steps", "2", "--run.num_workers", "1"]
    argv += ["--evaluate.root", str(night_frames), "--source.root", str(day_frames)]
    process = start("-m", "sfda_engine.adapt", *argv)
    _, printed = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    events = kernel.events()
    of_labels = [at for at, (what, path) in enumerate(events) if what == "opened" and path.parent == labels]
    # the frames' folder of the target is not watched: what is opened in `run` and `labels` is all there is
    assert not [path for what, path in events if day_frames in path.parents]
    assert {events[at][1] for at in of_labels} >= set(labels.iterdir())  # the kernel does see them
    written = {path.name: at for at, (what, path) in enumerate(events) if what == "named"}
    assert max(written["adapted.safetensors"], written["last.safetensors"]) < min(of_labels)
    # and the run's own statement says the same
    told = statement(run)
    assert (told["refused"], told["sessions"], told["unread"]) == ([], 1, 0)
    assert told["ended"]["labels_scored"] == len(list(labels.iterdir()))
    assert [line["step"] for line in told["lifted"]] == [2]
    page = (run / "report.html").read_text()
    assert f"no file was opened in {labels}" in page
    assert "6 label files" in page


@on_linux
def test_the_kernel_sees_what_a_hook_of_python_cannot(
    walled: Config, night_frames: Path, watch: Callable[..., Watch]
) -> None:
    """Why the proof is inotify's: open(2) of the C library passes every audit hook. The document says so."""
    label = next((night_frames / "labels").iterdir())
    kernel = watch(label.parent)
    with firewall(walled) as wall:
        descriptor = ctypes.CDLL(None).open(os.fsencode(label), os.O_RDONLY)
        os.close(descriptor)
    assert wall.refused == []
    assert kernel.events() == [("opened", label)]


@pytest.mark.parametrize("swallowed", [False, True], ids=["raised", "swallowed"])
def test_a_planted_leak_is_refused(
    swallowed: bool,
    tiny_yaml: Path,
    night_frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    quick: None,
) -> None:
    label = next((night_frames / "labels").iterdir())
    honest = Trainer.adapt_on

    def leaking(self: Trainer, *arguments: Any) -> Any:
        try:
            label.read_bytes()
        except Exception:
            if not swallowed:
                raise
        return honest(self, *arguments)

    monkeypatch.setattr(Trainer, "adapt_on", leaking)
    run = tmp_path / "run"
    argv = ["--config", str(tiny_yaml), "--run.output", str(run), "--run.steps", "1"]
    assert exit_code(main, [*argv, "--evaluate.root", str(night_frames)]) == 1
    told = capsys.readouterr().err
    assert f"label firewall: {label} was to be opened (open) although labels are closed until the last step" in told
    assert "Traceback" not in told
    assert not (run / "result.json").exists()
    assert [line["path"] for line in statement(run)["refused"]] == [str(label)]


def test_a_refusal_outlives_a_kill_and_a_resume(
    tiny_yaml: Path, night_frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """The first session leaks, swallows it and dies; the second is honest, and the run's statement is not clean."""
    label = next((night_frames / "labels").iterdir())
    run = tmp_path / "run"
    argv = ["--config", str(tiny_yaml), "--run.output", str(run), "--run.steps", "1", "--run.resume", "true"]

    def leak_and_die(*arguments: Any, **named: Any) -> None:
        with pytest.raises(FirewallError):
            label.read_bytes()
        raise SystemExit(9)

    with monkeypatch.context() as planted:
        planted.setattr("sfda_engine.pipelines.judging.save_weights", leak_and_die)
        with pytest.raises(SystemExit):
            main(argv)
    with (run / LOG).open("a") as log:
        log.write('{"event": "li')  # torn by the kill
    assert main(argv) == 0
    told = statement(run)
    assert (told["sessions"], told["unread"]) == (2, 1)
    assert [line["path"] for line in told["refused"]] == [str(label)]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["firewall"] == told


@pytest.mark.parametrize(
    "reach",
    [
        lambda label, tmp: label.read_bytes(),
        lambda label, tmp: os.open(label, os.O_RDONLY),
        lambda label, tmp: os.listdir(label.parent),
        lambda label, tmp: list(label.parent.rglob("*")),
        lambda label, tmp: os.link(label, tmp / "hard"),
        lambda label, tmp: os.open(bytes(label), os.O_RDONLY),
        lambda label, tmp: Path(os.path.relpath(label)).read_bytes(),
        lambda label, tmp: (tmp / "soft").symlink_to(label.parent) or (tmp / "soft" / label.name).open(),
        lambda label, tmp: __import__("numpy").fromfile(label, dtype="uint8"),
        lambda label, tmp: __import__("PIL.Image").Image.open(label),
        lambda label, tmp: __import__("torch").load(label, weights_only=True),
    ],
    ids=[
        "open",
        "os.open",
        "listdir",
        "rglob",
        "link",
        "bytes",
        "relative",
        "symlink",
        "numpy",
        "Pillow",
        "torch.load",
    ],
)
def test_every_way_of_pythons_is_closed(
    reach: Callable[[Path, Path], Any], walled: Config, night_frames: Path, day_frames: Path, tmp_path: Path
) -> None:
    for folder, what in ((night_frames / "labels", "labels"), (day_frames / "images", "source data")):
        own = tmp_path / what
        own.mkdir()
        file = sorted(folder.iterdir())[0]
        with firewall(walled) as wall, pytest.raises(FirewallError, match=file.parent.name):
            reach(file, own)
        assert [entry["what"] for entry in wall.refused] == [what]


def test_frames_are_open_and_labels_after_the_lift_and_all_after_the_run(
    walled: Config, night_frames: Path, day_frames: Path
) -> None:
    frame, label = (next((night_frames / kind).iterdir()) for kind in ("images", "labels"))
    source = next((day_frames / "labels").iterdir())
    with firewall(walled) as wall:
        frame.read_bytes()
        wall.lift(3)
        label.read_bytes()
        assert wall.scored == {os.path.realpath(label)}
        with pytest.raises(FirewallError, match="source-free"):
            source.read_bytes()
    source.read_bytes()


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_label_folders_of_every_published_layout_are_closed(name: str, tmp_path: Path) -> None:
    """Against the disk: every file that the fabricator wrote is a frame, or closed as a label."""
    layout = LAYOUTS[name]
    fabricate(name, tmp_path, frames=1)
    split = next(iter(layout.labelled))
    target = TargetConfig(dataset=name, root=str(tmp_path), split=split)  # type: ignore[arg-type]
    evaluate = EvaluateConfig(dataset=name, root=str(tmp_path), split=split)  # type: ignore[arg-type]
    closed = closed_folders(Config(target=target, evaluate=evaluate))
    assert {one.what for one in closed} == {"labels"}
    held = {path for path in tmp_path.rglob("*.png") if any(one.holds(os.path.realpath(path)) for one in closed)}
    frames = {path for kind in layout.splits for path in layout.find(tmp_path, kind)}
    if layout.find_labelled is not None:
        frames |= {path for kind in layout.labelled for path in layout.find_labelled(tmp_path, kind)}
    assert held
    assert not held & frames
    others = {path for path in tmp_path.rglob("*") if path.suffix in (".png", ".jpg")} - frames - held
    assert {path for path in others if "train_ref" not in path.parts} == set()  # frames of ACDC that nothing reads
    assert scored_files(evaluate) & held


def test_source_and_target_may_be_splits_of_one_data_set(tmp_path: Path) -> None:
    """Frames of both lie in one folder: the target's are open, the source's are closed."""
    fabricate("gta5", tmp_path, frames=2)
    layout = LAYOUTS["gta5"]
    source, target = layout.find(tmp_path, "train")[0], layout.find(tmp_path, "val")[0]
    config = Config(
        target=TargetConfig(dataset="gta5", root=str(tmp_path), split="val"),
        source=SourceConfig(dataset="gta5", root=str(tmp_path), split="train"),
    )
    with firewall(config):
        target.read_bytes()
        with pytest.raises(FirewallError):
            source.read_bytes()


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("camvid", ("train", "val", "test")),
        ("crosscity", ("Rome", "Rio", "Rio")),
        ("bdd100k", ("train", "train", "val")),
        ("acdc", ("fog/train", "night/train", "night/val")),
    ],
)
def test_frames_to_score_may_be_a_split_of_the_sources_data_set(
    name: str, splits: tuple[str, str, str], tmp_path: Path
) -> None:
    fabricate(name, tmp_path / "data", frames=2)
    layout, root = LAYOUTS[name], str(tmp_path / "data")
    source, target, scored = splits
    config = Config(
        target=TargetConfig(dataset=name, root=root, split=target),
        source=SourceConfig(dataset=name, root=root, split=source),
        evaluate=EvaluateConfig(dataset=name, root=root, split=scored),
    )
    assert config.evaluate is not None
    scored_frame = frames_of(layout, tmp_path / "data", scored, labelled=True)[0]
    with firewall(config) as wall:
        check_label_folder(config.evaluate, class_set(layout.classes).names)
        frames_of(layout, tmp_path / "data", target)[0].read_bytes()
        wall.begin(tmp_path, code={})
        wall.lift(1)
        scored_frame.read_bytes()
        wall.end(1)
    told = statement(tmp_path)
    assert told["refused"] == []
    assert any(one["shared"] for one in told["closed"] if one["what"] == "source data")
    assert "frames of the target" in firewall_sentence({"firewall": told})


def test_what_a_loader_worker_was_refused_and_swallowed_is_raised_at_the_end(walled: Config, tmp_path: Path) -> None:
    with firewall(walled) as wall:
        wall.begin(tmp_path, code={})
        wall.lift(1)
        worker = {"event": "refused", "what": "labels", "path": "/labels/0.png", "by": "open", "process": 0}
        append_line(tmp_path / LOG, json.dumps(worker))  # what the copy of a wall in a forked worker leaves
        with pytest.raises(FirewallError, match=r"/labels/0\.png"):
            wall.lift(1)
        with pytest.raises(FirewallError, match=r"/labels/0\.png"):
            wall.end(1)
        wall.begin(tmp_path, code={})  # a resumed session answers for itself; the log and the report keep the line
        wall.end(1)


def test_without_labels_on_disk_there_is_nothing_to_close() -> None:
    config = Config(target=TargetConfig(dataset="scenes", split="night"))
    assert closed_folders(config) == ()


@pytest.mark.slow
def test_two_processes_keep_one_log(
    tiny_yaml: Path, night_frames: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    run = tmp_path / "run"
    argv = ["-m", "sfda_engine.adapt", "--config", str(tiny_yaml), "--run.output", str(run), "--run.steps", "2"]
    process = start(*launcher(), *argv, "--evaluate.root", str(night_frames))
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    told = statement(run)
    assert (told["sessions"], len(told["lifted"]), told["refused"]) == (1, 1, [])


def test_python_api_raises_it_too(
    tiny: Callable[..., Config], night_frames: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    label = next((night_frames / "labels").iterdir())
    monkeypatch.setattr(Trainer, "run", lambda self: label.read_bytes())
    with pytest.raises(FirewallError, match="labels are closed"):
        adapt(tiny("--target.root", str(night_frames)))
    label.read_bytes()  # and leaves no wall behind


def test_a_target_that_is_called_labels_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for section in (TargetConfig(root=str(tmp_path / "labels")), TargetConfig(root=str(tmp_path), split="labels")):
        caplog.clear()
        check_target_place(section, None)
        assert "looks like a folder of labels" in caplog.text
    caplog.clear()
    check_target_place(TargetConfig(root=str(tmp_path / "labels" / "frames")), None)
    assert caplog.text == ""
    (tmp_path / "link").symlink_to(tmp_path / "labels")
    with pytest.raises(UserError, match="name the folder of the frames"):
        check_target_place(TargetConfig(root=str(tmp_path / "link")), EvaluateConfig(root=str(tmp_path)))
