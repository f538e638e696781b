"""The arena: which verdicts count as right, which runs a command line asks for, what the table says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.arena.__main__ import entries, parse
from benchmarks.arena.run import Row, is_right
from benchmarks.arena.table import draw, lines
from benchmarks.common.csv_file import read_csv, write_csv

BASE = ["--network", "m:f", "--weights", "w.pth", "--target", "frames", "labelled", "256x192"]


def miou(source: float, start: float, adapted: float, last: float) -> dict[str, float]:
    return {"source": source, "bn_warm_start": 0.0, "start": start, "adapted": adapted, "last": last}


@pytest.mark.parametrize(
    ("scores", "verdict", "right"),
    [
        (miou(40, 42, 45, 45), "adapted", True),
        (miou(40, 42, 39.8, 39.8), "adapted", True),  # within the tolerance
        (miou(40, 42, 39.6, 39.6), "adapted", False),  # shipped what is worse
        (miou(40, 39, 40, 40.9), "keep_source", True),
        (miou(40, 39, 40, 41.1), "keep_source", False),  # gave a gain away
        (miou(40, 41.1, 40, 30), "keep_source", False),
        (miou(40, 39.5, 39.5, 45), "keep_start", False),
    ],
)
def test_what_a_right_verdict_is(scores: dict[str, float], verdict: str, right: bool) -> None:
    assert is_right(scores, verdict) == right


def test_every_network_meets_every_target_and_seed() -> None:
    options = parse([*BASE, "--network", "m:g", "--weights", "v.pth", "--target", "other", "--seeds", "0", "1"])
    found = [(entry.arch, entry.frames.name, entry.labelled.name, entry.size, entry.seed) for entry in entries(options)]
    assert found == [
        (arch, *target, seed)
        for arch in ("m:f", "m:g")
        for target in (("frames", "labelled", (256, 192)), ("other", "other", None))
        for seed in (0, 1)
    ]


def test_spoilt_settings_are_runs_of_their_own() -> None:
    settings = [entry.overrides for entry in entries(parse([*BASE, "--spoilt", "rate"]))]
    assert settings[0] == ()
    assert "--method.lr" in settings[1]


def test_degraded_targets_have_rows_of_their_own() -> None:
    found = [(entry.kind, entry.target) for entry in entries(parse([*BASE, "--degrade", "dark", "fog"]))]
    assert found == [(None, "labelled"), ("dark", "labelled dark"), ("fog", "labelled fog")]


def test_networks_need_weights() -> None:
    with pytest.raises(SystemExit):
        parse([*BASE, "--network", "m:g"])


def row(**changes: Any) -> Row:
    values = {
        "network": "net", "target": "dusk", "size": "256x192", "chosen": "gamma, 30%", "seed": 0, "settings": "",
        "source": 40.0, "bn_warm_start": 30.0, "start": 42.0, "adapted": 44.0, "last": 44.0, "verdict": "adapted",
        "right": True, "cpu_seconds": 100.0, "best_view": None, "oracle": 50.0,
    }  # fmt: skip
    return Row(**values | changes)


def test_the_table_gives_means_over_the_defaults_alone(tmp_path: Path) -> None:
    rows = [row(), row(target="idd", adapted=39.0, right=False), row(settings="--method.lr 1", adapted=10.0)]
    text = "\n".join(lines(rows))
    assert "+1.5" in text  # the mean of +4 and -1; the spoilt run does not count
    assert "-1.0 (net on idd)" in text
    assert "2 of 3" in text
    draw(rows, tmp_path / "arena.png")
    assert (tmp_path / "arena.png").stat().st_size > 1000


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    rows = [row(), row(seed=1)]
    write_csv(tmp_path / "arena.csv", [vars(one) for one in rows])
    assert read_csv(tmp_path / "arena.csv", Row) == rows
