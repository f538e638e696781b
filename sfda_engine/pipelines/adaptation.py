"""A run of `adapt`: open the inputs, prepare the student, train it, decide what ships, score where labels are given,
report."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfda_engine.audit.firewall import Firewall, firewall
from sfda_engine.audit.label_places import check_target_place
from sfda_engine.config.checks import check_same_world
from sfda_engine.config.schema import Config
from sfda_engine.distributed.accelerator import end_trackers
from sfda_engine.distributed.collectives import wait_for_all
from sfda_engine.errors import UserError
from sfda_engine.evaluation.scores import scoring_failed
from sfda_engine.pipelines.cost import print_plan
from sfda_engine.pipelines.inputs import begin_run, open_inputs, run_folder_of
from sfda_engine.pipelines.judging import decide
from sfda_engine.pipelines.preparation import prepare
from sfda_engine.pipelines.reporting import export_bundle, is_finished, report
from sfda_engine.pipelines.scoring import score
from sfda_engine.pipelines.training import train
from sfda_engine.run_folder.lock import released_after

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adaptation:
    """What a finished run leaves: its folder and the content of result.json."""

    folder: Path
    result: dict[str, Any]


@released_after
def adapt(config: Config) -> Adaptation | None:
    """Run the whole SFDA loop and leave a run folder; None after a dry run.

    Labels are opened by `score` alone, after the last step, and source data never: a firewall sees to it.
    Raises UserError for bad input, TrainingError where a term became NaN, FirewallError where anything tried to open
    a label, ExportError where `run.export` failed, KeyboardInterrupt after Ctrl-C (a checkpoint is written first).
    """
    check_target_place(config.target, config.evaluate)
    check_same_world(config)
    with firewall(config) as wall:
        return adapt_behind(wall, config)


def adapt_behind(wall: Firewall, config: Config) -> Adaptation | None:
    """`adapt`, behind its firewall."""
    opened = open_inputs(config)
    if config.run.dry_run:
        print_plan(config, opened)
        return None
    folder = run_folder_of(config)
    if config.run.resume and is_finished(config, folder):
        log.warning("%s is finished; nothing to resume", folder)
        return Adaptation(folder, json.loads((folder / "result.json").read_text()))
    inputs = begin_run(config, opened, folder, wall)
    trained = train(prepare(inputs))
    shipped = decide(trained)
    wait_for_all()
    try:
        wall.lift(trained.loop.position.done("adaptation"))
        scores = score(trained.inputs, shipped)
    except UserError as error:
        raise scoring_failed(error, folder) from error
    result = report(trained, shipped, scores, opened.intake, wall)
    end_trackers(inputs.accelerator)
    if config.run.export and inputs.accelerator.is_main_process:
        export_bundle(folder)
    return Adaptation(folder, result)
