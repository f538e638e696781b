"""Source-free domain adaptation of semantic segmentation (Liu, Zhang, Wang, CVPR 2021).

The way of the data, in reading order; imports point upwards only, and within a folder as they like
(tests/project/test_imports.py reads the order from here):
    errors, files, exit_codes   the ways to fail and to end, whole-or-nothing writing
    config        what a run can be told: schema, presets, checks, loader
    recipes       the shipped runs, one YAML each
    distributed   several processes as one: accelerator, collectives, interrupts, optimizer step
    data          frames in: classes, images, folders, published data sets, procedural scenes, loaders
    models        segmenters, norms, generator, discriminator, preprocessing, weights files
    losses        one term of the paper a file
    views         what a frame may be shown as, and what a model says of it
    judge         without a label: scores, what ships (verdict), collapse while it runs
    method        warm start, teacher, self-training, and the paper's three stages as functions (steps)
    run_folder    create, lock, seal; checkpoint, start, resume
    training      the one loop; position, snapshots, guard, metrics, progress
    evaluation    the only reader of target labels
    inspection    what source model and frames tell before a run
    report        run folder -> HTML
    audit         label firewall, manifest, certificate, provenance
    pipelines     the stages of a run, strung together
    adapt, evaluate, inspect, train_source, certify   the commands
    cli           all of them as `sfda COMMAND`
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfda_engine.config.loader import load_config
    from sfda_engine.pipelines.adaptation import adapt
    from sfda_engine.pipelines.evaluation import evaluate

__all__ = ["adapt", "evaluate", "load_config"]

_HOMES = {
    "adapt": "sfda_engine.pipelines.adaptation",
    "evaluate": "sfda_engine.pipelines.evaluation",
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
