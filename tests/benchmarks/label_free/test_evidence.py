"""Rows, rules and what is concluded from them, on runs made up so that every answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.label_free.__main__ import main
from benchmarks.label_free.evidence import correlations, selection, spearman
from benchmarks.label_free.rows import ScoredModel, append_rows, read_rows
from benchmarks.label_free.rules import RULES, Quality, by_score, choose, guarded
from sfda_engine.errors import UserError
from sfda_engine.judge.scores import HIGHER_IS_BETTER

REFERENCES = [f"{measure}_{name}" for measure in ("agreement", "iou", "bns") for name in ("source", "bn_warm_start")]
SCORES = [*HIGHER_IS_BETTER, *REFERENCES]


def model(kind: str, step: int, miou: float, run: str = "one", **scores: float) -> ScoredModel:
    return ScoredModel(
        run=run, domain="scenes:night", seed=0, settings="50 steps", model=kind, step=step, miou=miou,
        scoring_seconds=1.0, scores=dict.fromkeys(SCORES, 0.0) | scores,
    )  # fmt: skip


def made_up(run: str = "one") -> list[ScoredModel]:
    """A run that collapses: entropy falls all the while, information maximization knows."""
    return [
        model("source", 0, 40.0, run, entropy=0.9, information_maximization=1.0),
        model("bn_warm_start", 0, 55.0, run, entropy=0.5, information_maximization=1.3),
        model("snapshot", 12, 57.0, run, entropy=0.4, information_maximization=1.4),
        model("snapshot", 25, 50.0, run, entropy=0.3, information_maximization=1.2),
        model("snapshot", 50, 30.0, run, entropy=0.2, information_maximization=0.7),
    ]


def test_rows_come_back_from_the_csv_and_runs_are_appended(tmp_path: Path) -> None:
    table = tmp_path / "label_free.csv"
    assert read_rows(table) == []
    append_rows(table, made_up("one"))
    append_rows(table, made_up("two"))
    assert read_rows(table) == made_up("one") + made_up("two")
    assert read_rows(table)[0].key == ("one", "scenes:night", 0, "50 steps")


def test_nan_survives_the_csv(tmp_path: Path) -> None:
    append_rows(tmp_path / "a.csv", [model("snapshot", 1, 2.0, entropy=math.nan)])
    assert math.isnan(read_rows(tmp_path / "a.csv")[0].scores["entropy"])


def test_correlation_is_turned_so_that_one_is_perfect() -> None:
    adapted = made_up()[1:]
    assert spearman(adapted, "information_maximization") == pytest.approx(1.0)
    assert spearman(adapted, "entropy") == pytest.approx(-0.8)  # by hand: ranks of mIoU 3 4 2 1 at entropy 4 3 2 1
    assert spearman(adapted, "bns") is None  # constant
    found = correlations(made_up("one") + made_up("two"))
    assert next(iter(found)) == "information_maximization"
    assert found["entropy"].within_run == pytest.approx(-0.8)
    assert found["entropy"].within_domain["scenes:night"] == pytest.approx(-0.8)


def test_a_snapshot_that_diverged_is_not_correlated_and_not_chosen() -> None:
    rows = [*made_up(), model("snapshot", 60, 2.0, entropy=math.nan, information_maximization=math.nan)]
    assert spearman(rows[1:], "entropy") == pytest.approx(-0.8)
    assert choose(rows, by_score("information_maximization")).snapshot.step == 12


@pytest.mark.parametrize(
    ("quality", "margin", "snapshot", "shipped"),
    [
        (by_score("entropy"), 0.0, 50, ("snapshot", 50)),
        (by_score("information_maximization"), 0.0, 12, ("snapshot", 12)),
        (by_score("information_maximization"), 0.2, 12, ("bn_warm_start", 0)),
        (guarded(by_score("entropy"), "information_maximization", 1.2), 0.0, 25, ("snapshot", 25)),
        (guarded(by_score("entropy"), "information_maximization", 1.35), 0.0, 12, ("snapshot", 12)),
        (RULES["the BN warm start, always"][0], 0.0, 12, ("bn_warm_start", 0)),
    ],
)
def test_a_rule_ships_what_its_quality_says(
    quality: Quality, margin: float, snapshot: int, shipped: tuple[str, int]
) -> None:
    choice = choose(made_up(), quality, margin)
    assert choice.snapshot.step == snapshot
    assert (choice.shipped.model, choice.shipped.step) == shipped


def test_the_source_is_kept_where_it_beats_the_warm_start_and_that_the_snapshots() -> None:
    rows = [model("source", 0, 50, entropy=0.1), model("bn_warm_start", 0, 40, entropy=0.2)]
    rows.append(model("snapshot", 5, 30, entropy=0.3))
    assert choose(rows, by_score("entropy")).shipped.model == "source"


def test_selection_counts_regret_gain_harm_and_verdicts() -> None:
    fooled = selection(made_up(), by_score("entropy"))
    assert (fooled.regret, fooled.gain, fooled.harmed) == (27.0, -25.0, 1)
    assert fooled.confusion == {("keep_bn_warm_start", "adapted"): 1}  # the chosen snapshot is below the warm start
    assert fooled.right == 0.0
    sound = selection(made_up() + made_up("two"), by_score("information_maximization"))
    assert (sound.regret, sound.worst_regret, sound.gain, sound.worst_gain, sound.harmed) == (0.0, 0.0, 2.0, 2.0, 0)
    assert sound.right == 1.0


def test_tables_and_plots_come_from_the_csv_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_rows(tmp_path / "label_free.csv", made_up())
    assert main(["--report", "--output", str(tmp_path)]) == 0
    text = (tmp_path / "label_free.md").read_text()
    assert "| information_maximization | +1.00 | +1.00 |" in text
    assert "| the last snapshot, unjudged | 27.00 | 27.0 | -25.00 | -25.0 | 1 |  |" in text
    assert "| one | scenes:night | 0 | 40.0 | 55.0 | 57.0 | 30.0 |" in text
    assert (tmp_path / "label_free.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--run", "nonsense"], "nonsense"),
        (["--domain", "scenes:mars"], "mars"),
        (["--domain", "camvid:dusk"], "--camvid-source"),
        (["--steps", "3"], "--steps"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_mistakes_are_named(arguments: list[str], word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=word):
        main([*arguments, "--output", str(tmp_path)])
