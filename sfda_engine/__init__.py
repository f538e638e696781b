"""Source-free domain adaptation of semantic segmentation (Liu, Zhang, Wang, CVPR 2021).

The way of the data, in reading order; imports point upwards only:
    errors, files, memory  the ways to fail, whole-or-nothing writing, memory taken
    lock                   one process at a time in a run folder
    distributed            several processes as one
    config*, presets       what a run can be told, `config_loader` reads it
    data                   frames in: classes, scenes, folders, published data sets, loaders
    models                 segmenters, generator, discriminator, BatchNorm statistics, weights files
    firewall               no label before the last step, source data never
    attention, ranking     Eq. 8-10 and 13-14, on `sfda_kernels`
    pseudo_labels          labels of target frames by the warm-started source, for self-training
    views                  frames mirrored, resized, brighter, darker, and what a model says of them
    losses                 one term of the paper a file
    input_convention       which convention a network was trained with, and how far frames are from its statistics
    label_free             what can be told of a model on frames without a label
    warm_start             BatchNorm statistics on the target, mixed with the source's by a share chosen without labels
    update                 descent on a loss: over processes, under fp16, accumulated
    steps                  generator, discriminator and student step: the paper's stages as functions
    self_training          batches of pseudo-labelled frames
    synthetic_views, activation_checkpointing   what synthetic images show, less memory for the student
    sealed, checkpoint, unchanged, start   what a run saves to go on from, and whether it is the same run that goes on
    guard_signals, guard   the student watched without labels, and rolled back where it collapses
    position, snapshots, metrics, progress, interrupts, trainer   the loop under Accelerate
    selection              which weights a run ships, judged without a label
    intake_findings, intake, intake_table   what source model and frames tell before a run
    provenance             what it was made with
    build, sliding, evaluate   from configuration to networks; the only reader of target labels
    expectation            the source model's score beside the published one
    results, manifest, report, finish   what a run leaves
    adapt, train_source, inspect_source, certify   the commands
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfda_engine.adapt import adapt
    from sfda_engine.config.loader import load_config
    from sfda_engine.evaluate import evaluate

__all__ = ["adapt", "evaluate", "load_config"]

_HOMES = {
    "adapt": "sfda_engine.adapt",
    "evaluate": "sfda_engine.evaluate",
    "load_config": "sfda_engine.config.loader",
}


class _Package(ModuleType):
    """`adapt` and `evaluate` are commands (modules) and API functions; the package's attribute is the function."""

    def __setattr__(self, name: str, value: object) -> None:
        # the import system binds a submodule to its parent; that would hide the function of the same name
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        # lazy, so that `--help` and `--print_config` do not wait for torch
        if name in _HOMES:
            import_module(_HOMES[name])
            return getattr(sys.modules[_HOMES[name]], name)
        raise AttributeError(f"module 'sfda_engine' has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
