"""Rows survive their CSV, a torn one is dropped, and the table shows what they say."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

from benchmarks.peers.rows import PeerRow, append_row, read_rows
from benchmarks.peers.tables import markdown

ROW = PeerRow(
    method="tent",
    domain="scenes:night",
    seed=0,
    settings="80 steps, 128x96",
    source_free=True,
    miou_source=36.1,
    miou_bn_warm_start=57.3,
    miou_final=50.0,
    miou_best=58.25,
    best_step=20,
    steps=80,
    seconds=12.5,
    idle_seconds=9.0,
    peak_memory_mb=700.0,
    device="CPU x",
    threads=2,
    versions="torch y",
    commit="abc",
    time="2026-01-01T00:00:00+00:00",
)


def rows_of(**changes: object) -> PeerRow:
    return dataclasses.replace(ROW, **changes)  # type: ignore[arg-type]


def test_rows_survive_their_csv(tmp_path: Path) -> None:
    path = tmp_path / "new" / "peers.csv"
    rows = [ROW, rows_of(seed=1, note='stopped, "early"', source_free=False), rows_of(miou_final=1 / 3)]
    for row in rows:
        append_row(path, row)
    assert read_rows(path) == rows
    assert read_rows(tmp_path / "absent.csv") == []


def test_the_table_has_means_and_spreads() -> None:
    values = {"scenes:night": (50.0, 53.0, 59.0), "scenes:fog": (40.0, 41.0, 45.0)}
    rows = [
        rows_of(domain=domain, seed=seed, miou_final=value, miou_best=60.0)
        for domain, series in values.items()
        for seed, value in enumerate(series)
    ]
    rows.append(rows_of(method="sfda", seed=0, miou_final=61.04, note="stopped after 45 s"))
    lines = markdown(rows, ["source_only", "tent", "sfda"], ["scenes:night", "scenes:fog", "camvid:dusk"]).splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert table[0] == ["method", "source data", "scenes:night", "scenes:fog", "mean over domains"]
    assert table[2] == ["source as shipped", "none", "36.1", "36.1", "36.1"]
    night, fog = values.values()
    over = [statistics.fmean(pair) for pair in zip(night, fog, strict=True)]
    spreads = [f"{statistics.fmean(v):.1f} ± {statistics.stdev(v):.1f}" for v in (night, fog, over)]
    assert table[3] == ["tent", "none", *spreads]
    assert table[4] == ["sfda", "none", "61.0 †", "", ""]  # no mean over domains that it has not
    assert sum(line.startswith("†") for line in lines) == 1
    assert table[-1][-1] == "scenes:night seed 0: stopped after 45 s"
    assert table[-2][1] == "60.0"


def test_the_mean_over_domains_pairs_seeds_whatever_the_order_of_rows() -> None:
    night = [rows_of(seed=seed, miou_final=value) for seed, value in ((2, 10.0), (0, 30.0))]
    fog = [
        rows_of(domain="scenes:fog", seed=seed, miou_final=value) for seed, value in ((0, 20.0), (1, 99.0), (2, 40.0))
    ]
    last = next(
        line
        for line in markdown([*night, *fog], ["tent"], ["scenes:night", "scenes:fog"]).splitlines()
        if "tent" in line
    )
    assert last.split("|")[-2].strip() == "25.0 ± 0.0"


def test_a_method_that_needs_source_data_is_marked() -> None:
    assert "| tent | **needed** |" in markdown([rows_of(source_free=False)], ["tent"], ["scenes:night"])
