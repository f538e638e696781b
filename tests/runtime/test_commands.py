"""`sfda-infer verify`, `info`, `bench`, `soak`, the exit codes, and what is imported."""

from __future__ import annotations

import json
import mmap
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfda_runtime import Segmenter, Status, faults, measure
from sfda_runtime.commands import soak
from sfda_runtime.infer import COMMANDS, EXIT_CODES, main
from sfda_runtime.pictures import index_png
from tests.runtime.providers import MISSING
from tests.runtime.tiny import PALETTE, labels_of, model_bytes, picture, write_manifest

ROOT = Path(__file__).parents[2]
GOLDEN = [{"frame": f"golden/{n}.png", "labels": f"golden/{n}_labels.png"} for n in range(2)]


def test_verify(shared_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(shared_bundle)]) == 0
    assert capsys.readouterr().out.endswith("verified\n")
    assert main(["verify", str(shared_bundle / "model.onnx"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["golden_differing"] == {"model.onnx": [0.0, 0.0], "model_diag.onnx": [0.0, 0.0]}
    assert report["files"] == 6


def test_verify_without_manifest_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lone.onnx").write_bytes(model_bytes())
    assert main(["verify", str(tmp_path / "lone.onnx")]) == 3
    assert main(["verify", str(tmp_path)]) == 3
    assert capsys.readouterr().err.count("no manifest.json") == 2
    assert main(["verify", str(tmp_path / "nowhere")]) == 2


@pytest.mark.parametrize("name", ["model.onnx", "model_diag.onnx", "golden/0.png", "golden/1_labels.png"])
def test_verify_finds_one_flipped_byte_in_any_file(bundle: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    assert main(["verify", str(bundle)]) == 3
    assert name in capsys.readouterr().err


def test_verify_finds_a_missing_file(bundle: Path) -> None:
    (bundle / "golden" / "0.png").unlink()
    assert main(["verify", str(bundle)]) == 3


def test_verify_finds_a_model_that_computes_otherwise(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All hashes right, the labels not: what another machine or provider may do."""
    expected = labels_of(picture(101))
    expected[0, :4] = (expected[0, :4] + 1) % 4
    (bundle / "golden" / "1_labels.png").write_bytes(index_png(expected, PALETTE))
    write_manifest(bundle, GOLDEN)
    assert main(["verify", str(bundle)]) == 3
    assert "0.130 %" in capsys.readouterr().err  # 4 of 3072 pixels
    assert main(["verify", str(bundle), "--max-differing", "0.0014"]) == 0


def test_verify_finds_descriptions_that_differ(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(bundle, GOLDEN, classes=("green", "red", "blue", "gray"), verdict="adapted")
    assert main(["verify", str(bundle)]) == 3
    assert "classes, verdict" in capsys.readouterr().err


def test_verify_a_golden_frame_that_is_no_picture(bundle: Path) -> None:
    Image.fromarray(picture(0)).save(bundle / "golden" / "0_labels.png")
    write_manifest(bundle, GOLDEN)
    assert main(["verify", str(bundle)]) == 3


def test_info(shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(shared_bundle), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["card"]["classes"] == ["red", "green", "blue", "gray"]
    assert facts["parity"] == {"verdict": "same model"}
    assert facts["files"]["model.onnx"]["bytes"] == (shared_bundle / "model.onnx").stat().st_size
    assert main(["info", str(shared_bundle)]) == 0
    assert "tiny" in capsys.readouterr().out
    (tmp_path / "lone.onnx").write_bytes(model_bytes())
    assert main(["info", str(tmp_path / "lone.onnx")]) == 0
    assert "parity" not in capsys.readouterr().out


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_missing_provider_is_exit_4(shared_bundle: Path, provider: str, tmp_path: Path) -> None:
    if provider not in MISSING:
        pytest.skip(f"{provider} runs here")
    arguments = ["verify", str(shared_bundle), "--providers", provider, "--engine-cache", str(tmp_path)]
    assert main(arguments) == 4
    assert main([*arguments, "--allow-fallback"]) == 0


def test_bench_card(shared_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(shared_bundle), "--frames", "120", "--fps", "50", "--seconds", "0.2", "--size", "80x60"]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    run, (paced,) = told["back_to_back"], told["paced"]
    assert told["frame_size"] == [80, 60]
    assert told["provider"] == "CPUExecutionProvider"
    assert run["latency_ms"]["n"] == 120
    assert run["latency_ms"]["p50"] <= run["latency_ms"]["p95"] <= run["latency_ms"]["p99"] <= run["latency_ms"]["max"]
    assert set(run["split_ms"]) == {"pre", "network", "post"}
    assert set(run["late_share"]) == {"50"}
    assert paced["latency_ms"]["n"] + paced["dropped"] == 10
    assert main([*arguments, "--diagnostics"]) == 0
    assert "tiny diagnostics fp32" in capsys.readouterr().out


def test_bench_refuses_frames_that_would_not_be_segmented(shared_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "black.npy", np.zeros((2, 48, 64, 3), np.uint8))
    assert main(["bench", str(shared_bundle), "--source", str(tmp_path / "black.npy"), "--fps", ""]) == 2


def test_soak_with_faults(shared_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["soak", str(shared_bundle), "--frames", "600", "--every", "4", "--warm-up", "100"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["kinds"]) == {"good", *faults.KINDS}
    assert report["frames"] == 600
    assert report["faults"] > 120
    assert (report["wrong"], report["golden"], report["golden_changed"]) == ({}, 12, 0)
    assert report["failures"] == []
    assert report["p95_drift"] > 0


@pytest.mark.parametrize("kind", faults.DAMAGE)
def test_soak_fails_where_a_guard_is_blind(
    shared_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Every kind of fault is noticed if it slips through: here it is shown a good frame under its name."""
    monkeypatch.setitem(faults.DAMAGE, kind, lambda frame: frame)
    assert main(["soak", str(shared_bundle), "--frames", "70", "--every", "2"]) == 1
    assert re.search(rf"FAILED: \d wrong answers to frames of kind '{kind}'", capsys.readouterr().out)


def test_soak_fails_on_a_wrong_status_and_on_class_0(shared_bundle: Path) -> None:
    segmenter = Segmenter.load(shared_bundle)
    result = segmenter(picture(1))
    record = soak.Record(warm_up=0)
    record.add(faults.good(picture(1)), result)
    assert record.failures(record.report()) == []
    refused = segmenter(np.zeros((48, 64, 3), np.uint8))
    object.__setattr__(refused, "labels", np.zeros((48, 64), np.uint8))  # the status is right, the labels say "road"
    record.add(faults.Shot("black", list, Status.BAD_INPUT), refused)
    record.add(faults.Shot("tiny", list, Status.BAD_INPUT), result)
    assert [text.split("'")[1] for text in record.failures(record.report())] == ["black", "tiny"]


def test_soak_fails_on_memory_and_golden_labels() -> None:
    record = soak.Record(warm_up=0)
    record.golden_changed = 1
    record.memory = [(n, 100 + 0.002 * n) for n in range(10, 1000, 10)]
    golden, memory = record.failures(record.report())
    assert "changed 1 " in golden
    assert "2.0 MB in 1000" in memory
    record.memory = [(n, 100 + 0.0005 * n) for n in range(10, 1000, 10)]
    assert len(record.failures(record.report())) == 1


def test_golden_labels_notice_a_change(shared_bundle: Path) -> None:
    segmenter = Segmenter.load(shared_bundle)
    unchanged = soak.golden_labels(segmenter)
    assert unchanged()
    changed = Segmenter.load(shared_bundle).model
    object.__setattr__(segmenter.model, "session", _Inverted(changed.session))
    assert not unchanged()


class _Inverted:
    """A session whose labels are other ones."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def run(self, names: list[str], feeds: Any) -> list[Any]:
        return [3 - output for output in self.session.run(names, feeds)]


def test_a_frozen_fault_lets_the_first_repetitions_pass() -> None:
    shots = faults.fault(faults.KINDS.index("frozen"), picture(0))
    assert [shot.expected for shot in shots] == [Status.OK] * faults.FROZEN_AFTER + [Status.BAD_INPUT]


def test_every_mth_place_is_a_fault() -> None:
    kinds = [shot.kind for shot in islice(soak.shots((64, 48), 5), 20)]
    assert kinds == [*["good"] * 4, "tiny", *["good"] * 4, "empty", *["good"] * 4, "black", *["good"] * 4, "saturated"]


def test_quantiles() -> None:
    values = [float(n) for n in range(1, 102)]
    assert measure.quantiles(values) == {"n": 101, "p50": 51.0, "p95": 96.0, "p99": 100.0, "max": 101.0, "jitter": 45.0}
    assert measure.quantiles(values[:99])["p99"] is None
    assert measure.quantiles([])["p50"] is None
    assert measure.slope_per_thousand([0, 10, 20], [5.0, 5.1, 5.2]) == pytest.approx(10)


def test_resident_memory_grows_with_what_is_held() -> None:
    # a mapping of its own: an array might be given pages that an earlier test left to the process
    with mmap.mmap(-1, 50_000_000) as held:
        before = measure.rss_mb()
        held[:: mmap.PAGESIZE] = bytes(len(range(0, len(held), mmap.PAGESIZE)))
        assert 45 < measure.rss_mb() - before < 80


def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("", *COMMANDS):
        with pytest.raises(SystemExit) as caught:
            main([*([command] if command else []), "--help"])
        assert caught.value.code == 0
        assert EXIT_CODES.strip() in capsys.readouterr().out


def test_no_command_is_usage() -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2


PLAIN = """
import sys
import numpy as np
from sfda_runtime import Segmenter
frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
assert Segmenter.load(sys.argv[1], diagnostics=True)(frame).status == "ok"
heavy = {"torch", "onnx", "PIL", "av", "cv2", "sfda_engine", "sfda_export", "sfda_kernels", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_a_run_on_arrays_loads_numpy_and_onnxruntime_only(shared_bundle: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT / "export"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(shared_bundle)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
