"""The shipped recipes hold the paper's figures (section 4.1.2, Tables 1 to 3), and the two halves of each fit."""

from __future__ import annotations

import re

import pytest

from sfda_engine.config.loader import PACKAGE, load_config
from sfda_engine.config.schema import Config, EvaluateConfig
from sfda_engine.data.classes import class_set, expand_subset
from sfda_engine.data.datasets import LAYOUTS
from sfda_engine.evaluation.expectation import deviation_warnings, expectation
from sfda_engine.method import optimizers
from sfda_engine.pipelines import source_training

DEEPLAB, SEGNET = "deeplabv3_resnet50", "segnet_vgg16"
# source recipe: network, source and target data, epochs, classes, mIoU of "source only" on the target
SOURCES = {
    "gta5_source": (DEEPLAB, "gta5", "cityscapes", 20, 19, 34.09),
    "gta5_source_segnet": (SEGNET, "gta5", "cityscapes", 20, 19, 27.13),
    "synthia_source": (DEEPLAB, "synthia", "cityscapes", 20, 16, 29.31),
    "cityscapes_source": (DEEPLAB, "cityscapes", "crosscity", 30, 13, None),
}
ADAPTATIONS = {
    "gta5_to_cityscapes": "gta5_source",
    "gta5_to_cityscapes_segnet": "gta5_source_segnet",
    "synthia_to_cityscapes": "synthia_source",
    "cityscapes_to_crosscity": "cityscapes_source",
}
CITIES = {"Rome": 46.44, "Rio": 45.06, "Tokyo": 44.05, "Taipei": 44.07}


def text(name: str) -> str:
    return (PACKAGE / "recipes" / f"{name}.yaml").read_text()


def target_of(config: Config) -> EvaluateConfig:
    assert config.evaluate is not None
    return config.evaluate


@pytest.mark.parametrize("name", SOURCES)
def test_source_recipe_is_the_paper_s(name: str) -> None:
    arch, data, target, epochs, classes, miou = SOURCES[name]
    config = load_config(name)
    source, evaluate = config.source, target_of(config)
    assert source is not None
    assert (config.run.epochs, config.model.arch, source.dataset) == (epochs, arch, data)
    assert (source.size, source.batch_size) == ((512, 256), 8)
    assert (source.lr, source.weight_decay, source.augment) == (2.5e-4, 1e-4, False)
    assert (source_training.MOMENTUM, source_training.POLY_POWER) == (0.9, 0.9)
    assert config.model.backbone_weights == "imagenet"
    assert not config.model.download
    assert len(class_set(config.model.classes or "").names) == classes
    assert (evaluate.dataset, evaluate.expected_source_miou) == (target, miou)
    assert (source.root, evaluate.root) == (None, None)
    assert {source.split, source.val_split} <= set(LAYOUTS[data].labelled)
    assert source.split != source.val_split


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_adaptation_is_the_paper_s_and_scores_what_its_source_knows(name: str) -> None:
    config, source = load_config(name), load_config(ADAPTATIONS[name])
    method, target, evaluate = config.method, config.target, target_of(config)
    assert (config.run.epochs, target.size, target.batch_size, method.synthetic_size) == (
        120,
        (512, 256),
        8,
        (256, 128),
    )
    assert (method.alpha, method.beta, method.tau, method.gamma) == (1.0, 0.5, 0.5, 0.01)
    assert method.patch_grid in (3, 4, 5)
    assert (method.preset, method.lr) == ("paper", 2.5e-4)
    assert (optimizers.MOMENTUM, optimizers.WEIGHT_DECAY, optimizers.POLY_POWER) == (0.9, 1e-4, 0.9)
    assert (target.root, evaluate.root, config.model.weights) == (None, None, None)
    assert evaluate == target_of(source)
    assert expand_subset(evaluate.subset or ()) == class_set(source.model.classes or "").names
    assert target.dataset == evaluate.dataset
    assert f"runs/{ADAPTATIONS[name]}/source.safetensors" in text(name)
    assert f"--run.output runs/{ADAPTATIONS[name]} " in text(ADAPTATIONS[name])
    if target.split is not None:
        assert target.split in LAYOUTS[target.dataset].splits
        assert evaluate.split in LAYOUTS[target.dataset].labelled
        assert target.split != evaluate.split


@pytest.mark.parametrize("name", ["synthia_source", "synthia_to_cityscapes"])
def test_the_13_class_figure_of_synthia_is_two_flags_away(name: str) -> None:
    flags = "--evaluate.subset [cityscapes13] --evaluate.expected_source_miou 34.36"
    assert flags in text(name)
    evaluate = target_of(load_config(name, flags.split()))
    assert (evaluate.subset, evaluate.expected_source_miou) == (("cityscapes13",), 34.36)


@pytest.mark.parametrize("name", ["cityscapes_source", "cityscapes_to_crosscity"])
def test_the_figures_of_the_four_cities_are_in_the_header(name: str) -> None:
    header = " ".join(line.lstrip("# ") for line in text(name).splitlines() if line.startswith("#"))
    assert {city: float(miou) for city, miou in re.findall(r"(Rome|Rio|Tokyo|Taipei) (\d+\.\d+)", header)} == CITIES
    assert "--evaluate.split Rio --evaluate.expected_source_miou 45.06" in header
    assert set(CITIES) == set(LAYOUTS["crosscity"].labelled)


def test_the_16_and_13_class_figures_are_those_of_table_2() -> None:
    """Table 2, row "source only", over its own columns: the subsets are the paper's."""
    row = (55.5, 21.0, 75.8, 2.2, 0.1, 19.9, 0.2, 6.9, 74.5, 81.5, 37.1, 8.7, 45.1, 18.2, 2.5, 19.8)
    iou = dict(zip(class_set("synthia16").names, row, strict=True))
    thirteen = [iou[name] for name in class_set("cityscapes13").names]
    assert sum(row) / 16 == pytest.approx(29.31, abs=0.006)
    assert sum(thirteen) / 13 == pytest.approx(34.36, abs=0.01)


@pytest.mark.parametrize(
    ("miou", "words"),
    [
        (31.1, None),
        (37.09, None),
        (31.08, "34.09"),
        (37.1, "37.1"),
    ],
)
def test_a_deviating_source_is_told_in_either_direction(miou: float, words: str | None) -> None:
    evaluate = target_of(load_config("gta5_source"))
    found = deviation_warnings(evaluate.expected_source_miou, miou, "target")
    assert len(found) == (words is not None)
    assert words is None or words in found[0]
    assert expectation(evaluate.expected_source_miou, miou) == {
        "expected_source_miou": 34.09,
        "source_miou_deviation": pytest.approx(miou - 34.09),
    }


def test_nothing_expected_nothing_told() -> None:
    assert deviation_warnings(None, 1.0, "target") == []
    assert expectation(None, 1.0) == {}
