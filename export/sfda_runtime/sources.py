"""Where frames come from: files, an array, a video, a camera, a synthetic stream. All are RGB uint8 (H, W, 3)."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfda_runtime.errors import InputError, UsageError
from sfda_runtime.pictures import decoding_errors, open_image

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"}
SYNTHETIC = re.compile(r"synthetic:([1-9]\d*)x([1-9]\d*)@([1-9]\d*)")
CAMERA = re.compile(r"camera:(\d+)")


@dataclass(frozen=True)
class Frame:
    """One frame that is not decoded yet, so that one which is dropped costs nothing."""

    name: str
    """Unique in its source, the same in every run: a path below the source without suffix, or a number."""
    read: Callable[[], NDArray[Any]]
    """The picture; InputError where it cannot be decoded."""


@dataclass(frozen=True)
class Source:
    """A stream of frames; `live` where the device decides when the next one comes."""

    frames: Iterator[Frame]
    live: bool = False


def open_source(text: str) -> Source:
    """A folder, a glob, an image, .npy or video file, camera:N, or synthetic:WxH@n (n frames).

    Raises UsageError where there is no such thing, or the package that reads it is missing.
    """
    path = Path(text)
    if match := SYNTHETIC.fullmatch(text):
        width, height, count = map(int, match.groups())
        return Source(synthetic_frames(width, height, count))
    if match := CAMERA.fullmatch(text):
        return Source(_camera_frames(int(match[1])), live=True)
    if path.is_dir():
        return Source(_image_files(path.rglob("*"), text))
    if path.suffix.lower() == ".npy" and path.is_file():
        return Source(_array_frames(path))
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        return Source(_video_frames(path))
    return Source(_image_files([path] if path.is_file() else map(Path, glob.glob(text, recursive=True)), text))


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts frame2 before frame10: runs of digits by their number, and folder by folder."""
    return [
        (1, int(piece), "") if piece.isdigit() else (0, 0, piece)
        for part in path.parts
        for piece in [*filter(None, re.split(r"(\d+)", part)), ""]
    ]


def synthetic_picture(width: int, height: int, number: int) -> NDArray[np.uint8]:
    """Frame `number` of the synthetic stream: colored blocks that move three pixels a frame, the same in every run."""
    blocks = np.random.default_rng(0).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    still = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.roll(still, 3 * number, axis=1)


def synthetic_frames(width: int, height: int, count: int) -> Iterator[Frame]:
    """`count` frames of the synthetic stream."""
    return (Frame(f"{n:06d}", partial(synthetic_picture, width, height, n)) for n in range(count))


def read_image(path: Path) -> NDArray[np.uint8]:
    """One image file as RGB (H, W, 3). InputError where it is damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    return decode_image(content, path)


def decode_image(content: bytes, path: Path) -> NDArray[np.uint8]:
    """PNG or JPEG to RGB: gray and palette are expanded, alpha is dropped, 16 bits become the upper 8.

    The rule of sfda_engine/data/images.py, so that the vehicle sees what adaptation saw. InputError, naming `path`,
    where it is damaged.
    """
    try:
        with open_image(content) as image:
            if image.mode.startswith("I"):
                gray = (np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.stack([gray] * 3, axis=-1)
            return np.asarray(image.convert("RGB"))
    except decoding_errors() as error:
        raise InputError(f"{path} cannot be decoded ({error})") from error


def _image_files(paths: Iterable[Path], text: str) -> Iterator[Frame]:
    files = sorted((p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()), key=natural_key)
    if not files:
        raise UsageError(
            f"no frames at {text}: name a folder, a glob or a file of PNG, JPEG, .npy or video, camera:N, "
            "or synthetic:WxH@n"
        )
    plain = [Path(os.path.abspath(file)) for file in files]  # no "..": names become files of the output
    root = Path(os.path.commonpath([file.parent for file in plain]))
    stems = [file.relative_to(root).with_suffix("").as_posix() for file in plain]
    # a.png beside a.jpg: all names keep their suffix
    names = stems if len(set(stems)) == len(stems) else [file.relative_to(root).as_posix() for file in plain]
    return (Frame(name, partial(read_image, file)) for name, file in zip(names, files, strict=True))


def _array_frames(path: Path) -> Iterator[Frame]:
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy reads the header as Python source, which fails in many ways
        raise UsageError(
            f"{path} cannot be read ({str(error)[:200]}); save frames uint8 (N, H, W, 3) by numpy.save"
        ) from error
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim != 4 or not len(frames):
        raise UsageError(f"{path} holds an array of shape {frames.shape}; frames are uint8 (N, H, W, 3) or (H, W, 3)")
    return (Frame(f"{n:06d}", partial(np.array, frame)) for n, frame in enumerate(frames))


def _video_frames(path: Path) -> Iterator[Frame]:
    """By PyAV, else by OpenCV."""
    av = _optional("av")
    return _numbered(_av_pictures(av, path) if av else _opencv_pictures(_opencv("video"), str(path)), str(path))


def _av_pictures(av: Any, path: Path) -> Iterator[NDArray[np.uint8]]:
    try:
        with av.open(str(path)) as container:
            for picture in container.decode(video=0):
                yield picture.to_ndarray(format="rgb24")
    except (OSError, ValueError, IndexError) as error:  # av.error.FFmpegError derives from one of them
        raise UsageError(f"{path} cannot be decoded ({error})") from error


def _camera_frames(number: int) -> Iterator[Frame]:
    return _numbered(_opencv_pictures(_opencv("camera"), number), f"camera:{number}")


def _numbered(pictures: Iterator[NDArray[np.uint8]], text: str) -> Iterator[Frame]:
    """Decoded pictures as frames; the first is fetched now, so that a source that gives none is said at once."""
    first = next(pictures, None)
    if first is None:
        raise UsageError(f"{text} gives no frame")
    return (Frame(f"{n:06d}", partial(np.asarray, picture)) for n, picture in enumerate(chain([first], pictures)))


def _opencv_pictures(cv2: Any, origin: str | int) -> Iterator[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(origin)
    if not capture.isOpened():
        raise UsageError(f"{'camera ' if isinstance(origin, int) else ''}{origin} cannot be opened")
    try:
        if isinstance(origin, int):
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        while True:
            there, picture = capture.read()
            if not there:
                return
            yield np.ascontiguousarray(picture[..., ::-1])  # OpenCV gives BGR
    finally:
        capture.release()


def _opencv(extra: str) -> ModuleType:
    module = _optional("cv2")
    if module is None:
        packages = "PyAV or OpenCV" if extra == "video" else "OpenCV"
        raise UsageError(f"{extra} needs {packages}: pip install 'sfda-runtime[{extra}]'")
    return module


def _optional(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None
