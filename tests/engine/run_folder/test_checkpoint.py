"""Checkpoints appear whole, the newest few stay, and a damaged one is named."""

from __future__ import annotations

import errno
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import nn

from sfda_engine import files
from sfda_engine.config.schema import Config
from sfda_engine.errors import StorageError, UserError
from sfda_engine.pipelines.inputs import accelerator_for
from sfda_engine.run_folder.checkpoint import list_checkpoints, load_newest, save_checkpoint

Prepared = tuple[Accelerator, nn.Module, torch.optim.Optimizer]


def prepare(channels: int = 3) -> Prepared:
    accelerator = accelerator_for(Config(), None)
    model = nn.Sequential(nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels))
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=0.1))
    return accelerator, model, optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 5, 5, generator=generator)).square().mean().backward()
        optimizer.step()


def names(run: Path) -> list[str]:
    return [path.name for path in list_checkpoints(run)]


def test_what_was_saved_is_loaded_statistics_and_optimizer_too(tmp_path: Path) -> None:
    accelerator, model, optimizer = prepare()
    train(model, optimizer, 2)
    save_checkpoint(accelerator, tmp_path, 2, keep_last=3)
    train(model, optimizer, 3)
    wanted = {key: value.clone() for key, value in model.state_dict().items()}

    accelerator, model, optimizer = prepare()
    assert load_newest(accelerator, tmp_path)
    train(model, optimizer, 3)
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


def test_the_newest_are_kept_and_the_newest_is_loaded(tmp_path: Path) -> None:
    accelerator, model, _ = prepare()
    for step in (8, 9, 10, 11):
        with torch.no_grad():
            next(model.parameters()).fill_(step)
        folder = save_checkpoint(accelerator, tmp_path, step, keep_last=2)
        assert folder == list_checkpoints(tmp_path)[-1]
    assert names(tmp_path) == ["0000010", "0000011"]
    accelerator, model, _ = prepare()
    load_newest(accelerator, tmp_path)
    assert (next(model.parameters()) == 11).all()


def test_a_step_may_be_saved_twice(tmp_path: Path) -> None:
    accelerator, model, _ = prepare()
    save_checkpoint(accelerator, tmp_path, 5, keep_last=2)
    with torch.no_grad():
        next(model.parameters()).fill_(3)
    save_checkpoint(accelerator, tmp_path, 5, keep_last=2)
    accelerator, model, _ = prepare()
    load_newest(accelerator, tmp_path)
    assert (next(model.parameters()) == 3).all()


@pytest.mark.parametrize("torn", [".partial-0000007", "partial", "0000007.tmp", "12a"])
def test_what_is_no_complete_checkpoint_is_ignored(torn: str, tmp_path: Path) -> None:
    assert names(tmp_path) == []
    accelerator, *_ = prepare()
    (tmp_path / "checkpoints" / torn).mkdir(parents=True)
    assert not load_newest(accelerator, tmp_path)
    save_checkpoint(accelerator, tmp_path, 3, keep_last=1)
    assert names(tmp_path) == ["0000003"]
    assert load_newest(accelerator, tmp_path)


