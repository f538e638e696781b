"""Every segmenter keeps the contract: output shapes, torchvision's keys, gradients, clear errors."""

import pytest
import torch
from torch import nn
from torchvision.models import vgg16_bn
from torchvision.models.segmentation import deeplabv3_resnet50, lraspp_mobilenet_v3_large

from sfda_engine.errors import UserError
from sfda_engine.models import ARCHITECTURES, build_segmenter
from sfda_engine.models.segmenter import upsample

K = 5
# arch: feature channels, stride of logits, stride of features
CONTRACT = {
    "streetnet": (96, 4, 8),
    "deeplabv3_resnet50": (2048, 8, 8),
    "lraspp_mobilenet_v3_large": (960, 8, 16),
    "segnet_vgg16": (512, 1, 32),
}


@pytest.fixture(scope="module", params=CONTRACT)
def arch_and_model(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    torch.manual_seed(0)
    return request.param, build_segmenter(request.param, K).eval()


def divided(length: int, stride: int, round_down: bool) -> int:
    return length // stride if round_down else -(-length // stride)


def test_contract_covers_every_architecture() -> None:
    assert set(CONTRACT) == set(ARCHITECTURES)


@pytest.mark.parametrize("size", [(64, 96), (33, 47)])
def test_output_shapes(arch_and_model: tuple[str, nn.Module], size: tuple[int, int]) -> None:
    arch, model = arch_and_model
    channels, logits_stride, features_stride = CONTRACT[arch]
    with torch.no_grad():
        output = model(torch.randn(2, 3, *size))
    down = arch == "segnet_vgg16"  # its pooling rounds down, strided convolutions round up
    assert output.logits.shape == (2, K, *(divided(s, logits_stride, down) for s in size))
    assert output.features.shape == (2, channels, *(divided(s, features_stride, down) for s in size))
    assert output.logits.isfinite().all()


def test_eval_output_does_not_depend_on_the_rest_of_the_batch(arch_and_model: tuple[str, nn.Module]) -> None:
    _, model = arch_and_model
    images = torch.randn(2, 3, 33, 40)
    with torch.no_grad():
        both, one = model(images), model(images[1:])
    torch.testing.assert_close(both.logits[1:], one.logits, rtol=1e-4, atol=1e-5)


def test_features_feed_the_logits() -> None:
    model = build_segmenter("streetnet", K)
    output = model(torch.randn(2, 3, 32, 48))
    (gradient,) = torch.autograd.grad(output.logits, output.features, torch.randn_like(output.logits))
    assert gradient.abs().amax(dim=(0, 2, 3)).min() > 0


def test_streetnet_is_small() -> None:
    model = build_segmenter("streetnet", 19)
    assert sum(p.numel() for p in model.parameters()) < 750_000


@pytest.mark.parametrize(
    ("arch", "factory"),
    [("deeplabv3_resnet50", deeplabv3_resnet50), ("lraspp_mobilenet_v3_large", lraspp_mobilenet_v3_large)],
)
def test_same_keys_and_outputs_as_torchvision(arch: str, factory: object) -> None:
    ours = build_segmenter(arch, K).eval()
    theirs = factory(weights=None, weights_backbone=None, num_classes=K).eval()  # type: ignore[operator]
    theirs.load_state_dict(ours.state_dict())  # strict: the keys are equal
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        logits = upsample(ours(images).logits, (40, 56))
        torch.testing.assert_close(logits, theirs(images)["out"])


def test_segnet_encoder_has_the_keys_and_outputs_of_vgg16_bn() -> None:
    with torch.device("meta"):
        theirs = vgg16_bn().features
    theirs = theirs.to_empty(device="cpu").eval()
    ours = build_segmenter("segnet_vgg16", K).eval()
    encoder = {k.removeprefix("encoder."): v for k, v in ours.state_dict().items() if k.startswith("encoder.")}
    theirs.load_state_dict(encoder)
    images = torch.randn(1, 3, 35, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).features, theirs(images))


def test_upsample_is_bilinear_with_pixel_centers() -> None:
    row = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2)
    assert upsample(row, (2, 4))[0, 0].tolist() == [[0.0, 1.0, 3.0, 4.0]] * 2


def test_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(UserError, match="'deeplabv3_resnet50'"):
        build_segmenter("deeplab_resnet50", K)
    with pytest.raises(UserError, match="streetnet"):
        build_segmenter("xyz", K)


def test_feature_layer_is_refused_for_built_in_architectures() -> None:
    with pytest.raises(UserError, match=r"feature_layer 'high'.*streetnet.*null"):
        build_segmenter("streetnet", K, feature_layer="high")


def test_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="2 classes"):
        build_segmenter("streetnet", 1)
