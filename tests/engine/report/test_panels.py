"""Frame strips and synthetic images of a run: which files, of which frames, seen by which model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sfda_engine.config.schema import EvaluateConfig, TargetConfig
from sfda_engine.data.classes import CLASS_SETS
from sfda_engine.data.datasets import open_evaluate, open_target
from sfda_engine.data.images import ImageSize
from sfda_engine.models.preprocess import Normalization
from sfda_engine.models.segmenter import SegmenterOutput
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.report.figures import color_labels
from sfda_engine.report.panels import as_uint8, save_panels, save_synthetic_panels

SCENES = CLASS_SETS["scenes"]
SIZE = ImageSize(32, 32)
INFO = WeightsInfo(
    arch="none",
    num_classes=9,
    class_names=SCENES.names,
    palette=SCENES.palette,
    normalization=Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
)
UNLABELLED = {"frame", "source", "adapted", "entropy", "patches"}


class Halves(nn.Module):
    """Sees `left` in the left half of a frame, surely, and `right` in the right half, at a quarter of the size."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(9))
        self.left, self.right = left, right

    def forward(self, images: Tensor) -> SegmenterOutput:
        assert not self.training
        height, width = images.shape[-2] // 4, images.shape[-1] // 4
        logits = self.weight[None, :, None, None].repeat(len(images), 1, height, width)
        logits[:, self.left, :, : width // 2] += 50.0
        logits[:, self.right, :, width // 2 :] += 0.5
        return SegmenterOutput(logits, logits)


@pytest.fixture
def panels(night_frames: Path, tmp_path: Path) -> Callable[..., dict[str, set[str]]]:
    """panels(labels=..., grid=..., limit=...) writes the strips to tmp_path and gives the cells of each frame."""

    def save(*, labels: bool = True, grid: int = 2, limit: int | None = None) -> dict[str, set[str]]:
        root = str(night_frames)
        target = open_target(TargetConfig(root=root, frames=limit))
        wanted = EvaluateConfig(root=root, frames=limit)
        labelled = open_evaluate(wanted, class_names=SCENES.names, size=SIZE) if labels else None
        networks = Halves(0, 1).train(), INFO, Halves(2, 3).train(), INFO
        save_panels(tmp_path, target, labelled, SIZE, grid, *networks)
        found: dict[str, set[str]] = {}
        for path in (tmp_path / "figures" / "frames").iterdir():
            assert path.suffix == ".png"
            frame, _, cell = path.stem.rpartition("_")
            found.setdefault(frame, set()).add(cell)
        return found

    return save


def cell(folder: Path, name: str) -> np.ndarray:
    with Image.open(folder / "figures" / "frames" / f"{name}.png") as image:
        return np.asarray(image.convert("RGB"))


def test_labelled_frames_have_all_six_cells(panels: Callable[..., dict[str, set[str]]]) -> None:
    assert panels() == {f"{i:02d}_night_{i}": UNLABELLED | {"label"} for i in range(6)}


def test_without_labels_the_target_frames_have_five(panels: Callable[..., dict[str, set[str]]]) -> None:
    assert panels(labels=False) == {f"{i:02d}_night_{i}": UNLABELLED for i in range(6)}


def test_without_patch_ranking_there_are_no_patches(panels: Callable[..., dict[str, set[str]]]) -> None:
    assert all(cells == UNLABELLED - {"patches"} for cells in panels(labels=False, grid=1).values())


def test_one_frame_is_enough(panels: Callable[..., dict[str, set[str]]]) -> None:
    assert panels(limit=1) == {"00_night_0": UNLABELLED | {"label"}}


def test_every_cell_shows_what_it_says(
    panels: Callable[..., dict[str, set[str]]], night_frames: Path, tmp_path: Path
) -> None:
    panels()
    for name, (left, right) in {"source": (0, 1), "adapted": (2, 3)}.items():
        shown = cell(tmp_path, f"00_night_0_{name}")
        assert tuple(shown[5, 5]) == SCENES.palette[left]
        assert tuple(shown[5, -5]) == SCENES.palette[right]
    with Image.open(night_frames / "labels" / "night_0.png") as label:
        expected = color_labels(np.asarray(label), SCENES.palette).convert("RGB")
    np.testing.assert_array_equal(cell(tmp_path, "00_night_0_label"), np.asarray(expected))
    entropy = cell(tmp_path, "00_night_0_entropy").astype(int).sum(2)
    assert entropy[:, :40].max() < 30  # black: sure
    assert entropy[:, -40:].min() > 500  # light: nearly uniform over nine classes


def test_easy_patches_are_those_of_the_frames_that_the_adapted_model_is_surest_of(
    night_frames: Path, tmp_path: Path
) -> None:
    class Brightness(Halves):
        def forward(self, images: Tensor) -> SegmenterOutput:
            logits = images.new_zeros(len(images), 9, 8, 8)
            logits[:, 0] = 10 * images.mean((1, 2, 3))[:, None, None]
            return SegmenterOutput(logits, logits)

    target = open_target(TargetConfig(root=str(night_frames)))
    save_panels(tmp_path, target, None, SIZE, 2, Halves(0, 1), INFO, Brightness(0, 1), INFO)
    brightness = [np.asarray(target.image(index), dtype=np.float64).mean() for index in range(6)]
    for index in range(6):
        frame, patches = (cell(tmp_path, f"{index:02d}_night_{index}_{kind}") for kind in ("frame", "patches"))
        red, green, _ = (patches.astype(float) - frame).mean((0, 1))
        assert (green > red) == (brightness[index] >= sorted(brightness)[3])


def test_synthetic_images_are_stretched_to_the_range_of_a_photograph(tmp_path: Path) -> None:
    synthetic = torch.randn(3, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [0.1, 1.0, 9.0]
    ).view(3, 1, 1, 1)
    save_synthetic_panels(tmp_path, synthetic.requires_grad_(), Halves(4, 5).train(), INFO)
    files = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert files == [f"synthetic_{i:02d}_{kind}.png" for i in range(3) for kind in ("image", "prediction")]
    for index in range(3):
        with Image.open(tmp_path / "figures" / f"synthetic_{index:02d}_image.png") as image:
            pixels = np.asarray(image)
        assert pixels.shape[1] / pixels.shape[0] == pytest.approx(24 / 16, rel=0.02)
        assert np.ptp(pixels) > 200
        with Image.open(tmp_path / "figures" / f"synthetic_{index:02d}_prediction.png") as image:
            seen = np.asarray(image.convert("RGB"))
        assert tuple(seen[3, 3]) == SCENES.palette[4]
        assert tuple(seen[3, -3]) == SCENES.palette[5]


def test_a_flat_synthetic_image_is_no_division_by_zero(tmp_path: Path) -> None:
    save_synthetic_panels(tmp_path, torch.full((1, 3, 16, 16), 2.5), Halves(4, 5), INFO)
    with Image.open(tmp_path / "figures" / "synthetic_00_image.png") as image:
        assert np.asarray(image).max() == 0


def test_pixels_are_rounded_and_clipped() -> None:
    images = torch.tensor([-0.5, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.5]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    np.testing.assert_array_equal(as_uint8(images)[0, 0, :, 0], [0, 0, 0, 1, 255, 255])
