"""Commands in processes of their own, killed with SIGKILL at a chosen moment of a chosen phase."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from sfda_engine.exit_codes import exit_code
from sfda_engine.pipelines.training import Trainer
from sfda_engine.training.guard import Guard
from sfda_engine.training.metrics import Metrics

HERE = "here"
PIPELINES = ("adaptation", "preparation", "judging", "reporting", "source_training")
ADAPTATION, PREPARATION, JUDGING, REPORTING, SOURCE = (
    import_module(f"sfda_engine.pipelines.{name}") for name in PIPELINES
)

LOOP = import_module("sfda_engine.training.loop")

# command -> phase -> whose function it is; in the order of a run
PHASES: dict[str, dict[str, tuple[Any, str]]] = {
    "adapt": {
        "choosing the view": (PREPARATION, "choose_view"),
        "pseudo-labels": (PREPARATION, "label_target"),
        "saving the start": (PREPARATION, "save_start"),
        "generator warm-up": (Trainer, "warm_up_on"),
        "log line": (Metrics, "write"),
        "guard": (Guard, "look"),
        "checkpoint": (LOOP, "save_checkpoint"),
        "adaptation": (Trainer, "adapt_on"),
        "saving weights": (PREPARATION, "save_weights"),
        "selection": (JUDGING, "judge"),
        "shipping": (JUDGING, "save_weights"),
        "evaluation": (ADAPTATION, "score"),
        "figures": (REPORTING, "save_panels"),
        "manifest": (REPORTING, "write_manifest"),
        "report": (REPORTING, "write_report"),
    },
    "train_source": {
        "training": (SOURCE, "segmentation_loss"),
        "checkpoint": (LOOP, "save_checkpoint"),
        "saving weights": (SOURCE, "save_weights"),
        "evaluation": (SOURCE, "evaluate_images"),
    },
}
ANY = "any"  # the whole command as one phase
Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Kill:
    """SIGKILL `after` seconds into the `call`-th call of a phase, counted from 1."""

    phase: str
    call: int
    after: float


def run(command: str, argv: list[str], log: Path, kill: Kill | None = None) -> tuple[int, Seconds]:
    """Exit code of the process (-9 where it was killed) and, where it was not, the seconds of every phase's calls.

    A call that is through before its moment comes waits for it.
    """
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])
    receiver, sender = forks.Pipe(duplex=False)
    process = forks.Process(target=_child, args=(command, argv, log, kill, sender))
    process.start()
    sender.close()
    message = receiver.recv()
    if message == HERE:
        assert kill is not None
        time.sleep(kill.after)
        process.kill()
        process.join()
        return process.exitcode or 0, {}
    process.join()
    return message


def _child(command: str, argv: list[str], log: Path, kill: Kill | None, sender: Connection) -> None:
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = log.open("a")
    seconds: Seconds = defaultdict(list)

    def watch(phase: str, function: Callable) -> Callable:
        @wraps(function)
        def watched(*arguments: Any, **named: Any) -> Any:
            here = kill is not None and kill.phase == phase and len(seconds[phase]) + 1 == kill.call
            if here:
                sender.send(HERE)
            since = time.perf_counter()
            result = function(*arguments, **named)
            seconds[phase].append(time.perf_counter() - since)
            while here:  # through before its moment came: it waits
                time.sleep(1)
            return result

        return watched

    for phase, (owner, name) in PHASES[command].items():
        setattr(owner, name, watch(phase, getattr(owner, name)))
    code = exit_code(watch(ANY, import_module(f"sfda_engine.{command}").main), argv)
    sender.send((code, dict(seconds)))


def leavings(folder: Path) -> dict[str, Any]:
    """What a finished run leaves, without what a clock decides."""
    files = ("adapted", "last", "start", "bn_warm_start", "source")
    weights = {path.name: path.read_bytes() for name in files if (path := folder / f"{name}.safetensors").exists()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scores = {
        path.name: {
            key: json.loads(path.read_text()).get(key)
            for key in ("miou", "iou", "steps", "verdict", "selection", "guard")
        }
        for path in (folder / "result.json", folder / "evaluation.json")
        if path.exists()
    }
    strays = list(folder.rglob(".*"))
    numbers = [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]
    names = sorted(path.name for path in folder.iterdir())
    return {"weights": weights, "metrics": numbers, "scores": scores, "strays": strays, "names": names}
