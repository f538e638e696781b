"""A user's network becomes a segmenter; every mistake in it is one clear message."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from sfda_engine.errors import UserError
from sfda_engine.models import build_segmenter
from sfda_engine.models.user_module import UserModule

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, as_dict=False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.unused = nn.Identity()
        self.head = nn.Conv2d(6, num_classes, 1)
        self.as_dict = as_dict

    def forward(self, x):
        x = self.body(x)
        self.flat(self.pool(x))
        x = self.head(x)
        return {"out": x} if self.as_dict else x

class OneSize(Net):
    def forward(self, x):
        if x.shape[-2:] != (18, 22):
            raise ValueError("18x22 alone")
        body = self.body(x)
        return {"aux": body[:, :4].detach(), "pred": self.head(body).softmax(1)}

def one_size(num_classes): return OneSize(num_classes)
def plain(num_classes): return Net(num_classes)
def dictionary(num_classes): return Net(num_classes, as_dict=True)
def too_many(num_classes): return Net(num_classes + 1)
def flat(num_classes): return nn.Sequential(Net(num_classes), nn.Flatten())
def broken(num_classes): raise ValueError("no such backbone")
def no_module(num_classes): return [1, 2]
def fixed(): return Net(4)
def defaulted(num_classes=7): return Net(num_classes)
def optioned(as_dict=False): return Net(4, as_dict)
CONSTANT = 3
"""


@pytest.fixture(autouse=True)
def user_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sfda_user_net.py").write_text(SOURCE)
    (tmp_path / "sfda_user_bad.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)


def build(factory: str, layer: str | None = "body") -> nn.Module:
    return build_segmenter(f"sfda_user_net:{factory}", 4, layer)


@pytest.mark.parametrize("factory", ["fixed", "defaulted", "optioned"])
@pytest.mark.parametrize("classes", [None, 4])
def test_a_factory_is_told_the_classes_only_where_it_asks(factory: str, classes: int | None) -> None:
    model = build_segmenter(f"sfda_user_net:{factory}", classes, None)
    assert isinstance(model, UserModule)
    expected = 7 if (factory, classes) == ("defaulted", None) else 4
    assert model.num_classes == model(torch.randn(1, 3, 8, 8)).logits.shape[1] == expected
    assert not model.get_submodule("network").as_dict


def test_the_main_head_of_a_network_of_one_size_is_found_in_its_first_pass() -> None:
    model = build("one_size").eval()
    assert isinstance(model, UserModule)
    images = torch.randn(2, 3, 18, 22)
    network = model.get_submodule("network")
    expected = network(images)["pred"].log()
    for _ in range(2):
        torch.testing.assert_close(model(images).logits, expected)
    assert (model.head, model.form) == (("pred",), "softmax")


@pytest.mark.parametrize("factory", ["plain", "dictionary"])
def test_logits_and_features(factory: str) -> None:
    model = build(factory)
    assert isinstance(model, UserModule)
    images = torch.randn(2, 3, 16, 20)
    output = model(images)
    features = model.get_submodule("network.body")(images)
    torch.testing.assert_close(output.features, features)
    torch.testing.assert_close(output.logits, model.get_submodule("network.head")(features))
    assert output.logits.shape == (2, 4, 8, 10)


def test_features_carry_gradients_and_hooks_do_not_stay() -> None:
    model = build("plain", "body.0")
    first, second = model(torch.randn(1, 3, 8, 8)).features, model(torch.randn(2, 3, 8, 8)).features
    assert (first.shape[0], second.shape[0]) == (1, 2)
    assert second.min() < 0, "body.0 is the convolution before the ReLU"
    assert not model.get_submodule("network.body.0")._forward_hooks
    second.backward(torch.randn_like(second))
    assert model.get_parameter("network.body.0.weight").grad is not None


def test_deep_copy_reads_its_own_features() -> None:
    model = build("plain")
    images = torch.randn(1, 3, 8, 8)
    twin = copy.deepcopy(model)
    before = model(images).features
    with torch.no_grad():
        twin.get_parameter("network.body.0.weight").zero_()
        twin.get_parameter("network.body.0.bias").fill_(2.0)
    assert (twin(images).features == 2.0).all()
    torch.testing.assert_close(model(images).features, before)


@pytest.mark.parametrize(
    ("factory", "layer", "message"),
    [
        ("too_many", "body", "5 .* 4"),
        ("flat", "0.body", r"4-D .*shape"),
        ("plain", "flat", r"'flat' .*4-D"),
        ("plain", "unused", "'unused'"),
    ],
)
def test_bad_outputs(factory: str, layer: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(factory, layer)(torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("sfda_no_such_module:net", "cannot import 'sfda_no_such_module'.*PYTHONPATH"),
        ("sfda_user_bad:net", "a_module_that_is_not_there"),
        (":net", "cannot import ''"),
        ("sfda_user_net:nothing", "no callable 'nothing'"),
        ("sfda_user_net:CONSTANT", "no callable 'CONSTANT'"),
        ("sfda_user_net:broken", "no such backbone"),
        ("sfda_user_net:no_module", "torch.nn.Module, not list"),
    ],
)
def test_bad_factories(arch: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_segmenter(arch, 4, "body")


def test_a_feature_layer_that_is_not_given_is_the_deepest() -> None:
    model = build("plain", None)
    assert isinstance(model, UserModule)
    assert (model.feature_layer, model.num_classes) == ("body", 4)


def test_a_feature_layer_must_be_known() -> None:
    with pytest.raises(UserError, match=r"'bodi' .*sfda_user_net:plain.* body, "):
        build("plain", "bodi")
