"""Checkpoints of a run: written under a temporary name and renamed, the newest few kept, the newest one resumed."""

from __future__ import annotations

import shutil
from pathlib import Path
from pickle import UnpicklingError

from accelerate import Accelerator
from safetensors import SafetensorError

from sfda_engine.errors import UserError

FOLDER = "checkpoints"
MISFITS = (RuntimeError, ValueError, KeyError)
DAMAGES = (OSError, EOFError, UnpicklingError, SafetensorError)


def save_checkpoint(accelerator: Accelerator, run_folder: Path, step: int, *, keep_last: int) -> Path:
    """Write everything that was prepared or registered as `checkpoints/<step>`; drop all but the newest `keep_last`.

    `step` counts warm-up and adaptation steps together. A crash while writing leaves the earlier ones untouched.
    """
    folder = run_folder / FOLDER
    final, partial = folder / f"{step:07d}", folder / f".partial-{step:07d}"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in list_checkpoints(run_folder)[:-keep_last]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folder = run_folder / FOLDER
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.isdigit())


def load_newest(accelerator: Accelerator, run_folder: Path) -> bool:
    """Load the newest complete checkpoint into what was prepared and registered; False where there is none.

    Raises UserError where it is damaged or does not fit, as when the configuration was changed between the two runs.
    """
    found = list_checkpoints(run_folder)
    if not found:
        return False
    try:
        accelerator.load_state(str(found[-1]))
    except (*MISFITS, *DAMAGES) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"checkpoint {found[-1]} cannot be resumed ({first}); resume with the configuration that wrote it, "
            "or delete that checkpoint folder to go on from the one before"
        ) from error
    return True
