"""Which GPU providers this machine lacks."""

from __future__ import annotations

import onnxruntime

from tests.runtime.tiny import model_bytes


def missing_providers() -> list[str]:
    """cuda and tensorrt, as far as they cannot start here; asked of onnxruntime itself."""
    missing = []
    for name, provider in (("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")):
        try:
            session = onnxruntime.InferenceSession(model_bytes(), providers=[provider], enable_fallback=0)
        except Exception:
            missing.append(name)
        else:
            missing += [name] * (provider not in session.get_providers())
    return missing


MISSING = missing_providers()
