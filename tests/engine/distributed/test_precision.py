"""Mixed precision is Accelerate's: the launcher's word, `run.mixed_precision` above it, fp16 on a GPU alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from sfda_engine import adapt, evaluate
from sfda_engine.config.schema import Config
from sfda_engine.distributed.optimizer_step import make_update
from sfda_engine.errors import UserError
from sfda_engine.pipelines.inputs import accelerator_for
from sfda_engine.pipelines.training import Trainer
from sfda_engine.training.metrics import read_metrics


def test_bf16_run_is_finite_near_fp32_and_ships_fp32(tiny: Callable[..., Config], tmp_path: Path, quick: None) -> None:
    lines = {}
    for precision in ("no", "bf16"):
        adapt(tiny("--run.mixed_precision", precision, "--run.output", str(tmp_path / precision)))
        lines[precision] = read_metrics(tmp_path / precision / "metrics.jsonl")
        weights = load_file(tmp_path / precision / "last.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.float32, torch.int64}
    first, half = lines["no"][0], lines["bf16"][0]
    assert half["generator/bns"] != first["generator/bns"]  # autocast was on
    assert half["generator/bns"] == pytest.approx(first["generator/bns"], rel=0.02)
    assert all(math.isfinite(value) for line in lines["bf16"] for value in line.values() if isinstance(value, float))


@pytest.mark.parametrize(
    ("stated", "launched", "used"), [("null", None, "no"), ("null", "bf16", "bf16"), ("no", "bf16", "no")]
)
def test_configuration_wins_over_the_launcher(
    stated: str, launched: str | None, used: str, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert accelerator_for(tiny("--run.mixed_precision", stated), None).mixed_precision == used


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is allowed on a GPU")
@pytest.mark.parametrize("command", [adapt, evaluate])
def test_fp16_on_a_cpu_is_refused(
    command: Callable[[Config], object], tiny: Callable[..., Config], night_frames: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        command(tiny("--run.mixed_precision", "fp16", "--evaluate.root", str(night_frames)))
    assert not (tmp_path / "run").exists()


def test_evaluation_after_a_bf16_run_has_the_precision_it_asks_for(
    tiny: Callable[..., Config], night_frames: Path, tmp_path: Path, quick: None
) -> None:
    options = ["--evaluate.root", str(night_frames), "--run.output", str(tmp_path / "bf16")]
    before = evaluate(tiny("--evaluate.root", str(night_frames)))
    adapt(tiny("--run.mixed_precision", "bf16", "--run.steps", "1", *options))
    assert evaluate(tiny("--evaluate.root", str(night_frames))) == before
    assert evaluate(tiny("--evaluate.root", str(night_frames), "--run.mixed_precision", "no")) == before


def test_every_update_under_fp16_has_a_scaler_of_its_own(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wiring alone: fp16 itself needs a GPU; what the scalers do is in `steps/test_update.py`."""
    run = trainer(folder=False)
    updates = [run.updates.student, run.updates.generator, run.updates.discriminator]
    assert not any(update.scaler.is_enabled() for update in updates)
    monkeypatch.setattr(Accelerator, "mixed_precision", "fp16")
    networks = (run.networks.student, run.networks.generator)
    registered = len(run.accelerator._custom_objects)
    scalers = [make_update(run.accelerator, torch.optim.SGD(network.parameters())).scaler for network in networks]
    assert all(scaler.is_enabled() for scaler in scalers)
    assert scalers[0] is not scalers[1]
    assert run.accelerator._custom_objects[registered:] == scalers  # in every checkpoint


def test_accelerate_scales_nothing_itself(tiny: Callable[..., Config]) -> None:
    accelerator = accelerator_for(tiny(), None)
    assert accelerator.scaler_handler is not None
    assert not accelerator.scaler_handler.enabled
