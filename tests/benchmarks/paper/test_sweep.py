"""Every row of every table of the paper, from fabricated data sets to CSV, Markdown and PNG, with both networks."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.paper.numbers import printed_table
from tests.benchmarks.paper.conftest import command

pytestmark = pytest.mark.slow


def lines(swept: Path, name: str) -> list[dict[str, str]]:
    with (swept / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("table", [1, 2, 3, 4, 5, 6])
def test_every_printed_cell_has_a_run_beside_it(swept: Path, table: int) -> None:
    made = {(line["network"], line["row"], line["column"]): line for line in lines(swept, f"table_{table}")}
    printed = printed_table(table)
    assert list(made) == [(one.network, one.row, one.column) for one in printed]
    for one in printed:
        line = made[one.network, one.row, one.column]
        assert float(line["paper_mIoU"]) == one.values["mIoU"]
        assert all(0 <= float(line[name]) <= 100 for name in ("mIoU", "PA", "mPA", "mIoU_training_size"))
        assert line["source_free"] == {True: "yes", False: "no", None: ""}[one.source_free]
        assert int(line["steps"]) == (0 if line["method"] == "source_only" else 2)
        assert float(line["peak_memory_mb"]) > 0
        assert float(line["hours"]) >= 0


def test_means_are_those_of_the_classes_that_occur(swept: Path) -> None:
    names = ("road", "sidewalk", "building", "pole", "traffic sign", "vegetation", "sky", "person", "car")
    for table in (1, 2):
        for line in lines(swept, f"table_{table}"):
            values = [float(line[name]) for name in names]
            assert math.isclose(float(line["mIoU"]), sum(values) / len(values), abs_tol=1e-3)
            assert line["train" if table == 1 else "bus"] == ""


def test_table_4_is_scored_on_the_source(swept: Path) -> None:
    for line in lines(swept, "table_4"):
        scores = json.loads((swept / "runs" / line["run"] / "score.json").read_text())["scores"]
        assert float(line["mIoU"]) == pytest.approx(scores["source"]["miou"], abs=1e-3)
        assert scores["source"]["evaluated_frames"] == 2
    assert len({line["run"] for line in lines(swept, "table_4")}) == 12


def test_tables_share_equal_runs(swept: Path) -> None:
    """The runs of table 5 at alpha 1, of table 6 at beta 0.5, of figure 8 at K 4 and SFDA of table 1 are one."""
    (sfda,) = [
        line["run"] for line in lines(swept, "table_1") if (line["network"], line["row"]) == ("deeplabv3", "SFDA")
    ]
    (alpha,) = [line["run"] for line in lines(swept, "table_5") if line["row"] == "1"]
    (beta,) = [line["run"] for line in lines(swept, "table_6") if line["row"] == "0.5"]
    patches = {(line["row"], line["column"]): line["run"] for line in lines(swept, "figure_8")}
    assert sfda == alpha == beta == patches["4", "GTA5 → Cityscapes"]
    assert len(set(patches.values())) == 10
    rio = {line["row"]: line["run"] for line in lines(swept, "table_3") if line["column"] == "Rio"}
    distilled = {(line["row"], line["column"]): line["run"] for line in lines(swept, "table_4")}
    assert rio["transfer only"] == distilled["Cityscapes", "BNS+DAD"]
    assert rio["source only"] == distilled["Cityscapes", "source model"]


def test_one_source_model_a_recipe(swept: Path) -> None:
    recipes = sorted(folder.name.split(".")[0] for folder in (swept / "sources").iterdir())
    assert recipes == ["cityscapes_source", "gta5_source", "gta5_source_segnet", "synthia_source"]
    assert not list(swept.glob("*/*/checkpoints"))


def test_pages_have_the_papers_numbers_beside_ours(swept: Path) -> None:
    text = (swept / "table_1.md").read_text()
    ours = next(line for line in lines(swept, "table_1") if (line["network"], line["row"]) == ("segnet", "MaxSquare"))
    assert f"| MaxSquare | segnet | ✗ | {float(ours['mIoU']):.2f} | 36.11 |" in text
    assert "| SFDA | deeplabv3 | Cityscapes | paper | 84.2 | 39.2 | 82.7 |" in text
    assert "**The source model of gta5_to_cityscapes, deeplabv3, has" in text  # two steps make no source model
    assert "45.89" in (swept / "table_2.md").read_text()
    assert "| transfer only | deeplabv3 | ✓ |" in (swept / "table_3.md").read_text()


@pytest.mark.parametrize("name", [*(f"table_{n}" for n in range(1, 7)), *(f"figure_{n}" for n in (6, 7, 8))])
def test_pictures_are_drawn(swept: Path, name: str) -> None:
    with Image.open(swept / f"{name}.png") as image:
        assert min(image.size) > 200
        assert len(image.convert("RGB").getcolors(1 << 24)) > 5


def test_what_is_done_is_not_run_again(
    swept: Path,
    narrow: None,
    paper_words: list[str],
    calls: Callable[[], list[str]],
    no_pictures: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.stat().st_mtime_ns for path in swept.glob("runs/*/score.json")}
    words = ["--table", "1", "--table", "4", *paper_words, "--output", str(swept)]
    assert command.main(words) == 0
    assert calls() == []
    assert "0 runs made, 24 " in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in swept.glob("runs/*/score.json")}


def test_another_schedule_is_another_run(
    swept: Path, paper_words: list[str], calls: Callable[[], list[str]], no_pictures: None
) -> None:
    changed = [*paper_words, "--output", str(swept), "--table", "5", "--network", "deeplabv3"]
    changed[changed.index("--steps") + 1] = "3"
    command.main(changed)
    assert len(calls()) == 4
