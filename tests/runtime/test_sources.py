"""Sources: order, names that are stable and unique, decoding rules, errors that name the extra."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfda_runtime import InputError, UsageError
from sfda_runtime.sources import natural_key, open_source, read_image
from tests.runtime.tiny import picture


def write(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path)
    return path


def names(text: object) -> list[str]:
    return [frame.name for frame in open_source(str(text)).frames]


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    for name in ("f10.png", "f2.png", "f1.jpg", "notes.txt.gz"):
        write(tmp_path / name) if name[-3:] in ("png", "jpg") else (tmp_path / name).write_text("")
    assert names(tmp_path) == ["f1", "f2", "f10"]


def test_natural_order_is_folder_by_folder() -> None:
    paths = ["b/1", "a10/1", "a2/20", "a2/3", "a2/c", "a/9"]
    assert sorted(paths, key=lambda p: natural_key(Path(p))) == ["a/9", "a2/c", "a2/3", "a2/20", "a10/1", "b/1"]


def test_equal_stems_do_not_collide(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "b/1.jpg", "b/2.png"):
        write(tmp_path / name)
    assert names(tmp_path) == ["a/1.png", "b/1.jpg", "b/1.png", "b/2.png"]


def test_names_do_not_depend_on_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "drive" / "a" / "1.png")
    write(tmp_path / "drive" / "b" / "1.png")
    absolute = names(tmp_path / "drive" / "*" / "*.png")
    monkeypatch.chdir(tmp_path)
    assert absolute == names("drive/*/*.png") == names("drive") == ["a/1", "b/1"]


def test_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "one.png", 3)
    (frame,) = open_source(str(path)).frames
    assert frame.name == "one"
    np.testing.assert_array_equal(frame.read(), picture(3))


def test_a_file_name_with_glob_characters(tmp_path: Path) -> None:
    assert names(write(tmp_path / "left[0].png")) == ["left[0]"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nowhere",
        "*.png",
        "synthetic:64x48",
        "synthetic:64x0@1",
        "synthetic:64x48@0",
        "camera:x",
        "film.mp4",
        "a.npy",
    ],
)
def test_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no frames at"):
        open_source(text)


def test_an_array_file(tmp_path: Path) -> None:
    stack = np.stack([picture(n) for n in range(3)])
    np.save(tmp_path / "many.npy", stack)
    np.save(tmp_path / "one.npy", stack[1])
    many, one = (list(open_source(str(tmp_path / f"{name}.npy")).frames) for name in ("many", "one"))
    assert [frame.name for frame in many] == ["000000", "000001", "000002"]
    np.testing.assert_array_equal(many[2].read(), stack[2])
    np.testing.assert_array_equal(one[0].read(), stack[1])


def test_array_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros(5))
    np.save(tmp_path / "none.npy", np.zeros((0, 48, 64, 3), np.uint8))
    for name in ("text", "objects", "flat", "none"):
        with pytest.raises(UsageError, match=name):
            open_source(str(tmp_path / f"{name}.npy"))


def test_the_synthetic_stream_moves_and_repeats() -> None:
    first, again = ([f.read() for f in open_source("synthetic:70x50@3").frames] for _ in range(2))
    assert [f.shape for f in first] == [(50, 70, 3)] * 3
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    np.testing.assert_array_equal(first[1][:, 3:], first[0][:, :-3])
    assert (first[1] != first[0]).any()


def test_images_are_decoded_by_the_engine_s_rule(tmp_path: Path) -> None:
    from sfda_engine.data.images import decode_rgb

    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    pictures = {
        "rgb": Image.fromarray(picture(0)),
        "gray": Image.fromarray(picture(0)[..., 0]),
        "alpha": Image.fromarray(np.dstack([picture(0), picture(1)[..., 0]])),
        "palette": Image.fromarray(picture(0)).quantize(16),
        "deep": Image.fromarray(deep),
    }
    for name, image in pictures.items():
        path = tmp_path / f"{name}.png"
        image.save(path)
        found = read_image(path)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, np.asarray(decode_rgb(path)), err_msg=name)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_damaged_images_are_bad_input(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "broken.jpg")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    (frame,) = open_source(str(path)).frames
    with pytest.raises(InputError, match=r"broken\.jpg"):
        frame.read()


def test_a_file_that_vanishes_is_bad_input(tmp_path: Path) -> None:
    path = write(tmp_path / "gone.png")
    (frame,) = open_source(str(path)).frames
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        frame.read()


def test_missing_packages_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("av", "cv2"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "film.mp4").write_bytes(b"")
    with pytest.raises(UsageError, match=r"sfda-runtime\[video\]"):
        open_source(str(tmp_path / "film.mp4"))
    with pytest.raises(UsageError, match=r"sfda-runtime\[camera\]"):
        open_source("camera:0")


class Capture:
    """OpenCV's side of a camera: two pictures, blue green red, then nothing."""

    def __init__(self, origin: Any) -> None:
        self.left = 2 if origin == 0 else 0
        self.settings: dict[int, int] = {}

    def isOpened(self) -> bool:
        return bool(self.left)

    def set(self, key: int, value: int) -> None:
        self.settings[key] = value

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        return self.left >= 0, picture(max(self.left, 0))[..., ::-1]

    def release(self) -> None:
        self.left = 0


def test_a_camera_by_opencv_gives_rgb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=Capture, CAP_PROP_BUFFERSIZE=38))
    source = open_source("camera:0")
    assert source.live
    np.testing.assert_array_equal([frame.read() for frame in source.frames], [picture(1), picture(0)])
    with pytest.raises(UsageError, match="camera 7"):
        open_source("camera:7")


def test_a_video_by_pyav(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed (extra: video)")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in (60, 180):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = [frame.read() for frame in open_source(str(path)).frames]
    assert [s.shape for s in shown] == [(48, 64, 3)] * 2
    assert [abs(float(s.mean()) - v) < 4 for s, v in zip(shown, (60, 180), strict=True)] == [True, True]
    os.truncate(path, 10)
    with pytest.raises(UsageError, match="film"):
        open_source(str(path))
