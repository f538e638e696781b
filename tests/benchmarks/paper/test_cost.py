"""FLOP against closed forms and against a whole step, rates against what a results file says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

from benchmarks.common.row import Row, write_table
from benchmarks.common.step.setting import Setting, prepare
from benchmarks.paper import cost
from sfda_engine.config.presets import PRESETS
from sfda_engine.config.schema import Config, MethodConfig, TargetConfig

PAPER = dataclasses.replace(MethodConfig(), **PRESETS["paper"])
SIZE = (128, 64)


def test_flop_grow_with_the_area_and_backward_costs_twice_forward() -> None:
    forward, training = cost.frame_flop("streetnet", 19, SIZE)
    assert cost.frame_flop("streetnet", 19, (256, 128)) == (4 * forward, 4 * training)
    assert training / forward == pytest.approx(3, rel=0.05)  # the first layer passes nothing on


def test_flop_of_the_papers_network_are_those_that_torchvision_publishes() -> None:
    """Billions of multiply-adds at 520x520, with an auxiliary head that our network has not."""
    published = DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["_ops"]
    auxiliary = (1024 * 9 + 21) * 256 * 65 * 65 / 1e9
    forward, _ = cost.frame_flop("deeplabv3_resnet50", 21, (520, 520))
    assert forward / 2e9 == pytest.approx(published - auxiliary, rel=2e-3)


@pytest.mark.parametrize(("arch", "tolerance"), [("streetnet", 0.1), ("segnet_vgg16", 0.05)])
def test_a_step_has_the_flop_that_are_counted_of_it(arch: str, tolerance: float) -> None:
    """The counter does not see into the attention kernels, which go by their formula."""
    step = prepare(Setting(provider="engine", arch=arch, size=SIZE, batch=2)).step
    with FlopCounterMode(display=False) as counter:
        step()
    attention = 2 * cost.attention_flop(arch, 19, (64, 32), PAPER)
    estimate = cost.adaptation_flop(arch, 19, SIZE, 2, PAPER) - attention
    assert estimate == pytest.approx(counter.get_total_flops(), rel=tolerance)


def test_attention_needs_28_products_of_the_papers_map() -> None:
    """Twice 12 for L_DAD^ss and 4 for L_DAD^st, each D N^2 and N D^2: features of StreetNet, 96 x (h/8 w/8)."""
    depth, tokens = 96, 4 * 8
    expected = 28 * (depth * tokens**2 + tokens * depth**2)
    assert cost.attention_flop("streetnet", 19, (64, 32), PAPER) == expected
    assert cost.attention_flop("streetnet", 19, (64, 32), dataclasses.replace(PAPER, beta=0.0, tau=0.0)) == 0


def test_terms_that_are_switched_off_cost_nothing() -> None:
    def flop(**changes: object) -> float:
        method = dataclasses.replace(PAPER, **changes)  # type: ignore[arg-type]
        return cost.adaptation_flop("streetnet", 19, SIZE, 1, method)

    forward, training = cost.frame_flop("streetnet", 19, SIZE)
    assert flop(alpha=0.0, beta=0.0, gamma=0.0) == training
    assert flop(gamma=0.0) - flop(max_square_weight=0.0, gamma=0.0) == pytest.approx(training - forward)
    assert flop(patch_grid=1) == flop(gamma=0.0) < flop()
    assert flop(pseudo_label_weight=1.0) - flop() == pytest.approx(training)


def test_methods_beside_source_data_train_on_two_batches() -> None:
    config = Config(target=TargetConfig(size=SIZE, batch_size=4))
    training = cost.frame_flop("streetnet", 19, SIZE)[1]
    assert cost.run_flop("source_cbst", "streetnet", 19, config) == 8 * training
    assert cost.run_flop("source_only", "streetnet", 19, config) == 0
    assert cost.training_flop("streetnet", 19, SIZE, 4) == 4 * training


def test_a_results_file_of_the_device_comes_before_an_assumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "RESULTS", tmp_path)
    assert cost.h100_rate("streetnet", "fp32").basis.startswith("ESTIMATE: 10%")
    row = Row(
        op="adapt_step",
        provider="engine",
        direction="step",
        shape="streetnet 128x64 B=2",
        dtype="fp32",
        p50_ms=20.0,
        device="NVIDIA H100 80GB HBM3",
    )
    others = [
        dataclasses.replace(row, provider="naive", p50_ms=1.0),
        dataclasses.replace(row, dtype="bf16", p50_ms=2.0),
    ]
    write_table(tmp_path / "adapt_step_streetnet_nvidia_h100", [*others, row], "A title", "A remark.")
    rate = cost.h100_rate("streetnet", "fp32")
    flop = cost.adaptation_flop("streetnet", 19, SIZE, 2, PAPER)
    assert rate.flop_per_second == pytest.approx(flop / 0.020)
    assert rate.basis.startswith("measured: adapt_step, streetnet 128x64 B=2, 20 ms")
    assert cost.own_rate("streetnet", "fp32").basis.startswith("ESTIMATE: ")
