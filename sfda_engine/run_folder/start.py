"""What adaptation starts from, saved once in the sealed folder `start`: a resumed run finds it, to the bit.

It holds the student under the view that was chosen, the source under the full BN warm start for comparison, what every
view said of the judged frames, and the pseudo-labels where the run trains on them. To make them again would cost
minutes, and on a GPU other bits.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from sfda_engine.data.images import ImageSize
from sfda_engine.data.readers import Images
from sfda_engine.errors import StorageError
from sfda_engine.files import disk_faults
from sfda_engine.judge.choice import Choice, ViewScore
from sfda_engine.method.pseudo_labels import PseudoLabelled, load_labels, save_labels
from sfda_engine.models.weights import WeightsInfo, load_state, read_weights, save_weights
from sfda_engine.run_folder.sealed import damage, partial_of, seal
from sfda_engine.views.probabilities import Predictions
from sfda_engine.views.view import View

log = logging.getLogger(__name__)

FOLDER = "start"
STUDENT, CHOICE, WITNESSES, LABELS = "start.safetensors", "choice.json", "witnesses.safetensors", "pseudo_labels.zip"


@dataclass(frozen=True)
class Start:
    """What a run begins with, beside the student's weights."""

    choice: Choice
    witnesses: Predictions
    """What the views of the source say of the judged frames."""
    pseudo_labelled: PseudoLabelled | None = None
    """Indices are those of the training frames."""

    @property
    def view(self) -> View:
        """What the student is at its start."""
        return self.choice.view


def save_start(run_folder: Path, student: nn.Module, info: WeightsInfo, start: Start) -> None:
    """Write `start`, whole or not at all. Raises StorageError where the disk is full or failing."""
    final = run_folder / FOLDER
    partial = partial_of(final)
    try:
        with disk_faults(final):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save_weights(partial / STUDENT, student, info)
            content: dict[str, Any] = {
                "choice": asdict(start.choice),
                "witnesses": [asdict(view) for view in start.witnesses.views],
            }
            content["classes"] = start.witnesses.classes
            (partial / CHOICE).write_text(json.dumps(content))
            witnesses = {name: getattr(start.witnesses, name).contiguous() for name in ("labels", "confidence")}
            save_file(witnesses, partial / WITNESSES)
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


def load_start(folder: Path, student: nn.Module, training: Images) -> Start:
    """Load the start's weights into `student`; returns what the run began with beside them. `training` are the frames
    that were labelled."""
    load_state(student, read_weights(folder / STUDENT)[0], folder / STUDENT)
    content = json.loads((folder / CHOICE).read_text())
    views = tuple(view_of(fields) for fields in content["witnesses"])
    return Start(
        choice_of(content["choice"]),
        Predictions(views, content["classes"], **load_file(folder / WITNESSES)),
        load_labels(folder / LABELS, training) if (folder / LABELS).exists() else None,
    )


def view_of(fields: dict[str, Any]) -> View:
    return View(**fields | {"size": ImageSize(*fields["size"])})


def choice_of(fields: dict[str, Any]) -> Choice:
    views = {name: view_of(fields[name]) for name in ("view", "leader", "untouched")}
    scores = tuple(ViewScore(**row | {"view": view_of(row["view"])}) for row in fields["scores"])
    by_size = tuple(view_of(row) for row in fields["by_size"])
    return Choice(**fields | views | {"changed": tuple(fields["changed"]), "by_size": by_size, "scores": scores})
