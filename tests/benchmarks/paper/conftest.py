"""Miniature data sets in their real layout, and the paper's two networks with a handful of channels."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.vgg import make_layers

from sfda_engine.models import ARCHITECTURES
from sfda_engine.models.deeplab import DeepLabV3
from sfda_engine.models.segnet import SegNet, decoder_stage
from tests.engine.data.fabricate import fabricate

command = importlib.import_module("benchmarks.paper.__main__")

VOID = 11
DATA_SETS = ("gta5", "synthia", "cityscapes", "crosscity")
TRIAL = ["--steps", "2", "--source-steps", "2", "--size", "64", "64", "--batch", "2", "--workers", "0"]
RANDOM = ["--backbone", "deeplabv3=null", "--backbone", "segnet=null"]


class Backbone(nn.Module):
    """Three convolutions in place of a ResNet-50, of its stride 8."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 4, 4, 8)
        self.layers = nn.Sequential()
        for inputs, outputs in itertools.pairwise(widths):
            self.layers.extend([nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.layers(images)}


class NarrowDeepLab(DeepLabV3):
    """DeepLabV3's head on a small backbone; its forward pass."""

    def __init__(self, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.backbone = Backbone()
        self.classifier = DeepLabHead(8, num_classes)


class NarrowSegNet(SegNet):
    """SegNet with up to 8 channels; its forward pass."""

    def __init__(self, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.encoder = make_layers([4, "M", 4, "M", 4, "M", 8, "M", 8, "M"], batch_norm=True)
        for layer in self.encoder:
            if isinstance(layer, nn.MaxPool2d):
                layer.return_indices = True
        self.decoder = nn.ModuleList(
            decoder_stage(before, (after,)) for before, after in ((8, 8), (8, 4), (4, 4), (4, 4), (4, 4))
        )
        self.classifier = nn.Conv2d(4, num_classes, 3, padding=1)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gta5/, synthia/, cityscapes/ and crosscity/, two frames a split and city."""
    root = tmp_path_factory.mktemp("data")
    for name in DATA_SETS:
        fabricate(name, root / name, frames=2, size=(64, 32))
    return root


@pytest.fixture(scope="session")
def camvid_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of frames and labels, as CamVid's are shared: day_train/, day_val/, dusk/."""
    root = tmp_path_factory.mktemp("camvid")
    for name, domain in (("day_train", "day"), ("day_val", "day"), ("dusk", "night")):
        fabricate("camvid", root / "raw", frames=3, domain=domain, size=(64, 32))
        (root / name).mkdir()
        (root / "raw" / "train").rename(root / name / "images")
        (root / "raw" / "trainannot").rename(root / name / "labels")
        for path in (root / name / "labels").iterdir():
            Image.open(path).point(lambda value: 255 if value == VOID else value).save(path)
    return root


@pytest.fixture(scope="session")
def paper_words(data_root: Path) -> list[str]:
    """A trial of the domain paper."""
    return ["--data-root", str(data_root), *RANDOM, *TRIAL]


def here(words: list[str]) -> bool:
    """A run of the sweep in this process."""
    return command.main(words) == 0


@contextmanager
def narrowed() -> Iterator[None]:
    """Narrow networks under the paper's names, the sweep's runs in this process, one thread."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "deeplabv3_resnet50", NarrowDeepLab)
        patch.setitem(ARCHITECTURES, "segnet_vgg16", NarrowSegNet)
        patch.setattr(command, "run_apart", here)
        yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def narrow() -> Iterator[None]:
    """The same for one test."""
    with narrowed():
        yield


@pytest.fixture(scope="session")
def swept(paper_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of every table and figure of the domain paper."""
    output = tmp_path_factory.mktemp("swept")
    words = [word for n in range(1, 7) for word in ("--table", str(n))]
    words += [word for n in (6, 7, 8) for word in ("--figure", str(n))]
    with narrowed():
        assert command.main([*words, *paper_words, "--output", str(output)]) == 0
    return output


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn: a picture costs more than a trial run."""
    monkeypatch.setattr(command, "draw_pictures", lambda *arguments: None)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """calls() -> what the sweep has started since; nothing is run, everything succeeds."""
    names: list[str] = []
    monkeypatch.setattr(command, "run_apart", lambda words: bool(names.append(words[words.index("--run") + 1])) or True)
    return lambda: names
