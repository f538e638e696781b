"""Weights files describe themselves, load strictly, and never run code or leave half a file."""

import dataclasses
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.segmentation import deeplabv3_resnet50

from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.models import ARCHITECTURES, build_segmenter
from sfda_engine.models.preprocess import Normalization
from sfda_engine.models.user_module import UserModule
from sfda_engine.models.weights import (
    WeightsInfo,
    build_from_weights,
    last_layer_classes,
    load_state,
    read_weights,
    save_weights,
    sha256_of,
)

INFO = WeightsInfo(
    arch="streetnet",
    num_classes=3,
    class_names=("road", "car", 'a "quoted" straße'),
    palette=((128, 64, 128), (0, 0, 142), (1, 2, 3)),
    normalization=Normalization((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), "bgr", 255.0),
    exposure="gamma",
    size=ImageSize(128, 96),
    source_sha256="ab" * 32,
    method="sfda paper",
)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_segmenter("streetnet", 3)


class Payload:
    """Unpickling it would create the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_round_trip(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "new" / "w.safetensors"
    save_weights(path, model, INFO)
    loaded, info = build_from_weights(path)
    assert info == INFO
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_defaults_round_trip(model: nn.Module, tmp_path: Path) -> None:
    info = WeightsInfo(arch="streetnet", num_classes=3)
    save_weights(tmp_path / "w.safetensors", model, info)
    assert read_weights(tmp_path / "w.safetensors")[1] == info


def test_a_failed_save_leaves_the_old_file(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, model, INFO)
    before = sha256_of(path)
    changed = build_segmenter("streetnet", 3)

    def fail(partial: Path, final: Path) -> None:
        assert Path(partial).parent == Path(final).parent
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        save_weights(path, changed, INFO)
    assert sha256_of(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_get_the_usual_permissions(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_weights(tmp_path / "w.safetensors", model, INFO)
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_tied_and_strided_tensors_are_saved(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)).to(memory_format=torch.channels_last)
    network[1].weight = network[0].weight
    save_weights(tmp_path / "w.safetensors", network, INFO)
    saved = load_file(tmp_path / "w.safetensors")
    assert torch.equal(saved["0.weight"], saved["1.weight"])


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_foreign_torch_files(model: nn.Module, tmp_path: Path, wrap: object, prefix: str, suffix: str) -> None:
    path = tmp_path / f"foreign{suffix}"
    state = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save(wrap(state), path)  # type: ignore[operator]
    loaded, info = build_from_weights(path, "streetnet", 3)
    assert info == WeightsInfo(arch="streetnet", num_classes=3)
    assert torch.equal(loaded.state_dict()["classifier.weight"], model.state_dict()["classifier.weight"])


def test_foreign_safetensors_need_their_arch(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(model.state_dict(), path)
    assert read_weights(path)[1] is None
    with pytest.raises(UserError, match=r"--model\.arch "):
        build_from_weights(path)
    for classes in (None, 3):
        assert build_from_weights(path, "streetnet", classes)[1].num_classes == 3


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_classes_of_a_foreign_file_are_those_of_its_last_layer(arch: str, suffix: str, tmp_path: Path) -> None:
    state = build_segmenter(arch, 5).state_dict()
    path = tmp_path / f"foreign{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    assert last_layer_classes(read_weights(path)[0], arch) == 5


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"arch": "segnet_vgg16"}, "model.arch is segnet_vgg16.* streetnet"),
        ({"num_classes": 4}, "model.num_classes is 4.* 3"),
        ({"feature_layer": "high"}, "model.feature_layer is high.* None"),
    ],
)
def test_a_stated_value_that_differs(model: nn.Module, tmp_path: Path, stated: dict[str, object], message: str) -> None:
    save_weights(tmp_path / "w.safetensors", model, INFO)
    with pytest.raises(UserError, match=message):
        build_from_weights(tmp_path / "w.safetensors", **stated)  # type: ignore[arg-type]
    assert build_from_weights(tmp_path / "w.safetensors", "streetnet", 3)[1] == INFO


def test_strict_loading_lists_every_kind_of_problem_and_loads_nothing(model: nn.Module) -> None:
    target = build_segmenter("streetnet", 3)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state = dict(model.state_dict())
    del state["fuse.0.weight"]
    state["extra.bias"] = torch.zeros(1)
    state["fuse.1.weight"] = torch.zeros(7)
    with pytest.raises(UserError) as caught:
        load_state(target, state, "my.pt")
    message = str(caught.value)
    assert "streetnet" in message
    assert "1 missing (fuse.0.weight)" in message
    assert "1 unexpected (extra.bias)" in message
    assert "fuse.1.weight (7,) instead of (48,)" in message
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_long_lists_are_cut_after_ten(model: nn.Module) -> None:
    count = len(model.state_dict())
    with pytest.raises(UserError, match=rf"{count} missing \(([^,]+, ){{10}}\.\.\.\)") as caught:
        load_state(build_segmenter("streetnet", 3), {}, "empty.pt")
    assert "classes" not in str(caught.value)


def test_class_mismatch_has_its_own_sentence(model: nn.Module) -> None:
    with pytest.raises(UserError, match=r" 3 .* 5 .*classifier"):
        load_state(build_segmenter("streetnet", 5), dict(model.state_dict()), "w.pt")


def test_torchvisions_auxiliary_head_is_left_out(tmp_path: Path) -> None:
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=3, aux_loss=True)
    torch.save(theirs.state_dict(), tmp_path / "deeplab.pth")
    ours, _ = build_from_weights(tmp_path / "deeplab.pth", "deeplabv3_resnet50", 3)
    assert torch.equal(ours.state_dict()["classifier.4.weight"], theirs.state_dict()["classifier.4.weight"])


def test_user_module_files_hold_the_users_own_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from torch import nn\ndef net(k): return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, k, 1))\n"
    (tmp_path / "sfda_weights_user_net.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    arch, path = "sfda_weights_user_net:net", tmp_path / "u.safetensors"
    model = build_segmenter(arch, 2, "0")
    save_weights(path, model, WeightsInfo(arch=arch, num_classes=2, feature_layer="0"))
    assert set(load_file(path)) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    loaded, info = build_from_weights(path)
    assert isinstance(loaded, UserModule)
    assert info.feature_layer == "0"
    images = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(loaded(images).logits, model(images).logits)


def test_what_torch_says_of_a_file_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = tmp_path / "w.pt", []
    path.write_bytes(b"any")
    for words in ("Unsupported global: GLOBAL x.y", "invalid load key"):

        def refuse(*_: Any, words: str = words, **__: Any) -> None:
            raise pickle.UnpicklingError(words)

        monkeypatch.setattr(torch, "load", refuse)
        with pytest.raises(UserError) as caught:
            read_weights(path)
        told.append(str(caught.value))
    assert told[0] == told[1]


@pytest.mark.parametrize("how", ["zip", "raw pickle, protocol 2", "raw pickle, protocol 4"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    path, marker = tmp_path / "bomb.pt", tmp_path / "ran"
    content = {"weight": Payload(marker)}
    if how == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=int(how[-1])))
    with pytest.raises(UserError, match=r"bomb\.pt .*Python.*safetensors"):
        read_weights(path)
    assert not marker.exists()


def test_the_payload_would_have_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_files(model: nn.Module, tmp_path: Path, keep: float, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        save_weights(path, model, INFO)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep == 0.5 else int(keep)])
    with pytest.raises(UserError, match=rf"w{suffix} is (truncated|damaged)"):
        read_weights(path)


@pytest.mark.parametrize("content", [b"hello world", bytes(range(256)), b"\x80\x02."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_files_of_another_kind(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"w{suffix} is "):
        read_weights(path)


def test_missing_file_folder_and_suffix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pt"):
        read_weights(tmp_path / "none.pt")
    with pytest.raises(UserError, match="is a folder"):
        read_weights(tmp_path)
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match=r"unknown suffix '\.onnx'.*\.safetensors"):
        read_weights(tmp_path / "w.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"w": [1.0]}}, "a dict"),
        ({1: torch.ones(1)}, "a dict"),
        ([1.0], "a list"),
        (torch.ones(1), "a Tensor"),
    ],
)
def test_torch_files_without_a_state_dict(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=message):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("text", ["{", "[]", '{"arch": "streetnet"}', "null"])
def test_unreadable_description(model: nn.Module, tmp_path: Path, text: str) -> None:
    save_file(model.state_dict(), tmp_path / "w.safetensors", metadata={"sfda": text})
    with pytest.raises(UserError, match="description"):
        read_weights(tmp_path / "w.safetensors")


def test_info_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        INFO.arch = "x"  # type: ignore[misc]


def test_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one read of 1 MiB
    (tmp_path / "f").write_bytes(content)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(content).hexdigest()
