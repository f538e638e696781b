"""Planted faults are named, right declarations pass: on all procedural domains, all architectures, and by `adapt`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from sfda_engine import adapt
from sfda_engine.config.checks import SCENE_DOMAINS
from sfda_engine.config.loader import load_config, resolve_weights
from sfda_engine.config.schema import Config, ModelConfig
from sfda_engine.data.datasets import SceneImages
from sfda_engine.data.folder import list_images
from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.data.frame_sample import read_sample
from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.inspection.convention import reordered
from sfda_engine.inspection.examination import Intake, examine, exposure_of, heed
from sfda_engine.models import ARCHITECTURES, build_segmenter
from sfda_engine.models.norms import batch_norm_layers, reestimate_statistics
from sfda_engine.models.preprocess import Normalization, Preprocess
from sfda_engine.models.weights import WeightsInfo, read_weights, save_weights
from sfda_engine.pipelines.networks import load_segmenter

SIZE = ImageSize(128, 96)
IMAGENET = Normalization()
NONE = Normalization((0.0,) * 3, (1.0,) * 3)

FAULTS = {
    "swap of channels": (Normalization(channel_order="bgr"), "red and blue are swapped"),
    "swap of channels, mean and std": (reordered(IMAGENET, "bgr"), "red and blue are swapped"),
    "forgotten division": (replace(IMAGENET, value_range=255.0), "a division by 255 is missing"),
    "missing normalization": (NONE, "the normalization is missing"),
    "neither": (replace(NONE, value_range=255.0), "a division by 255 is missing"),
    "division done twice": (replace(IMAGENET, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4)), "255 too many"),
}


@pytest.fixture(scope="module")
def shipped() -> tuple[nn.Module, WeightsInfo]:
    """The demo's source model, trained on RGB with ImageNet's normalization."""
    model, info = load_segmenter(ModelConfig(weights="package:demo_source"))
    return model.eval(), info


@pytest.fixture(scope="module", params=SCENE_DOMAINS)
def domain(request: pytest.FixtureRequest) -> SceneImages:
    """Six frames of each procedural domain."""
    return SceneImages(request.param, purpose="target", size=SIZE, frames=6)


def intake_of(model: nn.Module, info: WeightsInfo, images: SceneImages, declared: Normalization = IMAGENET) -> Intake:
    return examine(model, replace(info, normalization=declared), images, size=SIZE, exposure="none")


def refusals(intake: Intake) -> list[str]:
    return [finding.what for finding in intake.findings if finding.severity == "refuse"]


def test_right_declaration_is_never_refused(shipped: tuple[nn.Module, WeightsInfo], domain: SceneImages) -> None:
    intake = intake_of(*shipped, domain)
    assert refusals(intake) == []
    assert intake.distance is not None
    if domain.domain == "day":  # the source's own
        assert intake.distance["none"] < 0.1


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_named(fault: str, shipped: tuple[nn.Module, WeightsInfo], domain: SceneImages) -> None:
    declared, words = FAULTS[fault]
    intake = intake_of(*shipped, domain, declared)
    (what,) = refusals(intake)
    assert words in what
    with pytest.raises(UserError, match=words):
        heed(intake, refuse=True)
    assert words in heed(intake, refuse=False)[0]


def test_remedy_is_the_true_convention(shipped: tuple[nn.Module, WeightsInfo]) -> None:
    images = SceneImages("day", purpose="target", size=SIZE, frames=6)
    intake = intake_of(*shipped, images, replace(IMAGENET, value_range=255.0))
    assert "{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], channel_order: rgb, value_range: 1}" in str(
        intake.findings[0]
    )


def test_two_faults_are_both_named(shipped: tuple[nn.Module, WeightsInfo]) -> None:
    images = SceneImages("day", purpose="target", size=SIZE, frames=6)
    intake = intake_of(*shipped, images, replace(NONE, channel_order="bgr", value_range=255.0))
    swapped, undivided = refusals(intake)
    assert "red and blue are swapped" in swapped
    assert "a division by 255 is missing" in undivided


def test_source_trained_on_bgr_0_255_without_std(shipped: tuple[nn.Module, WeightsInfo]) -> None:
    """The demo's network behind the inverse of Caffe's convention is a source that was trained under it."""
    model, info = shipped
    caffe = Normalization((103.53, 116.28, 123.675), (1.0,) * 3, "bgr", 255.0)
    undo = Preprocess(caffe)

    class CaffeTrained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, images: torch.Tensor) -> object:
            return self.network(Preprocess(IMAGENET)((images * undo.std + undo.mean).flip(1)))

    images = SceneImages("fog", purpose="target", size=SIZE, frames=6)
    assert refusals(intake_of(CaffeTrained().eval(), info, images, caffe)) == []
    swapped, other = refusals(intake_of(CaffeTrained().eval(), info, images, IMAGENET))
    assert re.search("RGB.*BGR", swapped)
    assert "one division by 255 too many" in other


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_examined(arch: str, night_frames: Path) -> None:
    """Untrained it is refused; with the frames' own statistics it is at no distance, and a wrong range is seen."""
    torch.manual_seed(0)
    model = build_segmenter(arch, 9).eval()
    images = FrameFiles(list_images(night_frames))
    info = WeightsInfo(arch=arch, num_classes=9)

    def run(declared: Normalization) -> Intake:
        return examine(model, replace(info, normalization=declared), images, size=ImageSize(64, 64), exposure="none")

    (what,) = refusals(run(IMAGENET))
    assert f"all of {len(batch_norm_layers(model))} BatchNorm layers hold mean 0 and variance 1" in what
    _, frames = read_sample(images, 6, (64, 64))
    reestimate_statistics(model, [Preprocess(IMAGENET)(frames)])
    intake = run(IMAGENET)
    assert refusals(intake) == []
    assert intake.distance is not None
    assert intake.distance["none"] < 0.02
    assert "a division by 255 is missing" in refusals(run(replace(IMAGENET, value_range=255.0)))[-1]


