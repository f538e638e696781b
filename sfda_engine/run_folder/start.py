"""What adaptation starts from, saved once in the sealed folder `start`: a resumed run finds it, to the bit.

It holds the BN-warm-started student with the source's share of its statistics and, where the run trains on them, the
pseudo-labels. To make them again would cost minutes, and on a GPU other bits.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from sfda_engine.data.readers import Images
from sfda_engine.errors import StorageError
from sfda_engine.files import disk_faults
from sfda_engine.method.teacher import PseudoLabelled, load_labels, save_labels
from sfda_engine.models.weights import WeightsInfo, load_state, read_weights, save_weights
from sfda_engine.run_folder.sealed import damage, partial_of, seal

log = logging.getLogger(__name__)

FOLDER = "start"
STUDENT, SHARE, LABELS = "bn_warm_start.safetensors", "source_share.json", "pseudo_labels.zip"


@dataclass(frozen=True)
class Start:
    """What a run begins with, beside the student's weights."""

    source_share: float = 0.0
    """Share (0..1) of the source's own BN statistics in the student's."""
    pseudo_labelled: PseudoLabelled | None = None


def save_start(run_folder: Path, student: nn.Module, info: WeightsInfo, start: Start) -> None:
    """Write `start`, whole or not at all. Raises StorageError where the disk is full or failing."""
    final = run_folder / FOLDER
    partial = partial_of(final)
    try:
        with disk_faults(final):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save_weights(partial / STUDENT, student, info)
            (partial / SHARE).write_text(json.dumps(start.source_share))
            if start.pseudo_labelled is not None:
                save_labels(partial / LABELS, start.pseudo_labelled)
            seal(partial, final)
    except StorageError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def find_start(run_folder: Path) -> Path | None:
    """The folder `start`; None where a run has not come so far, or where it is damaged (with a warning)."""
    folder = run_folder / FOLDER
    if not folder.is_dir():
        return None
    what = damage(folder)
    if what is not None:
        log.warning("%s is damaged (%s); it is made again", folder, what)
        return None
    return folder


def load_start(folder: Path, student: nn.Module, target: Images) -> Start:
    """Load the BN-warm-started weights into `student`; returns what the run began with beside them."""
    load_state(student, read_weights(folder / STUDENT)[0], folder / STUDENT)
    return Start(
        source_share=float(json.loads((folder / SHARE).read_text())),
        pseudo_labelled=load_labels(folder / LABELS, target) if (folder / LABELS).exists() else None,
    )
