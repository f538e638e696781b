"""No label of the target is opened before the last adaptation step: watched from outside, by an audit hook."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from sfda_engine.data.datasets import SceneImages
from sfda_engine.data.folder import list_images
from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.data.images import ImageSize
from sfda_engine.data.loaders import TargetFrames, TargetItem
from sfda_engine.data.readers import Images, LabelledImages

# The hook is there before the first import, sees every open() of the process, and cannot be taken away.
WATCH = """
import json, os, sys
opened, done = [], False
def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and arguments and isinstance(arguments[0], (str, bytes)):
        path = os.fsdecode(arguments[0])
        if {"labels", "gtFine"} & set(path.split(os.sep)):
            opened.append((event, path, done))
sys.addaudithook(watch)

from sfda_engine.adapt import main
from sfda_engine.pipelines.training import Trainer
true_run = Trainer.run
def run(self):
    global done
    true_run(self)
    assert self.loop.position.done("adaptation") == self.steps
    done = True
Trainer.run = run
log, *argv = sys.argv[1:]
code = main(argv)
with open(log, "w") as file:
    json.dump(opened, file)
sys.exit(code)
"""


def test_labels_are_opened_after_the_last_step_alone(
    tiny_yaml: Path, night_frames: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    log = tmp_path / "opened.json"
    argv = ["--config", str(tiny_yaml), "--run.output", str(tmp_path / "run"), "--run.steps", "2"]
    process = start("-c", WATCH, str(log), *argv, "--evaluate.root", str(night_frames))
    _, printed = process.communicate(timeout=100)
    assert process.returncode == 0, printed
    opened = json.loads(log.read_text())
    files = {Path(path).name for event, path, after in opened if event == "open" and after}
    assert files == {path.name for path in (night_frames / "labels").iterdir()}  # the hook does see them
    assert [entry for entry in opened if not entry[2]] == []


def test_adaptation_is_handed_nothing_with_a_label() -> None:
    public = {name for name in vars(Images) if not name.startswith("_")}
    assert public == {"name", "image"}
    assert {name for name in vars(LabelledImages) if not name.startswith("_")} == {"label"}
    assert set(TargetItem.__annotations__) == {"image", "name"}
    for reader in (FrameFiles, SceneImages):
        assert not hasattr(reader, "label")


def test_target_frames_read_no_label_even_where_there_is_one(night_frames: Path) -> None:
    class Watched(FrameFiles):
        def label(self, index: int) -> None:
            raise AssertionError("a label was read")

    frames = TargetFrames(Watched(list_images(night_frames)), size=ImageSize(32, 32), flip=True, seed=0)
    assert set(frames[(0, 0)]) == {"image", "name"}
