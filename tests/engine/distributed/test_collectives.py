"""Several processes as one: what they share piece by piece, in `shares`, and what one process alone makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from sfda_engine.adapt import main as adapt
from sfda_engine.distributed import collectives as distributed
from sfda_engine.exit_codes import exit_code
from sfda_engine.models.norms import GlobalBatchNorm, share_statistics
from sfda_engine.train_source import main as train_source

SHARES = Path(__file__).with_name("shares.py")


def test_shares_in_two_processes_are_those_of_one(launch: Callable[..., tuple[int, str]]) -> None:
    code, said = launch(str(SHARES))
    assert code == 0, said
    assert said.count("12 functions agree") == 2


def test_one_process_goes_its_own_way() -> None:
    values = torch.randn(3, 4)
    for same in (distributed.total, distributed.mean, distributed.gather, distributed.own_share):
        assert torch.equal(same(values), values)
    assert distributed.mean_of_all(values) == values.mean()
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    share_statistics(network)
    assert not isinstance(network[0], GlobalBatchNorm)
    assert distributed.speaks()


@pytest.mark.parametrize(("command", "section"), [(adapt, "target"), (train_source, "source")])
def test_batch_that_cannot_be_shared_is_refused(
    command: Callable[[list[str]], int],
    section: str,
    tiny_yaml: Path,
    source_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    config = tiny_yaml if section == "target" else source_config
    argv = ["--config", str(config), f"--{section}.batch_size", "8", "--run.output", str(tmp_path / "run")]
    assert exit_code(command, argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {section}.batch_size 8 cannot be shared equally by 3 processes")
    assert f"--{section}.batch_size 9" in line
    assert not (tmp_path / "run").exists()


def test_other_processes_say_which_they_are(
    tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "2")
    assert exit_code(adapt, ["--config", str(tiny_yaml), "--run.output", str(tiny_yaml)]) == 2
    assert capsys.readouterr().err.startswith("process 2: error: ")


@pytest.mark.parametrize("gpu", [True, False])
def test_backends(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL for GPUs, with gloo beside it for flags on the CPU; gloo alone without one, which no flag needs to say."""
    met: list[tuple[bool, dict]] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(distributed, "PartialState", lambda cpu, **options: met.append((cpu, options)))
    distributed.join()
    backend = {"backend": "cuda:nccl,cpu:gloo"} if gpu else {}
    assert met == [(not gpu, {"timeout": distributed.TIMEOUT} | backend)]
    assert PartialState is not distributed.PartialState
