"""Checkpoints appear whole, the newest few stay, and a damaged one is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from sfda_engine.build import make_accelerator
from sfda_engine.checkpoint import list_checkpoints, load_newest, save_checkpoint
from sfda_engine.config import Config
from sfda_engine.errors import UserError

Prepared = tuple[Accelerator, nn.Module, torch.optim.Optimizer]


def prepare(channels: int = 3) -> Prepared:
    accelerator = make_accelerator(Config(), None)
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


def test_a_crash_while_writing_leaves_the_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator, *_ = prepare()
    save_checkpoint(accelerator, tmp_path, 1, keep_last=1)

    def full(folder: str) -> None:
        (Path(folder) / "model.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(accelerator, "save_state", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(accelerator, tmp_path, 2, keep_last=1)
    assert names(tmp_path) == ["0000001"]
    accelerator, *_ = prepare()
    assert load_newest(accelerator, tmp_path)


def test_without_a_checkpoint_there_is_nothing_to_load(tmp_path: Path) -> None:
    accelerator, *_ = prepare()
    assert not load_newest(accelerator, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert not load_newest(accelerator, tmp_path)


def test_checkpoint_of_another_network_is_named(tmp_path: Path) -> None:
    accelerator, *_ = prepare()
    save_checkpoint(accelerator, tmp_path, 6, keep_last=1)
    accelerator, *_ = prepare(channels=4)
    with pytest.raises(UserError, match=r"0000006 cannot be resumed .*configuration that wrote it"):
        load_newest(accelerator, tmp_path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    path.write_bytes(b"\x80\x02" + bytes(range(200)))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, garble, empty, Path.unlink])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin"])
def test_damaged_checkpoint_is_named(file: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    accelerator, *_ = prepare()
    damage(save_checkpoint(accelerator, tmp_path, 6, keep_last=1) / file)
    accelerator, *_ = prepare()
    with pytest.raises(UserError, match=r"0000006 cannot be resumed .*delete that checkpoint folder"):
        load_newest(accelerator, tmp_path)
