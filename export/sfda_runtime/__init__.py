"""The vehicle side of sfda-engine: runs an exported bundle with numpy and onnxruntime alone."""

from sfda_runtime.adaptive import Adaptation, AdaptiveSegmenter
from sfda_runtime.card import Card
from sfda_runtime.errors import InputError, IntegrityError, ModelError, ProviderError, RuntimeFault, UsageError
from sfda_runtime.frames import Limits
from sfda_runtime.results import Result, Status
from sfda_runtime.segmenter import Segmenter
from sfda_runtime.session import SessionOptions
from sfda_runtime.state import Bounds

__all__ = [
    "Adaptation",
    "AdaptiveSegmenter",
    "Bounds",
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
