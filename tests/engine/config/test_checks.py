"""Settings that are each in range and make no sense together."""

from __future__ import annotations

from typing import Any

import pytest

from sfda_engine.config.checks import check_same_world, validate
from sfda_engine.config.schema import Config, EvaluateConfig, MethodConfig, TargetConfig
from sfda_engine.errors import UserError

NO_TERM_BUT_IPSM: dict[str, Any] = {"alpha": 0.0, "beta": 0.0, "max_square_weight": 0.0, "pseudo_label_weight": 0.0}


@pytest.mark.parametrize("without_ipsm", [{"gamma": 0.0}, {"patch_grid": 1}])
def test_a_student_without_any_loss_is_refused(without_ipsm: dict[str, Any]) -> None:
    method = MethodConfig(**NO_TERM_BUT_IPSM, **without_ipsm)
    with pytest.raises(UserError, match="without any loss"):
        validate(Config(method=method))


@pytest.mark.parametrize("on", ["alpha", "beta", "max_square_weight", "pseudo_label_weight", "gamma"])
def test_any_one_loss_is_enough(on: str) -> None:
    validate(Config(method=MethodConfig(**(NO_TERM_BUT_IPSM | {"gamma": 0.0} | {on: 0.1}))))


def test_a_fresh_student_on_running_target_statistics_is_refused() -> None:
    """The synthetic passes would change them between the forward and the backward pass of the target frames."""
    with pytest.raises(UserError, match=r"method\.target_bn.*method\.student_init"):
        validate(Config(method=MethodConfig(student_init="fresh", target_bn="running")))
    validate(Config(method=MethodConfig(student_init="fresh", target_bn="batch")))
    validate(Config(method=MethodConfig(target_bn="running")))


@pytest.mark.parametrize("target", ["folder", "camvid"])
def test_scenes_do_not_score_what_was_adapted_to_frames_on_disk(target: Any) -> None:
    scenes = EvaluateConfig(dataset="scenes", split="night")
    with pytest.raises(UserError, match=rf"--evaluate\.dataset {target} --evaluate\.root FOLDER.*--evaluate null"):
        check_same_world(Config(target=TargetConfig(dataset=target), evaluate=scenes))
    check_same_world(Config(target=TargetConfig(dataset=target)))
    check_same_world(Config(target=TargetConfig(dataset=target), evaluate=EvaluateConfig()))
    check_same_world(Config(target=TargetConfig(dataset="scenes", split="night"), evaluate=scenes))
