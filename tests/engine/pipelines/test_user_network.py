"""A user's U-Net, which joins maps of several strides, through a whole run: views keep to sizes that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfda_engine.adapt import main
from sfda_engine.certify import certify
from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.models.segmenter import check_forward
from sfda_engine.models.user_module import build_user_module
from tests.engine.conftest import write_frames

ARCH = "tests.engine.pipelines.test_user_network:UNet"


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """Four halvings with skips: sides must be multiples of 16."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.down = nn.ModuleList([block(3, 8, 2), block(8, 8, 2), block(8, 8, 2), block(8, 8, 2)])
        self.up = nn.ModuleList([block(16, 8), block(16, 8), block(16, 8)])
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = [images]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        joined = maps.pop()
        for layer in self.up:
            joined = layer(torch.cat([nn.functional.interpolate(joined, scale_factor=2), maps.pop()], 1))
        return self.head(joined)


def test_a_u_net_is_adapted_judged_and_certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="96x72"):  # what 128x96 times 0.75 would be
        check_forward(build_user_module(ARCH, 9, "down"), ImageSize(96, 72))
    frames = write_frames(tmp_path / "frames", "night", 4)
    torch.manual_seed(0)
    torch.save(UNet(9).state_dict(), tmp_path / "unet.pt")
    options = {
        "model.arch": ARCH, "model.classes": "scenes", "model.feature_layer": "down.3", "model.check_input": "false",
        "model.weights": tmp_path / "unet.pt", "target.dataset": "folder", "target.split": "null",
        "target.root": frames, "target.size": "[128, 96]", "target.batch_size": 2, "evaluate": "null",
        "run.steps": 2, "run.log_with": "none", "method.warmup_steps": 1, "run.output": tmp_path / "run",
    }  # fmt: skip
    assert main([word for key, value in options.items() for word in (f"--{key}", str(value))]) == 0
    assert (tmp_path / "run" / "adapted.safetensors").is_file()

    assert {found.what: found.status for found in certify(tmp_path / "run")}[f"code of {ARCH}"] == "ok"
    monkeypatch.setattr("sfda_engine.audit.certificate.module_digest", lambda arch: "another file's")
    assert {found.what: found.status for found in certify(tmp_path / "run")}[f"code of {ARCH}"] == "other"