def test_user_module_is_examined(source_weights: Path, night_frames: Path) -> None:
    model, info = load_segmenter(ModelConfig(weights=str(source_weights)))
    images = FrameFiles(list_images(night_frames))
    intake = examine(model.eval(), info, images, size=ImageSize(32, 32), exposure="gamma")
    assert (refusals(intake), intake.batch_norm_layers) == ([], 2)
    wrong = replace(info, normalization=replace(IMAGENET, value_range=255.0))
    intake = examine(model, wrong, images, size=ImageSize(32, 32), exposure="gamma")
    assert "a division by 255 is missing" in refusals(intake)[-1]


def test_weights_with_nan_are_refused_by_name(toy_module: Path, night_frames: Path) -> None:
    model = build_segmenter("sfda_toy:segmenter", 9, "encoder").eval()
    model.get_parameter("network.head.bias").data[3] = torch.nan
    info = WeightsInfo(arch="sfda_toy:segmenter", num_classes=9, feature_layer="encoder")
    intake = examine(model, info, FrameFiles(list_images(night_frames)), size=ImageSize(32, 32), exposure="none")
    assert any("NaN or infinity" in what for what in refusals(intake))
    assert "network.head.bias" in heed(intake, refuse=False)[0]


def colored(folder: Path, *sizes: tuple[int, int]) -> FrameFiles:
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (number, 90, 90)).save(folder / f"{number}.png")
    return FrameFiles(list_images(folder))


def test_constant_frames_alone_are_refused(shipped: tuple[nn.Module, WeightsInfo], tmp_path: Path) -> None:
    intake = examine(*shipped, colored(tmp_path, SIZE, SIZE), size=SIZE, exposure="none")
    assert refusals(intake) == ["2 of 2 frames have one color"]
    assert (intake.distance, intake.conventions) == (None, None)


