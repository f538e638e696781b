"""What a run starts from, saved once: a resumed run must find the same, not make it again.

The sealed folder `start` holds the BN-warm-started student, the pseudo-labels where the run has any, and
`origin.json`: facts that the configuration does not tell, by which a changed input is noticed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from sfda_engine.data.readers import Images
from sfda_engine.errors import StorageError, UserError
from sfda_engine.files import disk_faults, write_json
from sfda_engine.models.weights import WeightsInfo, load_state, read_weights, save_weights
from sfda_engine.pseudo_labels import PseudoLabelled, load_labels, save_labels
from sfda_engine.sealed import damage, partial_of, seal

log = logging.getLogger(__name__)

FOLDER = "start"
STUDENT, LABELS, ORIGIN = "bn_warm_start.safetensors", "pseudo_labels.zip", "origin.json"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The inputs of a run, as far as they decide its bits."""

    weights_sha256: str | None
    """Of the source weights; None for a network that knows nothing yet."""
    frames: int
    """Number of training frames."""
    frame_names_sha256: str
    mixed_precision: str
    """As it came out, from the configuration or the launcher."""
    processes: int


def origin_of(accelerator: Accelerator, frames: Images, weights_sha256: str | None) -> Origin:
    """The facts of the run that is about to start."""
    names = "\n".join(frames.name(index) for index in range(len(frames)))
    return Origin(
        weights_sha256=weights_sha256,
        frames=len(frames),
        frame_names_sha256=hashlib.sha256(names.encode()).hexdigest(),
        mixed_precision=accelerator.mixed_precision,
        processes=accelerator.num_processes,
    )


def save_start(
    run_folder: Path,
    origin: Origin,
    student: nn.Module | None = None,
    info: WeightsInfo | None = None,
    labelled: PseudoLabelled | None = None,
) -> None:
    """Write `start`, whole or not at all. Raises StorageError where the disk is full or failing."""
    final = run_folder / FOLDER
    partial = partial_of(final)
    try:
        with disk_faults(final):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write_json(partial / ORIGIN, asdict(origin))
            if student is not None and info is not None:
                save_weights(partial / STUDENT, student, info)
            if labelled is not None:
                save_labels(partial / LABELS, labelled)
            seal(partial, final)
    except StorageError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def load_start(run_folder: Path, origin: Origin) -> Path | None:
    """The folder `start` of a run that goes on; None where there is none yet, or a damaged one (a warning).

    Raises UserError where the run began with other inputs.
    """
    folder = run_folder / FOLDER
    if not folder.is_dir():
        return None
    what = damage(folder)
    if what is not None:
        log.warning("%s is damaged (%s); it is made again", folder, what)
        return None
    begun = Origin(**json.loads((folder / ORIGIN).read_text(encoding="utf-8")))
    _check_same(begun, origin, run_folder)
    return folder


def load_student(folder: Path, student: nn.Module) -> None:
    """Load the BN-warm-started weights of `start` into `student`."""
    load_state(student, read_weights(folder / STUDENT)[0], folder / STUDENT)


def load_pseudo_labels(folder: Path, target: Images) -> PseudoLabelled | None:
    """The pseudo-labels of `start`, where the run has any."""
    return load_labels(folder / LABELS, target) if (folder / LABELS).exists() else None


def _check_same(begun: Origin, origin: Origin, run_folder: Path) -> None:
    changed = [
        f"{name} was {before}, is {now}"
        for (name, before), now in zip(asdict(begun).items(), asdict(origin).values(), strict=True)
        if before != now and name != "processes"
    ]
    if changed:
        raise UserError(
            f"run.resume: {run_folder} began with other inputs ({'; '.join(changed)}); give it the same again, or name "
            "another folder with --run.output"
        )
    if begun.processes != origin.processes:
        log.warning(
            "%s began with %d processes and goes on with %d: equal up to rounding, not bit for bit",
            run_folder,
            begun.processes,
            origin.processes,
        )
