"""A run certifies itself until one of its files, inputs or statements is another; each is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sfda_engine.adapt import main as adapt_main
from sfda_engine.audit import certificate
from sfda_engine.audit import provenance as origins
from sfda_engine.audit.certificate import holds
from sfda_engine.audit.firewall import LOG
from sfda_engine.audit.manifest import codes
from sfda_engine.audit.provenance import engine_digest, record_frames
from sfda_engine.certify import certify, main
from sfda_engine.data.folder import list_images
from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.errors import UserError
from sfda_engine.exit_codes import exit_code
from sfda_engine.files import append_line
from sfda_engine.models.weights import sha256_of
from sfda_engine.report.html import write_report


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_yaml: Path, night_frames: Path, source_weights: Path
) -> Path:
    """A folder with everything: `run`, and the inputs `frames` and `source.safetensors` of it."""
    root = tmp_path_factory.mktemp("certified")
    shutil.copytree(night_frames, root / "frames")
    shutil.copy(source_weights, root / "source.safetensors")
    argv = ["--config", str(tiny_yaml), "--run.output", str(root / "run"), "--run.steps", "2"]
    argv += ["--target.root", str(root / "frames"), "--evaluate.root", str(root / "frames")]
    assert adapt_main([*argv, "--model.weights", str(root / "source.safetensors")]) == 0
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run to tamper with."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2) + "\n")


def faults(run: Path) -> dict[str, str]:
    """What the certificate fails for, and why."""
    return {found.what: found.detail for found in certify(run) if found.must and found.status != "ok"}


def test_a_clean_run_is_certified(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(finished / "run"), "--strict"]) == 0
    told = capsys.readouterr().out
    assert "NOT certified" not in told
    assert told.strip().endswith("certified")
    assert main([str(finished / "run"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["certified"] is True
    assert {found["status"] for found in printed["findings"]} == {"ok"}
    looked_at = " ".join(found["what"] for found in printed["findings"])
    for what in (
        "adapted.safetensors",
        "config.yaml",
        "metrics.jsonl",
        "figures/",
        "firewall",
        "report.html",
        "frame ",
    ):
        assert what in looked_at


def flip_a_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)


def test_other_weights_under_the_old_name(run: Path) -> None:
    flip_a_bit(run / "adapted.safetensors")
    assert faults(run) == {"adapted.safetensors": "it is not the file that the run wrote"}


def test_weights_of_another_source(run: Path) -> None:
    save_file(load_file(run / "adapted.safetensors"), run / "adapted.safetensors")
    assert {"adapted.safetensors", "adapted.safetensors, source weights"} <= set(faults(run))


def test_better_scores_than_were_measured(run: Path) -> None:
    rewrite(run / "result.json", lambda result: result["miou"].update(adapted=99.0))
    assert {"result.json", "report.html"} == set(faults(run))


def test_a_rewritten_result_with_a_new_report_is_named_still(run: Path) -> None:
    rewrite(run / "result.json", lambda result: result.update(steps=5000))
    write_report(run)
    assert set(faults(run)) == {"result.json", "result.json, steps", "firewall"}


def test_a_changed_configuration(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1", 1))
    assert {"config.yaml", "config.yaml, values"} <= set(faults(run))


def test_a_changed_frame_and_a_changed_source_model_are_named_and_gone_ones_told(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, frames = finished / "run", list_images(finished / "frames")
    weights = finished / "source.safetensors"
    kept = {path: path.read_bytes() for path in (*frames, weights)}
    try:
        flip_a_bit(frames[1])
        flip_a_bit(weights)
        assert set(faults(run)) == {f"frame {frames[1]}", f"weights {weights}"}
        frames[1].unlink()
        weights.unlink()
        assert faults(run) == {}
        assert main([str(run)]) == 0
        assert "missing" in capsys.readouterr().out
        assert main([str(run), "--strict"]) == 1
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def test_a_manifest_made_to_fit_contradicts_the_report(run: Path) -> None:
    flip_a_bit(run / "adapted.safetensors")
    digest = sha256_of(run / "adapted.safetensors")
    rewrite(run / "manifest.json", lambda manifest: manifest["outputs"].update({"adapted.safetensors": digest}))
    assert set(faults(run)) == {"report.html"}


def test_a_cleaned_log_of_the_firewall(run: Path) -> None:
    log = run / "audit.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if '"lifted"' not in line))
    assert set(faults(run)) == {"audit.jsonl", "firewall"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"event": "refused", "time": "t", "what": "labels", "path": "/d/labels/1.png", "by": "open"}, "/d/labels/1"),
        ({"event": "lifted", "time": "9999", "step": 1, "seen": 0}, "after step 1"),
    ],
    ids=["refused", "too early"],
)
def test_a_leak_that_all_files_agree_on_fails(run: Path, line: dict[str, Any], told: str) -> None:
    """The statement itself is judged, not only its hash."""
    from sfda_engine.audit.firewall import statement

    with (run / "audit.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")

    def agree(manifest: dict[str, Any]) -> None:
        manifest["firewall"] = statement(run)
        manifest["outputs"]["audit.jsonl"] = sha256_of(run / "audit.jsonl")

    rewrite(run / "manifest.json", agree)
    write_report(run)
    found = faults(run)
    assert set(found) == {"firewall"}
    assert told in found["firewall"]


def test_a_damaged_checkpoint_fails_and_a_deleted_one_is_told(run: Path) -> None:
    newest = sorted((run / "checkpoints").iterdir())[-1]
    flip_a_bit(newest / "model.safetensors")
    assert set(faults(run)) == {f"checkpoints/{newest.name}"}
    shutil.rmtree(newest)
    assert faults(run) == {}
    assert not holds(certify(run), strict=True)


def test_added_files_are_told_a_folder_at_a_time(run: Path) -> None:
    (run / "labels").mkdir()
    for name in ("notes.txt", "labels/0.png", "labels/1.png", "checkpoints/mine.txt"):
        (run / name).write_text("mine")
    told = {found.what: found.detail for found in certify(run) if found.status == "other"}
    added = "it was added after the run"
    assert told == {
        "checkpoints/mine.txt": added, "labels": "2 files in it were added after the run", "notes.txt": added,
    }  # fmt: skip
    assert faults(run) == {}


def test_other_code_is_told_and_fails_a_strict_certificate(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "engine_digest", lambda: "0" * 64)
    findings = certify(finished / "run")
    assert [found.what for found in findings if found.status == "other"] == ["code"]
    assert holds(findings, strict=False)
    assert not holds(findings, strict=True)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1}', '{"format": 1, "outputs": 3}', "\x00"])
def test_a_broken_manifest_fails_with_one_row(run: Path, content: str) -> None:
    (run / "manifest.json").write_text(content)
    assert main([str(run)]) == 1
    assert list(faults(run)) == ["manifest.json"]


@pytest.mark.parametrize("there", [False, True], ids=["no folder", "no manifest"])
def test_mistakes_of_the_user(there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "nothing"
    if there:
        folder.mkdir()
    assert exit_code(main, [str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err


def test_a_resumed_run_refuses_frames_that_were_changed(night_frames: Path, tmp_path: Path) -> None:
    shutil.copytree(night_frames, tmp_path / "frames")
    target = FrameFiles(list_images(tmp_path / "frames"))
    record_frames(tmp_path, target)
    record_frames(tmp_path, target)
    flip_a_bit(target.paths[2])
    with pytest.raises(UserError, match=target.paths[2].name):
        record_frames(tmp_path, target)


def test_frames_of_one_name_in_several_folders_are_told_apart(night_frames: Path, tmp_path: Path) -> None:
    for city in ("aachen", "bochum"):
        shutil.copytree(night_frames / "images", tmp_path / "frames" / "images" / city)
    target = FrameFiles(list_images(tmp_path / "frames"))
    record_frames(tmp_path, target)
    shutil.move(tmp_path / "frames", tmp_path / "moved")
    moved = FrameFiles(list_images(tmp_path / "moved"))
    record_frames(tmp_path, moved)
    flip_a_bit(next(path for path in moved.paths if path.parent.name == "aachen"))
    with pytest.raises(UserError, match=r"1 .* aachen"):
        record_frames(tmp_path, moved)


def test_sessions_by_one_code_are_one_whatever_else_was_committed(tmp_path: Path) -> None:
    for commit, engine in (("a", "1"), ("b", "1"), ("b", "2")):
        code = {"version": "0", "commit": commit, "engine_sha256": engine, "module_sha256": None}
        append_line(tmp_path / LOG, json.dumps({"event": "began", "closed": [], "code": code}))
    assert [code["engine_sha256"] for code in codes(tmp_path)] == ["1", "2"]


def test_digest_of_the_engine_follows_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = engine_digest()
    assert before == engine_digest()
    copy = tmp_path / "sfda_kernels"
    package = Path(__file__).parents[3] / "kernels" / "sfda_kernels"
    shutil.copytree(package, copy)
    operator = copy / "attention" / "reference.py"
    operator.write_text(operator.read_text() + "\n# one more line\n")
    true_spec = origins.find_spec

    def moved(name: str) -> Any:
        spec = true_spec(name)
        if name == "sfda_kernels" and spec is not None:
            spec.origin = str(copy / "__init__.py")
        return spec

    monkeypatch.setattr(origins, "find_spec", moved)
    assert engine_digest() != before


def test_the_manifest_tells_what_was_decided(finished: Path) -> None:
    manifest, result = (json.loads((finished / "run" / f"{name}.json").read_text()) for name in ("manifest", "result"))
    assert manifest["decisions"] == {
        "verdict": result["verdict"],
        "verdict_basis": result["verdict_basis"],
        "steps": 2,
        "exposure": "none",
        "size": [32, 32],
        "bn_share": 0.0,
        "preset": "paper",
        "seed": 0,
        "warmup_steps": 2,
    }
    assert manifest["inputs"]["frames"]["files"] == 6
    assert manifest["inputs"]["weights"]["sha256"] == sha256_of(finished / "source.safetensors")
    assert len(manifest["code"]) == 1
