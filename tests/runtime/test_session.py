"""The provider that was asked for is in use or refused; GPU options are those of the providers' documentation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from sfda_runtime import ProviderError, Segmenter, SessionOptions, Status
from sfda_runtime.session import assigned_nodes, check_providers, provider_list
from tests.runtime.providers import MISSING
from tests.runtime.tiny import SIZE, card, labels_of, picture

SHA = "ab" * 32


def test_cpu_needs_no_options() -> None:
    assert provider_list(card(), SHA, SessionOptions(), "1.31.1") == []


def test_cuda_options() -> None:
    options = SessionOptions(providers=("cuda", "cpu"), device=1)
    expected = {"device_id": 1, "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    assert provider_list(card(), SHA, options, "1.31.1") == [("CUDAExecutionProvider", expected)]


def test_tensorrt_options_key_the_engine_by_model_and_version() -> None:
    options = SessionOptions(providers=("tensorrt",), engine_cache=Path("/engines"))
    (name, tensorrt), (second, _) = provider_list(card(precision="fp16"), SHA, options, "1.31.1")
    assert (name, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    cache = f"/engines/{SHA[:16]}-ort1.31.1"
    shape = f"frames:1x{SIZE[1]}x{SIZE[0]}x3"
    assert tensorrt == {
        "device_id": 0,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": cache,
        "trt_fp16_enable": True,
        "trt_int8_enable": False,
        "trt_profile_min_shapes": shape,
        "trt_profile_opt_shapes": shape,
        "trt_profile_max_shapes": shape,
    }
    other = provider_list(card(), "cd" * 32, options, "1.31.1")[0][1], provider_list(card(), SHA, options, "2.0")[0][1]
    assert len({cache, *(each["trt_engine_cache_path"] for each in other)}) == 3


def test_the_engine_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    tensorrt = provider_list(card(), SHA, SessionOptions(providers=("tensorrt", "cuda")), "1")[0][1]
    assert tensorrt["trt_engine_cache_path"].startswith("/xdg/sfda-runtime/engines/")


class Session:
    """What onnxruntime tells of a session."""

    def __init__(self, providers: list[str], nodes: dict[str, int] | None) -> None:
        self.providers = providers
        if nodes is not None:
            self.get_provider_graph_assignment_info = lambda: [Part(*item) for item in nodes.items()]

    def get_providers(self) -> list[str]:
        return self.providers


class Part:
    def __init__(self, ep_name: str, count: int) -> None:
        self.ep_name, self.count = ep_name, count

    def get_nodes(self) -> list[None]:
        return [None] * self.count


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize("nodes", [None, {CUDA: 9, CPU: 2}])
def test_a_provider_in_use_is_accepted(nodes: Any) -> None:
    check_providers([CUDA], Session([CUDA, CPU], nodes))  # type: ignore[arg-type]


def test_a_provider_that_onnxruntime_left_out() -> None:
    with pytest.raises(ProviderError, match="could not be started"):
        check_providers([CUDA], Session([CPU], None))  # type: ignore[arg-type]


def test_a_provider_that_was_given_no_node() -> None:
    with pytest.raises(ProviderError, match="no node"):
        check_providers([CUDA], Session([CUDA, CPU], {CPU: 11}))  # type: ignore[arg-type]


def test_an_onnxruntime_without_the_provider(shared_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(ProviderError, match=r"CUDAExecutionProvider.*sfda-runtime\[gpu\]"):
        Segmenter.load(shared_bundle, providers=("cuda",))


def test_nodes_of_a_real_session(shared_bundle: Path) -> None:
    session = Segmenter.load(shared_bundle).model.session
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("this onnxruntime does not tell where nodes run (before 1.24)")
    assert list(assigned_nodes(session)) == [CPU]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_missing_provider_is_refused(shared_bundle: Path, provider: str, tmp_path: Path) -> None:
    if provider not in MISSING:
        pytest.skip(f"{provider} runs here")
    session = SessionOptions(providers=(provider,), engine_cache=tmp_path)
    with pytest.raises(ProviderError, match=provider):
        Segmenter.load(shared_bundle, session=session)


def test_onnxruntime_s_own_fallback_is_off(
    shared_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It would go on by the CPU, at the start or at any later frame, and say so on stdout."""
    if "tensorrt" not in MISSING or "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs an onnxruntime with TensorRT on a machine without it")
    with pytest.raises(ProviderError, match="cannot load it"):
        Segmenter.load(shared_bundle, session=SessionOptions(providers=("tensorrt",), engine_cache=tmp_path))
    assert "Falling back" not in capfd.readouterr().out


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_fallback_only_where_allowed(
    shared_bundle: Path, provider: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if provider not in MISSING:
        pytest.skip(f"{provider} runs here")
    session = SessionOptions(providers=(provider,), engine_cache=tmp_path, allow_fallback=True)
    with caplog.at_level(logging.WARNING, "sfda_runtime"):
        segmenter = Segmenter.load(shared_bundle, session=session)
    assert "CPU" in caplog.text
    assert segmenter(picture(1)).status == Status.OK
    assert segmenter.model.session.get_providers() == [CPU]


@pytest.mark.gpu
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_the_gpu_gives_the_same_labels(shared_bundle: Path, provider: str, tmp_path: Path) -> None:
    if provider in MISSING:
        pytest.skip(f"no {provider} in this onnxruntime, or no GPU")
    session = SessionOptions(providers=(provider,), engine_cache=tmp_path)
    segmenter = Segmenter.load(shared_bundle, session=session)
    assert (segmenter(picture(1)).labels == labels_of(picture(1))).all()
    if provider == "tensorrt":
        assert list(tmp_path.rglob("*.engine"))
