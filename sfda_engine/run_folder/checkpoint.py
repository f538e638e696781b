"""Checkpoints of a run: sealed folders, of which the newest few are kept and the newest undamaged one is resumed.

Everything that was prepared by Accelerate is in them (models, optimizers, loss scaler, the random numbers of Python,
NumPy, torch and CUDA), and everything with `state_dict` and `load_state_dict` that was given to
`accelerator.register_for_checkpointing`: nested dicts, lists and tuples of tensors, numbers, strings and None, which
come back on the CPU.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from sfda_engine.distributed.collectives import wait_for_all
from sfda_engine.errors import StorageError, TrainingError, UserError
from sfda_engine.files import disk_fault
from sfda_engine.run_folder.sealed import damage, discard, partial_of, remove_unsealed, seal

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
MISFITS = (RuntimeError, ValueError, KeyError)
DAMAGES = (OSError, EOFError, UnpicklingError, SafetensorError)


def save_checkpoint(accelerator: Accelerator, run_folder: Path, step: int, *, keep_last: int) -> Path:
    """Write everything that was prepared or registered as `checkpoints/<step>`; drop all but the newest `keep_last`.

    `step` counts warm-up and adaptation steps together. A crash while writing leaves the earlier ones untouched.
    Raises StorageError where the disk is full or failing; nothing is left of the new one then.
    """
    final = run_folder / FOLDER / f"{step:07d}"
    partial = partial_of(final)
    try:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        wait_for_all()
        accelerator.save_state(str(partial))
        wait_for_all()
        if accelerator.is_main_process:
            seal(partial, final)
    except (OSError, SafetensorError, StorageError, TrainingError, RuntimeError) as error:
        # of a disk that is full torch.save says so in words alone: the disk is asked, before there is room again
        fault = disk_fault(partial) if isinstance(error, RuntimeError) and partial.is_dir() else error
        shutil.rmtree(partial, ignore_errors=True)
        if fault is None or isinstance(fault, TrainingError | RuntimeError):
            raise
        raise _unwritten(run_folder, final, fault) from error
    if accelerator.is_main_process:
        _keep(run_folder, step, keep_last)
    wait_for_all()
    return final


def _unwritten(run_folder: Path, final: Path, error: Exception) -> StorageError:
    free = shutil.disk_usage(run_folder).free
    before = list_checkpoints(run_folder)
    left = f"checkpoint {before[-1].name} is untouched" if before else "there is no earlier checkpoint"
    return StorageError(
        f"checkpoint {final} could not be written ({_first_line(error)}; {free / 2**20:.1f} MiB are free there); "
        f"{left}. Free or repair that disk, then go on with --run.resume true; --run.keep_last 1 needs the least room"
    )


def _keep(run_folder: Path, step: int, keep_last: int) -> None:
    """Keep the newest `keep_last` up to `step`: a later one was damaged, or the run would not have come by here."""
    found = list_checkpoints(run_folder)
    kept = [path for path in found if int(path.name) <= step][-keep_last:]
    for path in found:
        if path not in kept:
            discard(path)
    remove_unsealed(run_folder / FOLDER)


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first; whether their files are still as they were written is not asked."""
    folder = run_folder / FOLDER
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.isdigit())


def newest_undamaged(run_folder: Path) -> Path | None:
    """The checkpoint to resume; None where the run has none. A damaged one is passed over with a warning.

    Raises UserError where all are damaged: a run that has lost hours of work does not begin anew without a word.
    """
    found = list_checkpoints(run_folder)
    damaged: list[str] = []
    for path in reversed(found):
        what = damage(path)
        if what is None:
            for each in damaged:
                log.warning("checkpoint %s; going on from %s", each, path.name)
            return path
        damaged.append(f"{path} is damaged ({what})")
    if damaged:
        raise UserError(
            f"no checkpoint can be resumed: {'; '.join(damaged)}. Put back an undamaged copy, "
            f"or delete {run_folder / FOLDER} to start from the beginning"
        )
    return None


def load_newest(accelerator: Accelerator, run_folder: Path) -> bool:
    """Load the newest undamaged checkpoint into what was prepared and registered; False where there is none.

    Raises UserError where all are damaged, or where it does not fit, as when another version of the code wrote it.
    """
    if accelerator.is_main_process:
        remove_unsealed(run_folder / FOLDER)
    newest = newest_undamaged(run_folder)
    if newest is None:
        return False
    try:
        for path in newest.glob("custom_checkpoint_*.pkl"):
            torch.load(path, map_location="cpu", weights_only=True)  # Accelerate would unpickle anything
        accelerator.load_state(str(newest))
    except (*MISFITS, *DAMAGES) as error:
        raise UserError(
            f"checkpoint {newest} cannot be resumed ({_first_line(error)}); resume with the "
            "configuration and version that wrote it, or delete that checkpoint folder to go on from the one before"
        ) from error
    return True


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
