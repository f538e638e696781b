"""Each table has the rows that it has in the paper, and each row the settings that it stands for."""

from __future__ import annotations

import pytest

from benchmarks.common.methods.source_driven import SOURCE_DRIVEN
from benchmarks.paper.domains import DOMAINS
from benchmarks.paper.tables import FIGURES, TABLES, exhibit
from sfda_engine.errors import UserError

PAPER = DOMAINS["paper"]
BOTH = ("deeplabv3", "segnet")
DRIVEN = ["source only", "MinEnt", "AdaptSegNet", "CBST", "MaxSquare"]
OURS = ["SFDA (w/o IPSM)", "SFDA"]


def rows(name: str, networks: tuple[str, ...] = BOTH, domain: str = "paper") -> list[tuple[str, str, str]]:
    return [(cell.job.network, cell.row, cell.column) for cell in exhibit(name, DOMAINS[domain], networks).cells]


def test_table_1() -> None:
    deeplab = [("deeplabv3", row, "Cityscapes") for row in DRIVEN + OURS]
    segnet = [("segnet", row, "Cityscapes") for row in DRIVEN + OURS if row != "CBST"]
    assert rows("table_1") == deeplab + segnet


def test_table_2() -> None:
    assert rows("table_2") == [("deeplabv3", row, "Cityscapes") for row in DRIVEN + OURS]


def test_table_3() -> None:
    methods = [row for row in DRIVEN if row != "CBST"] + ["transfer only"] + OURS
    cities = ("Rome", "Rio", "Tokyo", "Taipei")
    assert rows("table_3") == [("deeplabv3", row, city) for row in methods for city in cities]


def test_table_4() -> None:
    columns = ("source model", "BNS", "DAD", "BNS+DAD")
    sources = ("GTA5", "Cityscapes", "SYNTHIA")
    assert rows("table_4") == [("deeplabv3", source, column) for source in sources for column in columns]


@pytest.mark.parametrize(("name", "values"), [("table_5", "0.1 0.5 1 2"), ("table_6", "0.01 0.1 0.5 1")])
def test_tables_5_and_6(name: str, values: str) -> None:
    assert rows(name) == [("deeplabv3", value, "Cityscapes") for value in values.split()]


def test_figures() -> None:
    four = ["source only", "MinEnt", *OURS]
    assert rows("figure_6") == [("deeplabv3", row, "Cityscapes") for row in four]
    assert rows("figure_7") == [("deeplabv3", "Cityscapes", column) for column in ("BNS", "DAD", "BNS+DAD")]
    columns = ("GTA5 → Cityscapes", "Cityscapes → Rio")
    assert rows("figure_8") == [("deeplabv3", str(k), column) for k in range(1, 6) for column in columns]


@pytest.mark.parametrize("domain", ["scenes", "camvid"])
def test_other_domains_have_the_same_rows_on_their_targets(domain: str) -> None:
    targets = {"scenes": ("night", "fog", "rain", "city"), "camvid": ("dusk",)}[domain]
    assert rows("table_1", ("streetnet",), domain) == [
        ("streetnet", row, target) for row in DRIVEN + OURS for target in targets
    ]
    assert {row for _, row, _ in rows("table_3", ("streetnet",), domain)} == {row for _, row, _ in rows("table_3")}
    assert [column for _, _, column in rows("table_4", ("streetnet",), domain)] == [
        "source model", "BNS", "DAD", "BNS+DAD",
    ]  # fmt: skip
    for name in [*(f"table_{n}" for n in TABLES), *(f"figure_{n}" for n in FIGURES)]:
        cells = exhibit(name, DOMAINS[domain], ("streetnet",)).cells
        assert all(cell.printed is None for cell in cells)


def test_marks_are_the_papers_and_methods_fit_them() -> None:
    for name in ("table_1", "table_2", "table_3"):
        for cell in exhibit(name, PAPER, BOTH).cells:
            assert cell.source_free is (cell.job.method == "sfda")
            assert cell.job.method in {"source_only", "sfda", *SOURCE_DRIVEN}


def changes_of(name: str, row: str, column: str | None = None) -> dict[str, object]:
    cells = exhibit(name, PAPER, ("deeplabv3",)).cells
    return dict(next(cell for cell in cells if cell.row == row and column in (None, cell.column)).job.changes)


def test_what_is_switched() -> None:
    full = changes_of("table_4", "GTA5", "BNS+DAD")
    assert (full["student_init"], full["alpha"], full["beta"], full["tau"]) == ("fresh", 1.0, 0.5, 0.5)
    assert full["max_square_weight"] == full["gamma"] == full["pseudo_label_weight"] == 0
    assert changes_of("table_4", "GTA5", "BNS") == full | {"beta": 0.0, "tau": 0.0}
    assert changes_of("table_4", "GTA5", "DAD") == full | {"bns_weight": 0.0}
    assert changes_of("table_3", "transfer only") == full
    assert changes_of("table_1", "SFDA") == {"gamma": 0.01}  # as the paper has it, whatever the configuration
    assert changes_of("table_1", "SFDA (w/o IPSM)") == {"gamma": 0.0}
    own = {"pseudo_label_weight": 0.0, "target_bn": "batch", "bn_share": 0.0, "clip_grad_norm": 1.0}
    assert changes_of("table_5", "2") == own | {"alpha": 2.0, "beta": 0.5, "tau": 0.5}
    assert changes_of("table_6", "0.01") == own | {"alpha": 1.0, "beta": 0.01, "tau": 0.01}
    assert changes_of("figure_8", "3") == own | {"patch_grid": 3}


def test_a_table_without_rows_for_a_network() -> None:
    with pytest.raises(UserError, match=r"table 2 .* segnet"):
        exhibit("table_2", PAPER, ("segnet",))
