"""Networks of other builds than ours, by the defaults alone: each is loaded, adapted and judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfda_engine.adapt import main
from tests.engine.conftest import write_frames


class Layered(nn.Module):
    """LayerNorm over the channels, as ConvNeXt and transformers have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(maps.movedim(1, -1)).movedim(-1, 1)


class Net(nn.Module):
    """Two halvings; `norm` makes a layer for a number of channels, `finish` what is returned of the logits."""

    def __init__(self, norm=nn.BatchNorm2d, finish=lambda logits: logits, classes=5) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), norm(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), norm(16), nn.ReLU(), nn.Dropout2d(0.1))
        self.unused = nn.Parameter(torch.zeros(3))
        self.head = nn.Conv2d(16, classes, 1)
        self.finish = finish

    def forward(self, images: Tensor):  # type: ignore[no-untyped-def]
        logits = self.head(self.second(self.first(images)))
        return (logits, logits[..., :2]) if self.training else self.finish(logits)


def group_norm() -> nn.Module:
    return Net(lambda channels: nn.GroupNorm(2, channels))


def layer_norm() -> nn.Module:
    return Net(Layered)


def instance_norm() -> nn.Module:
    return Net(nn.InstanceNorm2d)


def no_norm() -> nn.Module:
    return Net(lambda channels: nn.Identity())


def synchronized() -> nn.Module:
    return Net(nn.SyncBatchNorm)


def without_statistics() -> nn.Module:
    return Net(lambda channels: nn.BatchNorm2d(channels, track_running_stats=False))


def softmax() -> nn.Module:
    return Net(finish=lambda logits: {"pred": logits.softmax(1)})


def heads() -> nn.Module:
    return Net(finish=lambda logits: [logits, logits[..., :2]])


def auxiliary_first() -> nn.Module:
    return Net(finish=lambda logits: [logits[:, :1].detach(), logits])


def multi_label() -> nn.Module:
    return Net(finish=lambda logits: logits.sigmoid())


def binary() -> nn.Module:
    return Net(finish=lambda logits: logits.sigmoid(), classes=1)


BUILDS = [
    group_norm,
    layer_norm,
    instance_norm,
    no_norm,
    synchronized,
    without_statistics,
    softmax,
    heads,
    binary,
    auxiliary_first,
    multi_label,
]


EXPORTED = (group_norm, softmax)
"""Those that are exported as well: the bundle holds the adapted network, made anew from its factory."""


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
def test_a_network_of_another_build_is_adapted_and_judged(
    build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    torch.save(build().state_dict(), tmp_path / "net.pth")
    options = {
        "model.arch": f"{__name__}:{build.__name__}",
        "model.weights": tmp_path / "net.pth",
        "model.check_input": "false",  # it was never trained
        "target.root": write_frames(tmp_path / "frames", "night", 4),
        "target.batch_size": 2,
        "run.steps": 2,
        "run.log_with": "none",
        "run.export": str(build in EXPORTED).lower(),
        "run.output": tmp_path / "run",
    }
    assert main([word for key, value in options.items() for word in (f"--{key}", str(value))]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["verdict"] in {"adapted", "keep_start", "keep_source"}
    if build in (group_norm, layer_norm, instance_norm, no_norm, without_statistics):
        assert result["bn_share"] == 1
        assert {view["share"] for view in result["views"]} == {1.0}
    assert (tmp_path / "run" / "bundle" / "model.onnx").exists() == (build in EXPORTED)
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(
        torch.isfinite(torch.tensor(value)) for line in losses for value in line.values() if isinstance(value, float)
    )
