"""The ways the vehicle side can refuse, each with the exit code that `sfda-infer` ends with."""

from __future__ import annotations


class RuntimeFault(Exception):
    """Base of all below: the message says what was wrong, where, and what to do."""

    exit_code = 2


class UsageError(RuntimeFault):
    """The caller's mistake: a path, an option, a missing optional package."""


class ModelError(RuntimeFault):
    """The file is no model that this runtime can run: truncated, other inputs, no description."""

    exit_code = 3


class IntegrityError(ModelError):
    """The file is not the one that was exported: hash, manifest or golden labels differ."""


class ProviderError(RuntimeFault):
    """onnxruntime does not run on the provider that was asked for."""

    exit_code = 4


class InputError(RuntimeFault):
    """A frame that must not reach the network: type, shape, size."""

    exit_code = 5