def test_a_partial_folder_of_a_killed_run_does_not_leak_into_the_next(tmp_path: Path) -> None:
    accelerator, *_ = prepare()
    partial = tmp_path / "checkpoints" / ".partial-0000004"
    partial.mkdir(parents=True)
    (partial / "half.bin").write_text("half")
    folder = save_checkpoint(accelerator, tmp_path, 4, keep_last=1)
    assert not partial.exists()
    assert not (folder / "half.bin").exists()


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_leaves_the_earlier_checkpoint_and_nothing_else(
    fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator, *_ = prepare()
    save_checkpoint(accelerator, tmp_path, 1, keep_last=1)

    def full(folder: str) -> None:
        (Path(folder) / "model.safetensors").write_text("half")
        raise fault

    monkeypatch.setattr(accelerator, "save_state", full)
    with pytest.raises(StorageError, match=r"0000002 .*0000001 .*--run.resume"):
        save_checkpoint(accelerator, tmp_path, 2, keep_last=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["0000001"]
    accelerator, *_ = prepare()
    assert load_newest(accelerator, tmp_path)


@pytest.mark.parametrize("full", [True, False])
def test_whether_torch_could_not_write_is_asked_of_the_disk_not_of_its_words(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator, *_ = prepare()
    words = "of anything" if full else "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"

    def fail(folder: str) -> None:
        raise RuntimeError(words)

    def sync(path: Path) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(accelerator, "save_state", fail)
    monkeypatch.setattr(files, "sync_file", sync)
    with pytest.raises(StorageError if full else RuntimeError) as caught:
        save_checkpoint(accelerator, tmp_path, 2, keep_last=1)
    assert type(caught.value) is (StorageError if full else RuntimeError)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_fault_of_another_kind_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator, *_ = prepare()

    def fail(folder: str) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(accelerator, "save_state", fail)
    with pytest.raises(RuntimeError, match="illegal memory"):
        save_checkpoint(accelerator, tmp_path, 2, keep_last=1)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_without_a_checkpoint_there_is_nothing_to_load(tmp_path: Path) -> None:
    accelerator, *_ = prepare()
    assert not load_newest(accelerator, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert not load_newest(accelerator, tmp_path)


def test_checkpoint_of_another_network_is_named(tmp_path: Path) -> None:
    accelerator, *_ = prepare()
    save_checkpoint(accelerator, tmp_path, 6, keep_last=1)
    accelerator, *_ = prepare(channels=4)
    with pytest.raises(UserError, match=r"0000006 "):
        load_newest(accelerator, tmp_path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = pytest.mark.parametrize("damage", [cut, flip_one_bit, empty, Path.unlink])


def save_steps(run: Path, *steps: int) -> None:
    """Checkpoints whose first parameter is filled with their step."""
    accelerator, model, _ = prepare()
    for step in steps:
        with torch.no_grad():
            next(model.parameters()).fill_(step)
        save_checkpoint(accelerator, run, step, keep_last=9)


@DAMAGES
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "manifest.json"])
def test_damaged_checkpoint_is_passed_over_by_name(
    file: str, damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_steps(tmp_path, 4, 6)
    damage(tmp_path / "checkpoints" / "0000006" / file)
    accelerator, model, _ = prepare()
    assert load_newest(accelerator, tmp_path)
    assert (next(model.parameters()) == 4).all()
    assert re.search(rf"0000006 is damaged \(.*{re.escape(file)}.*going on from 0000004", caplog.text)


def test_once_the_run_has_gone_on_the_damaged_one_is_gone(tmp_path: Path) -> None:
    save_steps(tmp_path, 2, 4, 6)
    cut(tmp_path / "checkpoints" / "0000006" / "optimizer.bin")
    accelerator, *_ = prepare()
    load_newest(accelerator, tmp_path)
    save_checkpoint(accelerator, tmp_path, 5, keep_last=2)
    assert names(tmp_path) == ["0000004", "0000005"]


@DAMAGES
def test_where_all_are_damaged_the_user_decides(damage: Callable[[Path], None], tmp_path: Path) -> None:
    save_steps(tmp_path, 4, 6)
    for folder in list_checkpoints(tmp_path):
        damage(folder / "optimizer.bin")
    accelerator, *_ = prepare()
    wanted = (
        r"no checkpoint can be resumed: .*0000006 is damaged .*0000004 is damaged .*delete .*checkpoints to start from"
    )
    with pytest.raises(UserError, match=wanted):
        load_newest(accelerator, tmp_path)
    assert len(list_checkpoints(tmp_path)) == 2


class Anything:
    """What a later module may register: any state."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def bits(state: Any) -> Any:
    """A nested state with every tensor as its type and bytes."""
    if isinstance(state, torch.Tensor):
        return state.dtype, state.shape, state.reshape(-1).view(torch.uint8).tolist()
    if isinstance(state, dict):
        return {key: bits(value) for key, value in state.items()}
    return type(state)(map(bits, state)) if isinstance(state, (list, tuple)) else state


def test_registered_state_survives_nested_to_the_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(4, 3, 3, 3, generator=generator).contiguous(memory_format=torch.channels_last)
    ring = [{"step": step, "student": {"encoder.0.weight": weights + step}, "score": None} for step in range(3)]
    state = {
        "ring": ring,
        "strikes": 2,
        "lr_factor": 0.1 + 0.2,
        "events": [("roll-back", 7), ("roll-back", 9)],
        "statistics": {"mean": torch.tensor([0.1, float("-0.0"), 1e-42]), "count": torch.tensor(2**53 + 1)},
        "half": torch.randn(5, generator=generator).bfloat16(),
        "done": False,
    }
    accelerator, *_ = prepare()
    accelerator.register_for_checkpointing(Anything({"first": 1}), Anything(state))
    save_checkpoint(accelerator, tmp_path, 6, keep_last=1)

    accelerator, *_ = prepare()
    first, second = Anything({}), Anything({})
    accelerator.register_for_checkpointing(first, second)
    load_newest(accelerator, tmp_path)
    assert first.state == {"first": 1}
    assert bits(second.state) == bits(state)
    loaded = second.state["ring"][2]["student"]["encoder.0.weight"]
    assert loaded.is_contiguous(memory_format=torch.channels_last)


def test_code_in_a_registered_state_is_refused(tmp_path: Path) -> None:
    accelerator, *_ = prepare()
    accelerator.register_for_checkpointing(Anything({"run": print}))
    save_checkpoint(accelerator, tmp_path, 6, keep_last=1)
    with pytest.raises(UserError, match=r"0000006 .*Weights only"):
        load_newest(accelerator, tmp_path)


def test_random_numbers_and_loss_scale_go_on(tmp_path: Path) -> None:
    def draws() -> tuple[float, float, float]:
        legacy = float(np.random.rand())  # noqa: NPY002 (the global one is what is saved)
        return random.random(), legacy, float(torch.rand(()))

    def scaled() -> tuple[Accelerator, torch.amp.GradScaler]:
        accelerator, *_ = prepare()
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)
        accelerator.scaler.scale(torch.ones(()))
        return accelerator, accelerator.scaler

    accelerator, scaler = scaled()
    scaler.update(12.5)
    draws()
    save_checkpoint(accelerator, tmp_path, 6, keep_last=1)
    wanted = draws()
    accelerator, scaler = scaled()
    load_newest(accelerator, tmp_path)
    assert draws() == wanted
    assert scaler.get_scale() == 12.5
