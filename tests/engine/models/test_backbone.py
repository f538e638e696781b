"""ImageNet encoders: torchvision's classifier files fit the segmenters' encoders, key by key and in their outputs."""

import pytest
import torch
from torchvision import models as torchvision_models

from sfda_engine.errors import UserError
from sfda_engine.models import build_segmenter
from sfda_engine.models.backbone import load_backbone


@pytest.mark.parametrize(
    ("arch", "classifier"),
    [
        ("deeplabv3_resnet50", "resnet50"),
        ("lraspp_mobilenet_v3_large", "mobilenet_v3_large"),
        ("segnet_vgg16", "vgg16_bn"),
    ],
)
def test_torchvision_classifier_fits_the_encoder(tmp_path, arch, classifier):
    state = getattr(torchvision_models, classifier)(weights=None).state_dict()
    state = {key: torch.full_like(value, 0.5) for key, value in state.items()}
    torch.save(state, tmp_path / "imagenet.pth")
    model = build_segmenter(arch, 5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load_backbone(model, tmp_path / "imagenet.pth")
    after = model.state_dict()
    encoder = [key for key in after if key.startswith(("backbone.", "encoder."))]
    assert all(bool((after[key] == torch.full_like(after[key], 0.5)).all()) for key in encoder)
    assert all(torch.equal(after[key], before[key]) for key in after if key not in encoder)


def test_wrong_file_and_unfit_architecture(tmp_path):
    torch.save(torchvision_models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match="do not fit"):
        load_backbone(build_segmenter("deeplabv3_resnet50", 5), tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match="StreetNet"):
        load_backbone(build_segmenter("streetnet", 5), tmp_path / "resnet18.pth")
