"""result.json holds what design.md section 6 promises to other programs, as strict JSON."""

from __future__ import annotations

import json
import math
import platform

import pytest
import torch

from sfda_engine.data.images import ImageSize
from sfda_engine.evaluation.scores import Evaluation, Scores
from sfda_engine.judge.choice import Choice, ViewScore
from sfda_engine.judge.verdict import ModelScores, Verdict
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.report.result import Result, as_json
from sfda_engine.views.view import View

MODELS = ("source", "bn_warm_start", "start", "adapted", "last")
VIEW, OTHER = View("gamma", ImageSize(128, 96), 0.3), View("none", ImageSize(96, 72), 1.0)
CHOICE = Choice(
    view=VIEW,
    leader=VIEW,
    untouched=View("none", ImageSize(128, 96), 1.0),
    changed=("exposure", "share"),
    by_size=(VIEW, OTHER),
    scores=tuple(ViewScore(view, 0.5, 0.4, math.nan, 1.0, total, 0.0) for view, total in ((VIEW, 2.0), (OTHER, 1.0))),
)
INFO = WeightsInfo(
    arch="streetnet",
    num_classes=2,
    class_names=("road", "sky"),
    palette=((128, 64, 128), (70, 130, 180)),
    exposure="gamma",
    source_sha256="ab" * 32,
)


def evaluation(miou: float, *, deployed: bool = False) -> Evaluation:
    own = Scores(miou, miou + 1, miou + 2, {"road": miou, "sky": None})
    small = Scores(miou + 3, miou + 4, miou + 5, {"road": miou + 3, "sky": None})
    return Evaluation(own, small, 11, own if deployed else None)


def result(scores: dict[str, Evaluation], verdict: Verdict | None = None) -> Result:
    return Result(
        name="demo",
        preset="literal",
        seed=3,
        expected_source_miou=None,
        info=INFO,
        verdict=verdict,
        choice=CHOICE,
        scores=scores,
        steps=600,
        seconds=12.34567,
        images_per_second=387.65432,
        peak_memory_mb=1234.56,
        device="cpu",
        warnings=["method.lr: high"],
        intake={"fits": True},
        guard={"strikes": 0, "ended_early": False, "events": []},
    )


def test_every_promised_key_without_labels() -> None:
    content = as_json(result({}))
    assert (content["verdict"], content["verdict_basis"]) == ("adapted", "not judged")
    assert content["steps"] == 600
    assert content["seconds"] == pytest.approx(12.34567, abs=1e-3)
    assert content["images_per_second"] == pytest.approx(387.65432, abs=1e-3)
    assert content["peak_memory_mb"] == pytest.approx(1234.56, abs=0.1)
    assert (content["config"], content["preset"], content["seed"]) == ("demo", "literal", 3)
    assert content["classes"] == ["road", "sky"]
    assert content["palette"] == [[128, 64, 128], [70, 130, 180]]
    assert (content["source_sha256"], content["exposure"]) == ("ab" * 32, "gamma")
    assert content["warnings"] == ["method.lr: high"]
    assert content["intake"] == {"fits": True}
    assert content["guard"] == {"strikes": 0, "ended_early": False, "events": []}
    assert (
        content["versions"] | {"python": platform.python_version(), "torch": torch.__version__.partition("+")[0]}
        == (content["versions"])
    )
    assert not {"miou", "miou_training_size", "iou", "evaluated_frames"} & content.keys()


def test_scores_by_model_at_both_sizes() -> None:
    content = as_json(result({name: evaluation(10.0 * i) for i, name in enumerate(MODELS)}))
    assert content["miou"] == {"source": 0.0, "bn_warm_start": 10.0, "start": 20.0, "adapted": 30.0, "last": 40.0}
    assert content["miou_training_size"] == {
        "source": 3.0,
        "bn_warm_start": 13.0,
        "start": 23.0,
        "adapted": 33.0,
        "last": 43.0,
    }
    assert content["pixel_accuracy"]["adapted"] == 31.0
    assert content["mean_pixel_accuracy"]["adapted"] == 32.0
    assert content["iou"]["bn_warm_start"] == {"road": 10.0, "sky": None}
    assert content["evaluated_frames"] == 11
    assert "miou_as_deployed" not in content


def test_scores_as_deployed_by_model_where_they_were_asked_for() -> None:
    content = as_json(result({name: evaluation(10.0 * i, deployed=True) for i, name in enumerate(MODELS)}))
    assert content["miou_as_deployed"] == {
        "source": 0.0,
        "bn_warm_start": 10.0,
        "start": 20.0,
        "adapted": 30.0,
        "last": 40.0,
    }


def test_it_is_strict_json_that_reads_back() -> None:
    content = as_json(result({name: evaluation(41.7) for name in MODELS}))
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_a_verdict_is_told_with_the_scores_it_rests_on() -> None:
    scores = {"source": ModelScores(0.5, 0.0, 1.5), "start": ModelScores(0.6, math.inf, 1.6)}
    content = as_json(result({}, Verdict("keep_start", "start", "in words", scores)))
    assert (content["verdict"], content["verdict_basis"]) == ("keep_start", "in words")
    assert (content["selection"]["model"], content["selection"]["step"]) == ("start", None)
    assert content["selection"]["scores"]["start"] == {"agreement": 0.6, "lead": None, "information": 1.6}
    adapted = as_json(result({}, Verdict("adapted", "60", "in words", scores)))
    assert adapted["selection"]["step"] == 60
    json.dumps(content, allow_nan=False)


def test_views_are_told_and_the_chosen_one_is_marked() -> None:
    content = as_json(result({}))
    assert [row["chosen"] for row in content["views"]] == [True, False]
    assert content["views"][0]["size"] == [128, 96]
    assert content["views"][0]["light"] is None
    assert content["bn_share"] == 0.3
    json.dumps(content, allow_nan=False)
