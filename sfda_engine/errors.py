"""The ways a command can fail, and its exit code: 2 the user's mistake; 1 training, export, the disk failed, a leak."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's: the message says what was wrong, where, and what to do. Exit code 2."""


class TrainingError(Exception):
    """Training failed although the input was fine (a loss became NaN). Exit code 1."""


class StorageError(Exception):
    """The disk is full or failing: the message says what could not be written and what to do. Exit code 1."""


class FirewallError(Exception):
    """A label before the last step, or source data, was to be opened; refused. Exit code 1."""


class ExportError(Exception):
    """The exported file is not the model that was to be exported; nothing is left of it. Exit code 1."""
