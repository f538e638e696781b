"""The vehicle side of sfda-engine: runs an exported bundle with numpy and onnxruntime alone."""

from sfda_runtime.card import Card
from sfda_runtime.errors import InputError, IntegrityError, ModelError, ProviderError, RuntimeFault, UsageError
from sfda_runtime.frames import Limits
from sfda_runtime.segmenter import Result, Segmenter, Status
from sfda_runtime.session import SessionOptions

__all__ = [
    "Card",
    "InputError",
    "IntegrityError",
    "Limits",
    "ModelError",
    "ProviderError",
    "Result",
    "RuntimeFault",
    "Segmenter",
    "SessionOptions",
    "Status",
    "UsageError",
]
