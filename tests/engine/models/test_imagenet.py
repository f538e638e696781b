"""`model.backbone_weights: imagenet`: from torch's cache alone, fetched only where that was asked for, hash checked."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import get_model_weights, mobilenet_v3_large
from torchvision.models._api import Weights

from sfda_engine.config.schema import ModelConfig
from sfda_engine.errors import UserError
from sfda_engine.models import ARCHITECTURES, build_segmenter
from sfda_engine.models.backbone import ENCODERS, backbone_file, load_backbone
from sfda_engine.models.lraspp import LRASPP
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.pipelines.networks import fresh_segmenter

ARCH = "lraspp_mobilenet_v3_large"
INFO = WeightsInfo(arch=ARCH, num_classes=5)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's file as torchvision publishes them: the first digits of its hash end its name."""
    state = {key: torch.full_like(value, 0.5) for key, value in mobilenet_v3_large(weights=None).state_dict().items()}
    path = tmp_path_factory.mktemp("server") / "mobilenet.pth"
    torch.save(state, path)
    return path.rename(path.with_name(f"mobilenet-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"))


@pytest.fixture
def cache(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's cache, empty; torchvision's weights of the encoder are the file above, under a file:// address."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    offered = Weights(url=published.as_uri(), transforms=nn.Identity, meta={})
    monkeypatch.setitem(ENCODERS, LRASPP, dataclasses.replace(ENCODERS[LRASPP], imagenet=offered))
    return tmp_path / "hub" / "checkpoints"


def test_published_weights_are_the_classifiers_of_the_encoders() -> None:
    """Every architecture with an encoder of torchvision's has weights of that encoder, ImageNet's first version."""
    names = {"deeplabv3_resnet50": "resnet50", ARCH: "mobilenet_v3_large", "segnet_vgg16": "vgg16_bn"}
    assert {ARCHITECTURES[arch] for arch in names} == set(ENCODERS)
    for arch, classifier in names.items():
        encoder = ENCODERS[ARCHITECTURES[arch]]  # type: ignore[index]
        assert encoder.imagenet is get_model_weights(classifier).IMAGENET1K_V1  # type: ignore[attr-defined]


def test_without_the_flag_nothing_is_fetched(cache: Path, published: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_backbone(build_segmenter(ARCH, 5), "imagenet")
    for words in (published.name, str(cache), "--model.download true", "--model.backbone_weights FILE"):
        assert words in str(caught.value)
    assert not cache.exists()


def test_with_the_flag_it_is_fetched_once_and_loaded(cache: Path, published: Path) -> None:
    model = fresh_segmenter(INFO, ModelConfig(backbone_weights="imagenet", download=True))
    assert [path.name for path in cache.iterdir()] == [published.name]
    assert all(
        bool((value == 0.5).all()) for value in model.backbone.state_dict().values() if value.is_floating_point()
    )
    written = (cache / published.name).stat().st_mtime_ns
    fresh_segmenter(INFO, ModelConfig(backbone_weights="imagenet"))  # from the cache, without the flag
    assert (cache / published.name).stat().st_mtime_ns == written


def test_another_file_under_the_name_is_refused(cache: Path, published: Path) -> None:
    cache.mkdir(parents=True)
    (cache / published.name).write_bytes(published.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"damaged"):
        backbone_file(build_segmenter(ARCH, 5), "imagenet", download=True)


def test_a_download_that_fails_or_is_another_file_leaves_nothing(
    cache: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = published.with_name("mobilenet-00000000.pth")
    other.write_bytes(b"something else")
    for path in (other, published.with_name("absent-00000000.pth")):
        offered = Weights(url=path.as_uri(), transforms=nn.Identity, meta={})
        monkeypatch.setitem(ENCODERS, LRASPP, dataclasses.replace(ENCODERS[LRASPP], imagenet=offered))
        with pytest.raises(UserError, match=rf"{path.name} .*{cache}"):
            backbone_file(build_segmenter(ARCH, 5), "imagenet", download=True)
        assert list(cache.iterdir()) == []


def test_a_network_without_such_an_encoder_is_told_so(cache: Path) -> None:
    with pytest.raises(UserError, match="StreetNet"):
        load_backbone(build_segmenter("streetnet", 5), "imagenet")


def test_a_random_encoder_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fresh_segmenter(INFO, ModelConfig())
        fresh_segmenter(dataclasses.replace(INFO, arch="streetnet"), ModelConfig())
    (record,) = caplog.records
    assert f"the encoder of {ARCH} starts from random weights. The paper starts from ImageNet" in record.getMessage()
