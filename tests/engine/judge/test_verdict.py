"""The verdict from tables of scores, and that what is judged is what is shipped."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sfda_engine.adapt import main
from sfda_engine.exit_codes import exit_code
from sfda_engine.judge.scores import sample_frames
from sfda_engine.judge.verdict import decide, judge
from sfda_engine.models.weights import read_weights
from sfda_engine.pipelines.training import Trainer

WARM = (0.05, 0.7, 1.0)
FAR = (0.07, 0.5, 0.4)
CASES: dict[str, tuple[dict[str, tuple[float, float, float]], str]] = {
    # mutual information of views, mean IoU between sizes, mean IoU with the BN warm start's labels
    "better in all": ({"source": FAR, "10": (0.04, 0.75, 0.8)}, "10"),
    "the least disagreement of two": ({"source": FAR, "10": (0.044, 0.75, 0.8), "20": (0.041, 0.74, 0.8)}, "20"),
    "the latest of equals": ({"source": FAR, "10": (0.04, 0.75, 0.8), "20": (0.04, 0.75, 0.8)}, "20"),
    "views agree hardly more": ({"source": FAR, "10": (0.046, 0.75, 0.8)}, "bn_warm_start"),
    "sizes agree hardly more": ({"source": FAR, "10": (0.04, 0.72, 0.8)}, "bn_warm_start"),
    "surer, but classes vanished": ({"source": FAR, "10": (0.01, 0.9, 0.5)}, "bn_warm_start"),
    "one snapshot before the collapse": ({"source": FAR, "10": (0.044, 0.75, 0.8), "20": (0.0, 1.0, 0.1)}, "10"),
    "broken": ({"source": FAR, "10": (math.nan, 1.0, 0.1)}, "bn_warm_start"),
    "broken, though it overlaps": ({"source": FAR, "10": (math.nan, 0.9, 0.9)}, "bn_warm_start"),
    "a mild shift": ({"source": (0.03, 0.8, 0.8), "10": (0.06, 0.7, 0.9)}, "source"),
    "adapted before the source": ({"source": (0.03, 0.8, 0.8), "10": (0.04, 0.75, 0.9)}, "10"),
    "a source far from the warm start is not trusted": ({"source": (0.03, 0.8, 0.3), "10": WARM}, "bn_warm_start"),
}
NAMES = ("mutual_information", "iou_scale", "iou_bn_warm_start")


@pytest.mark.parametrize("name", CASES)
def test_verdict_from_three_scores(name: str) -> None:
    table, expected = CASES[name]
    scores = {one: dict(zip(NAMES, own, strict=True)) for one, own in ({"bn_warm_start": WARM} | table).items()}
    chosen, basis = decide(scores)
    assert chosen == expected
    assert basis


def test_the_warm_start_itself_is_not_better_than_itself(trainer: Callable[..., Trainer]) -> None:
    """Snapshots that have not moved: equal scores keep the warm start, and its weights to the bit."""
    run = trainer()
    warm = copy.deepcopy(run.networks.student)
    judgement = judge(
        run.networks.source,
        warm,
        {3: copy.deepcopy(warm)},
        as_source=run.preprocess,
        preprocess=run.preprocess,
        frames=sample_frames(run.target),
        size=run.config.target.size,
    )
    assert judgement.scores["3"] == judgement.scores["bn_warm_start"]
    assert judgement.verdict in ("keep_bn_warm_start", "keep_source")
    assert judgement.step is None
    kept = warm if judgement.verdict == "keep_bn_warm_start" else run.networks.source
    assert all(torch.equal(value, kept.state_dict()[name]) for name, value in judgement.weights.items())


def test_a_collapsed_student_is_not_shipped(
    tiny_yaml: Path,
    night_frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A head that says one class only, after every step: `adapted` is a model that knows the others, `last` is not."""
    taken = Trainer.adapt_on

    def collapses(self: Trainer, *arguments: object) -> object:
        terms = taken(self, *arguments)  # type: ignore[arg-type]
        head = self.networks.student.get_submodule("network.head")
        assert isinstance(head, nn.Conv2d)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.zero_()  # type: ignore[union-attr]
            head.bias[0] = 50  # type: ignore[index]
        return terms

    monkeypatch.setattr(Trainer, "adapt_on", collapses)
    run = tmp_path / "run"
    argv = ["--config", str(tiny_yaml), "--run.output", str(run), "--method.guard", "false"]
    assert exit_code(main, [*argv, "--evaluate.root", str(night_frames)]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["verdict"] in ("keep_bn_warm_start", "keep_source")
    kept = result["verdict"].removeprefix("keep_")
    assert f"verdict: {result['verdict']}; adapted.safetensors holds the weights of the" in capsys.readouterr().out
    assert result["miou"]["adapted"] == result["miou"][kept]
    assert "classes vanished" in result["verdict_basis"]
    last, _ = read_weights(run / "last.safetensors")
    adapted, _ = read_weights(run / "adapted.safetensors")
    bias = next(name for name in last if name.endswith("head.bias"))
    assert last[bias][0] == 50
    assert adapted[bias][0] != 50
