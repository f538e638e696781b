"""The engine's rows are what its own command leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.common.methods.run import open_domain
from benchmarks.paper.run import adapt_engine
from sfda_engine import adapt, load_config
from sfda_engine.config.schema import RunConfig

OPTIONS = {
    "target.frames": "8", "target.size": "[64, 64]", "target.batch_size": "4", "evaluate": "null", "run.steps": "2",
    "run.log_with": "none", "method.warmup_steps": "1",
}  # fmt: skip


def test_an_engine_row_is_the_last_state_of_adapt(tmp_path: Path) -> None:
    config = load_config("demo", [word for key, value in OPTIONS.items() for word in (f"--{key}", value)])
    assert config.method.target_bn == "running"  # so that statistics are estimated anew after the last step

    def into(folder: str) -> RunConfig:
        return dataclasses.replace(config.run, output=str(tmp_path / folder))

    adapt(dataclasses.replace(config, run=into("adapt")))
    source, info, target = open_domain(config, steps=2, seed=0)
    (tmp_path / "row").mkdir()
    row = adapt_engine(dataclasses.replace(config, run=into("row")), source, info, target, tmp_path / "row")
    last = load_file(tmp_path / "adapt" / "last.safetensors")
    left = row.network.state_dict()
    assert last.keys() == left.keys()
    assert all(torch.equal(last[name], left[name]) for name in last)
