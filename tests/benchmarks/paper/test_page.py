"""What a page says of its runs: means and spreads, the 13-class mean, source models that are not the paper's."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper.domains import DOMAINS
from benchmarks.paper.options import Options
from benchmarks.paper.outcomes import Outcome, lines_of
from benchmarks.paper.page import markdown
from benchmarks.paper.tables import Cell, Exhibit, exhibit
from sfda_engine.data.classes import CLASS_SETS

TABLE_2 = exhibit("table_2", DOMAINS["paper"], ("deeplabv3",))


def outcome(cell: Cell, seed: int, iou: dict[str, float | None], miou: float) -> Outcome:
    score = {"miou": miou, "miou_training_size": 1.0, "pixel_accuracy": 80.0, "mean_pixel_accuracy": 50.0, "iou": iou}
    content: dict[str, Any] = {
        "scores": {"target": score, "source": score | {"miou": 99.0}},
        "steps": 5,
        "seconds": 1800.0,
        "peak_memory_mb": 100.0 + seed,
        "settings": "5 steps",
        "note": "",
        "seed": seed,
        **dict.fromkeys(("device", "threads", "versions", "commit", "time"), "x"),
    }
    return Outcome(cell, seed, Path(f"run{seed}"), json.loads(json.dumps(content)))


def page(found: list[Outcome], which: Exhibit = TABLE_2, domain: str = "paper") -> list[str]:
    return markdown(which, found, Options(domain=DOMAINS[domain], output=Path("x"))).splitlines()


def test_the_thirteen_are_those_of_the_classes() -> None:
    names = CLASS_SETS["synthia16"].names
    iou: dict[str, float | None] = {name: float(index) for index, name in enumerate(names)}
    iou["bus"] = None  # no labelled pixel
    counted = [iou[name] for name in names if name not in ("wall", "fence", "pole", "bus")]
    assert outcome(TABLE_2.cells[0], 0, iou, 1.0).miou13 == statistics.fmean(counted)  # type: ignore[type-var]
    assert outcome(TABLE_2.cells[0], 0, {"road": 5.0, "sky": 1.0}, 1.0).miou13 is None  # another domain's classes


def test_seeds_become_mean_and_spread_beside_the_papers_number() -> None:
    sfda, names = TABLE_2.cells[-1], CLASS_SETS["synthia16"].names
    found = [outcome(sfda, seed, dict.fromkeys(names, 10.0 * seed), 40.0 + seed) for seed in (0, 1, 2)]
    lines = page(found)
    assert "| SFDA | deeplabv3 | ✓ | 41.00 ± 1.00 | 39.2 | 10.00 ± 10.00 | 45.89 |" in lines
    assert "| CBST | deeplabv3 | ✗ |  | 38.88 |  | 45.23 |" in lines  # not run yet
    assert "| SFDA | deeplabv3 | Cityscapes | 80.00 ± 0.00 | 50.00 ± 0.00 | 0, 1, 2 | 5 | 0.5 | 102 |  |" in lines


@pytest.mark.parametrize(("miou", "told"), [(29.0, 0), (24.0, 1), (35.0, 1)])
def test_a_source_model_that_is_not_the_papers_is_told_once(miou: float, told: int) -> None:
    found = [outcome(TABLE_2.cells[0], seed, {"road": 1.0}, miou) for seed in (0, 1)]
    lines = [line for line in page(found) if line.startswith("**The source model of synthia_to_cityscapes")]
    assert len(lines) == told
    assert all("the paper's 29.31" in line for line in lines)


def test_other_domains_show_the_papers_table_apart() -> None:
    scenes = exhibit("table_1", DOMAINS["scenes"], ("streetnet",))
    lines = page([outcome(scenes.cells[0], 0, {"road": 1.0}, 50.0)], scenes, "scenes")
    assert "| method | network | SF | night mIoU | fog mIoU | rain mIoU | city mIoU |" in lines
    assert "| source only | streetnet | ✗ | 50.00 |  |  |  |" in lines
    assert "| MaxSquare | segnet | 36.11 |" in lines
    assert any("procedural street scenes" in line for line in lines)


def test_table_4_shows_the_held_out_source() -> None:
    table = exhibit("table_4", DOMAINS["paper"], ("deeplabv3",))
    found = [outcome(table.cells[0], 0, {"road": 1.0}, 50.0)]
    assert "| GTA5 | deeplabv3 | 99.00 | 61.8 |  | 49.8 |  | 55.4 |  | 58.3 |" in page(found, table)
    (line,) = lines_of(table, found)
    assert line["mIoU"] == "99.000"