def test_undecodable_frames_alone_are_refused(shipped: tuple[nn.Module, WeightsInfo], tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    intake = examine(*shipped, FrameFiles(list_images(tmp_path)), size=SIZE, exposure="none")
    assert refusals(intake) == ["1 of 1 frames cannot be decoded"]


def test_sizes_that_distort_enlarge_and_differ(shipped: tuple[nn.Module, WeightsInfo], tmp_path: Path) -> None:
    model, info = shipped
    images = colored(tmp_path, (256, 128), (256, 128), (64, 48))
    intake = examine(model, replace(info, size=ImageSize(512, 384)), images, size=SIZE, exposure="none")
    found = [str(finding) for finding in intake.findings if "size" in finding.what]
    assert len(found) == 4
    for names in (
        ("256x128", "33%", "target.size [128, 64]"),
        ("64x48", "target.size"),
        ("256x128 (2), 64x48 (1)",),
        ("0.25 times the 512x384",),
    ):
        assert any(all(name in text for name in names) for text in found), names


def test_sizes_that_fit_are_not_mentioned(shipped: tuple[nn.Module, WeightsInfo], tmp_path: Path) -> None:
    intake = examine(*shipped, colored(tmp_path, ImageSize(480, 360), ImageSize(480, 360)), size=SIZE, exposure="none")
    assert not [finding for finding in intake.findings if "size" in finding.what]


def test_single_usable_frame_is_not_judged(shipped: tuple[nn.Module, WeightsInfo]) -> None:
    images = SceneImages("day", purpose="target", size=SIZE, frames=1)
    intake = intake_of(*shipped, images, replace(IMAGENET, value_range=255.0))
    assert (intake.conventions, refusals(intake)) == (None, [])
    assert "only 1 usable frames" in heed(intake, refuse=True)[0]


def test_exposure_is_asked_for_by_source_or_configuration() -> None:
    info = WeightsInfo(arch="streetnet", num_classes=9)
    assert exposure_of(info, "none") == "none"
    assert exposure_of(replace(info, exposure="gamma"), "none") == "none"
    assert exposure_of(replace(info, exposure="gamma"), "auto") == "gamma"
    assert exposure_of(info, "auto") == "none"
    assert exposure_of(info, "gamma") == "gamma"


@pytest.mark.parametrize(
    ("normalization", "words"),
    [
        (["--model.normalization.channel_order", "bgr"], "red and blue are swapped"),
        (["--model.normalization.value_range", "255"], "a division by 255 is missing"),
        (
            ["--model.normalization.mean", "[0, 0, 0]", "--model.normalization.std", "[1, 1, 1]"],
            "the normalization is missing",
        ),
    ],
)
def test_adapt_refuses_foreign_weights_under_a_wrong_declaration(
    normalization: list[str], words: str, tmp_path: Path
) -> None:
    state, _ = read_weights(resolve_weights("package:demo_source"))
    save_file(state, tmp_path / "foreign.safetensors")
    options = [
        *["--model.weights", str(tmp_path / "foreign.safetensors"), "--model.arch", "streetnet"],
        *["--model.num_classes", "9", *normalization, "--evaluate", "null", "--target.split", "day"],
        *["--target.frames", "8", "--run.output", str(tmp_path / "run")],
    ]
    with pytest.raises(UserError, match=words):
        adapt(load_config("demo", options))
    assert not (tmp_path / "run").exists()


def test_adapt_refuses_an_untrained_source_unless_told_to_go_on(
    tiny: Callable[..., Config], quick: None, tmp_path: Path, toy_module: Path
) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "untrained.safetensors"
    info = WeightsInfo(arch="sfda_toy:segmenter", num_classes=9, feature_layer="encoder")
    save_weights(weights, build_segmenter(info.arch, 9, "encoder"), info)
    options = ["--model.weights", str(weights), "--run.steps", "1"]
    with pytest.raises(UserError, match="never trained"):
        adapt(tiny(*options))
    assert not (tmp_path / "run").exists()
    done = adapt(tiny(*options, "--model.check_input", "false"))
    assert done is not None
    assert "never trained" in done.result["warnings"][0]
    assert done.result["intake"]["fits"] is False
