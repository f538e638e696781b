"""Which weights of a run are exported, and what is said about them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.models.segnet import SegNet
from sfda_engine.models.weights import sha256_of
from sfda_export.run import check_size, describe, open_run
from tests.export.user_net import save_small, small_network


@pytest.fixture
def run(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def test_a_run_and_its_card(run: Path) -> None:
    exportable = open_run(str(run))
    card = describe(exportable, ImageSize(128, 96), fixed=False)
    assert (card.arch, card.exposure, card.method, card.size) == ("streetnet", "gamma", "sfda paper", (128, 96))
    assert (card.verdict, card.verdict_basis) == ("adapted", "not judged")
    assert card.weights_sha256 == sha256_of(run / "adapted.safetensors")
    assert card.config_sha256 == sha256_of(run / "config.yaml")
    assert card.normalization["channel_order"] == "rgb"
    assert set(card.versions) == {"sfda-engine", "torch", "onnx", "onnxscript"}
    assert not exportable.model.training


@pytest.mark.parametrize("verdict", ["adapted", "keep_bn_warm_start", "keep_source"])
def test_what_the_run_ships_is_exported_whatever_lies_beside_it(run: Path, verdict: str) -> None:
    (run / "result.json").write_text(json.dumps({"verdict": verdict}))
    for name in ("bn_warm_start", "source", "last"):
        shutil.copy(run / "adapted.safetensors", run / f"{name}.safetensors")
    assert open_run(str(run)).weights == run / "adapted.safetensors"


def test_a_lone_file_knows_no_run(tmp_path: Path) -> None:
    exportable = open_run(str(save_small(tmp_path / "net.safetensors")))
    card = describe(exportable, ImageSize(48, 32), fixed=True)
    assert (card.fixed, card.config_sha256, card.verdict, card.source_sha256) == (True, None, None, None)
    assert exportable.config is None


def test_foreign_weights_need_to_be_told(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pt"
    torch.save(small_network().network.state_dict(), path)
    with pytest.raises(UserError, match=r"model\.arch"):
        open_run(str(path))
    told = ("--model.arch", "tests.export.user_net:Net", "--model.num_classes=4", "--model.feature_layer", "body")
    info = open_run(str(path), [*told, "--model.normalization.channel_order", "bgr"]).info
    assert (info.num_classes, info.normalization.channel_order, len(info.class_names)) == (4, "bgr", 4)
    with pytest.raises(UserError, match=r"'model.arch'"):
        open_run(str(path), ["--model.arc", "x"])


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.yaml", "config.yaml"),
        ("result.json", "no result.json"),
        ("adapted.safetensors", "adapted"),
    ],
)
def test_an_incomplete_run(run: Path, file: str, message: str) -> None:
    (run / file).unlink()
    with pytest.raises(UserError, match=message):
        open_run(str(run))


def test_what_is_not_there_is_told_in_the_words_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'.*nowhere'"):
        open_run(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="package:demo_source"):
        open_run("package:nothing")


def test_a_source_run_is_told_to_name_its_weights(run: Path) -> None:
    (run / "result.json").unlink()
    (run / "adapted.safetensors").rename(run / "source.safetensors")
    with pytest.raises(UserError, match=r"source.safetensors"):
        open_run(str(run))


def test_sizes(tmp_path: Path) -> None:
    assert check_size(ImageSize(100, 60), small_network()) == ImageSize(100, 60)
    with pytest.raises(UserError, match="--size WxH"):
        check_size(None, small_network())
    with pytest.raises(UserError, match="at least 32"):
        check_size(ImageSize(64, 31), small_network())
    with pytest.raises(UserError, match=r"32.*--size 160x128"):
        check_size(ImageSize(160, 120), SegNet(2))
