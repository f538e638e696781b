"""An onnxruntime session that really runs on the provider that was asked for."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from sfda_runtime.card import Card
from sfda_runtime.errors import ModelError, ProviderError, UsageError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}

log = logging.getLogger("sfda_runtime")


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How onnxruntime runs a model."""

    providers: Sequence[str] = ("cpu",)
    """cpu | cuda | tensorrt, the preferred one first; all of them must really be in use. CPU is always the last."""
    threads: int = 1
    """Threads within an operator, on the CPU."""
    spinning: bool = False
    """Let idle threads spin: no faster in a loop of a fixed rate, at four times the CPU time (measured)."""
    allow_fallback: bool = False
    """Run on the CPU where a provider is missing, instead of refusing."""
    device: int = 0
    """Number of the GPU."""
    engine_cache: Path | None = None
    """Folder of TensorRT's engines; None: sfda-runtime under $XDG_CACHE_HOME or ~/.cache."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.providers) - set(PROVIDERS))
        if unknown or not self.providers:
            raise UsageError(f"unknown provider {', '.join(unknown) or '(none)'}: choose from {', '.join(PROVIDERS)}")
        if self.threads < 1:
            raise UsageError(f"threads must be at least 1, not {self.threads}")


def open_session(model: bytes, options: SessionOptions) -> onnxruntime.InferenceSession:
    """A CPU session on a model's bytes. ModelError where they are no model."""
    return _create(model, options, ["CPUExecutionProvider"])


def on_providers(
    session: onnxruntime.InferenceSession, model: bytes, card: Card, sha256: str, options: SessionOptions
) -> onnxruntime.InferenceSession:
    """The CPU session of `open_session` itself, or one of the same model on the GPU providers that were asked for.

    ProviderError where onnxruntime left one of them out (it says so in its log only and runs on the CPU).
    """
    wanted = provider_list(card, sha256, options, onnxruntime.__version__)
    if not wanted:
        return session
    try:
        _prepare(wanted)
        accelerated = _create(model, options, [*wanted, "CPUExecutionProvider"])
        check_providers([name for name, _ in wanted], accelerated)
        return accelerated
    except (ModelError, ProviderError) as error:
        if not options.allow_fallback:
            raise ProviderError(
                f"{', '.join(options.providers)}: onnxruntime {onnxruntime.__version__} does not run the model there "
                f"({error}). Install the provider's libraries (docs/deploy.md), or allow the CPU by --allow-fallback"
            ) from error
        log.warning("running on the CPU, not on %s (%s)", ", ".join(options.providers), error)
        return session


def check_providers(wanted: Sequence[str], session: onnxruntime.InferenceSession) -> None:
    """ProviderError where the session left out a wanted provider, or gave the first of them nothing to do."""
    missing = [name for name in wanted if name not in session.get_providers()]
    if missing:
        raise ProviderError(f"{', '.join(missing)} could not be started")
    nodes = assigned_nodes(session)
    if nodes and wanted[0] not in nodes:
        raise ProviderError(f"{wanted[0]} was given no node of the model; it runs on {', '.join(nodes)}")


def assigned_nodes(session: onnxruntime.InferenceSession) -> dict[str, int]:
    """Number of graph nodes by provider; empty where this onnxruntime (before 1.24) cannot tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts


def provider_list(card: Card, sha256: str, options: SessionOptions, version: str) -> list[tuple[str, dict[str, Any]]]:
    """GPU providers with their options, in the order asked; empty for the CPU alone.

    `sha256` is the model's hash, `version` onnxruntime's. Names and values are those of the providers' documentation:
    onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html and TensorRT-ExecutionProvider.html.
    """
    # what TensorRT cannot run belongs on the same device
    follows = ("cuda",) if "tensorrt" in options.providers else ()
    names = dict.fromkeys(name for name in (*options.providers, *follows) if name != "cpu")
    build = {"cuda": _cuda_options, "tensorrt": _tensorrt_options}
    return [(PROVIDERS[name], build[name](card, sha256, options, version)) for name in names]


def _cuda_options(card: Card, sha256: str, options: SessionOptions, version: str) -> dict[str, Any]:
    return {
        "device_id": options.device,
        # EXHAUSTIVE, the default, measures at every start: a long first frame, and not always the same algorithm
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }


def _tensorrt_options(card: Card, sha256: str, options: SessionOptions, version: str) -> dict[str, Any]:
    root = options.engine_cache or _cache_home() / "sfda-runtime" / "engines"
    # onnxruntime asks to clear the cache when the model or its own version changes
    cache = str(root / f"{sha256[:16]}-ort{version}")
    width, height = card.size
    # one shape only, which is all that the runtime feeds: a range would cost speed, an unseen shape a rebuild
    shape = f"frames:1x{height}x{width}x3"
    return {
        "device_id": options.device,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": cache,
        "trt_fp16_enable": card.precision == "fp16",
        "trt_int8_enable": card.precision == "int8",
        "trt_profile_min_shapes": shape,
        "trt_profile_opt_shapes": shape,
        "trt_profile_max_shapes": shape,
    }


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _prepare(wanted: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Load CUDA's libraries where pip installed them, make the engine's folder, announce a build of minutes.

    ProviderError where this onnxruntime was built without one of the providers.
    """
    if unknown := {name for name, _ in wanted} - set(onnxruntime.get_available_providers()):
        raise ProviderError(f"it was built without {', '.join(sorted(unknown))}: install sfda-runtime[gpu]")
    if hasattr(onnxruntime, "preload_dlls"):
        # it reports on stdout, which belongs to the command's own output
        with contextlib.redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()
    cache = dict(wanted).get(PROVIDERS["tensorrt"], {}).get("trt_engine_cache_path")
    if cache is not None:
        try:
            Path(cache).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the engine cache {cache} cannot be made ({error.strerror}); name another") from error
        if not any(Path(cache).glob("*.engine")):
            log.warning("TensorRT builds its engine in %s now: this takes minutes, once", cache)


def _create(
    model: bytes, options: SessionOptions, providers: Sequence[str | tuple[str, dict[str, Any]]]
) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # what goes wrong comes as an exception, once
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning)))
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        # without enable_fallback=0 a provider that fails, now or at any later frame, is replaced by the CPU
        return onnxruntime.InferenceSession(model, settings, providers=list(providers), enable_fallback=0)
    except Exception as error:  # onnxruntime's own classes have no common base
        raise ModelError(f"onnxruntime cannot load it: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What onnxruntime says in the first line of its message; the class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
