"""Configuration: contract, presets, precedence, round trip, command line."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sfda_engine.config.keys import KEYS, SECTIONS
from sfda_engine.config.loader import (
    PACKAGE,
    load_config,
    parse_command,
    require_data,
    resolve_weights,
    save_config,
    shipped_configs,
    to_yaml,
)
from sfda_engine.config.presets import PRESETS, literal_warnings
from sfda_engine.config.schema import Config, EvaluateConfig, MethodConfig, NormalizationConfig, SourceConfig
from sfda_engine.errors import UserError

# Keys and defaults that outside scripts rely on (design, section 6).
CONTRACT = """
run: {output: null, seed: 0, steps: null, epochs: null, mixed_precision: null, checkpoint_every: 100,
      keep_last: 3, log_every: 10, gradient_accumulation: 1, num_workers: 0, resume: false}
model: {arch: null, num_classes: null, feature_layer: null, normalization: null, exposure: auto}
target: {dataset: folder, split: null, size: null, batch_size: 8}
method: {preset: recommended, alpha: 0.0, beta: 0.0, tau: 0.5, gamma: 0.0, max_square_weight: 0.0, patch_grid: 4,
         temperature: 0.1, student_init: source, synthetic_size: null, warmup_steps: 100, lr: 1.0e-2,
         generator_lr: 1.0e-3, discriminator_lr: 1.0e-4, pseudo_label_weight: 1.0, terms: stable, bn_share: null,
         target_bn: running, synthetic_bn: source, clip_grad_norm: 5.0}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "my_city.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, *overrides: str) -> Config:
    return load_config(write(folder, text), overrides)


def test_defaults_are_the_contract() -> None:
    defaults = asdict(Config())
    for section, keys in yaml.safe_load(CONTRACT).items():
        for key, value in keys.items():
            default = defaults[section][key]
            assert (list(default) if isinstance(default, tuple) else default) == value, f"{section}.{key}"
    assert Config().evaluate is None
    assert Config().source is None


def test_every_key_is_documented_and_frozen() -> None:
    assert [name for name, key in KEYS.items() if len(key.doc) < 10] == []
    assert [name for name, section in SECTIONS.items() if len(section.doc) < 10] == []
    with pytest.raises(FrozenInstanceError):
        Config().run.seed = 1  # type: ignore[misc]


def test_empty_file_and_empty_section_are_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config()
    assert load(tmp_path, "run:\n  # nothing\nevaluate: {}\n") == Config()


def test_command_line_wins_over_yaml_and_the_last_one_wins(tmp_path: Path) -> None:
    config = load(tmp_path, "run: {steps: 7, seed: 3}", "--run.steps", "9", "--run.steps=11")
    assert (config.run.steps, config.run.seed, config.name) == (11, 3, "my_city")


def test_yaml_and_command_line_take_the_same_values(tmp_path: Path) -> None:
    text = "run: {mixed_precision: no, resume: true}\nmethod: {lr: 1e-4, synthetic_size: [64, 48]}\n"
    overrides = ["--run.mixed_precision", "no", "--run.resume", "true", "--method.lr", "1e-4"]
    config = load(tmp_path, text)
    assert config == load(tmp_path, "", *overrides, "--method.synthetic_size", "[64, 48]")
    assert (config.run.mixed_precision, config.run.resume, config.method.lr) == ("no", True, 1e-4)
    assert config.method.synthetic_size == (64, 48)


def test_optional_sections(tmp_path: Path) -> None:
    text = "evaluate: {root: a}\nmodel: {normalization: {std: [1, 2, 3]}}\n"
    config = load(tmp_path, text)
    assert config.evaluate == EvaluateConfig(root="a")
    assert config.model.normalization == NormalizationConfig(std=(1.0, 2.0, 3.0))
    assert config.source is None
    assert load(tmp_path, text, "--evaluate", "null").evaluate is None
    assert load(tmp_path, text, "--evaluate=null", "--evaluate.frames=2").evaluate == EvaluateConfig(frames=2)
    assert load(tmp_path, "evaluate: null", "--source.lr", "0.1").source == SourceConfig(lr=0.1)


def test_literal_preset_is_the_paper_as_printed(tmp_path: Path) -> None:
    method = load(tmp_path, "", "--method.preset", "literal").method
    assert (method.generator_lr, method.discriminator_lr) == (0.1, 0.1)
    assert (method.max_square_weight, method.temperature, method.terms) == (1.0, None, "printed")
    assert (method.warmup_steps, method.bn_share, method.clip_grad_norm) == (0, 1.0, None)
    assert (method.synthetic_bn, method.target_bn) == ("running", "batch")
    assert {line.split(":")[0] for line in literal_warnings(method)} == {
        f"method.{key}"
        for key in ("generator_lr", "discriminator_lr", "max_square_weight", "temperature", "terms", "synthetic_bn")
    }
    # What the paper prints and both of its presets share.
    paper = load(tmp_path, "", "--method.preset", "paper").method
    for one in (method, paper):
        assert (one.alpha, one.beta, one.tau, one.gamma, one.lr) == (1.0, 0.5, 0.5, 0.01, 2.5e-4)
        assert one.pseudo_label_weight == 0
    assert literal_warnings(paper) == literal_warnings(MethodConfig()) == []


def test_the_paper_made_stable(tmp_path: Path) -> None:
    method = load(tmp_path, "method: {preset: paper}").method
    assert (method.max_square_weight, method.temperature, method.terms) == (0.1, 0.1, "stable")
    assert (method.warmup_steps, method.bn_share, method.clip_grad_norm) == (100, 0.0, 1.0)
    assert (method.synthetic_bn, method.target_bn) == ("source", "batch")
    assert (method.generator_lr, method.discriminator_lr) == (1e-3, 1e-4)


def test_explicit_keys_win_over_the_preset_even_at_the_default_value(tmp_path: Path) -> None:
    text = "method: {preset: literal, temperature: 0.1, clip_grad_norm: 5.0}"
    method = load(tmp_path, text, "--method.generator_lr", "1e-3").method
    named = {"temperature": 0.1, "clip_grad_norm": 5.0, "generator_lr": 1e-3}
    assert method == replace(MethodConfig(), preset="literal", **(PRESETS["literal"] | named))
    assert "method.generator_lr" not in "".join(literal_warnings(method))


def test_command_line_preset_overrides_the_files(tmp_path: Path) -> None:
    text = "method: {preset: literal, gamma: 0.3}"
    assert load(tmp_path, text, "--method.preset=recommended").method == MethodConfig(gamma=0.3)


@pytest.mark.parametrize("key", ["target.root", "evaluate.root", "source.root", "model.weights"])
def test_what_is_the_users_own_inherits_nothing_of_the_demo(key: str) -> None:
    for config in (load_config(None, [f"--{key}", "mine"]), parse_command([f"--{key}=mine"], "p", "d", "demo")):
        section, _, name = key.partition(".")
        own = load_config("own")
        there = getattr(own, section) or {"evaluate": EvaluateConfig(), "source": SourceConfig()}[section]
        assert config == replace(own, **{section: replace(there, **{name: "mine"})})
        assert config.name == "own"
    assert load_config(None, [f"--{key}", "null"]).name == "demo"
    assert load_config("demo", [f"--{key}", "mine", "--evaluate", "null"]).name == "demo"


def test_a_root_means_a_folder_where_the_file_says_scenes(tmp_path: Path) -> None:
    target = load_config("demo", ["--target.root", "mine", "--evaluate", "null"]).target
    assert (target.dataset, target.root, target.split) == ("folder", "mine", None)
    options = ["--target.root", "mine", "--target.dataset", "acdc", "--target.split", "night/train"]
    target = load_config("demo", [*options, "--evaluate", "null"]).target
    assert (target.dataset, target.root, target.split) == ("acdc", "mine", "night/train")
    target = load_config("demo", ["--target.split", "dusk", "--target.root", "mine", "--evaluate", "null"]).target
    assert (target.dataset, target.split) == ("folder", "dusk")
    assert load_config("demo", ["--target.root", "null"]).target == load_config("demo").target


def test_a_root_leaves_the_data_set_that_the_file_names() -> None:
    config = load_config("gta5_to_cityscapes", ["--target.root", "mine", "--evaluate.root", "mine"])
    assert config.evaluate is not None
    for section, split in ((config.target, "train"), (config.evaluate, "val")):
        assert (section.dataset, section.root, section.split) == ("cityscapes", "mine", split)


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_load_by_bare_name_and_start_with_their_command(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    header = (PACKAGE / "recipes" / f"{name}.yaml").read_text().splitlines()[0]
    commands = ("# sfda adapt", "# accelerate launch -m sfda_engine.adapt", "# python -m sfda_engine.train_source")
    assert header.startswith(commands)
    assert name in ("demo", "own") or f"--config {name}" in header


def test_shipped_names() -> None:
    assert {"demo", "demo_source", "camvid_source", "camvid_day_to_dusk"} <= set(shipped_configs())
    assert load_config() == load_config("demo")
    assert load_config(default="camvid_source") == load_config("camvid_source")
    with pytest.raises(UserError, match=r"demo_sauce.*camvid_day_to_dusk, camvid_source, cityscapes_source"):
        load_config("demo_sauce")


def test_demo_evaluates_the_domain_it_adapts_to() -> None:
    demo = load_config("demo")
    assert demo.evaluate is not None
    assert (demo.target.dataset, demo.evaluate.dataset) == ("scenes", "scenes")
    assert demo.target.split == demo.evaluate.split
    assert demo.model.weights == "package:demo_source"


texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
paths = texts.filter(lambda text: text not in ("null", "~"))
weights = st.floats(0, 1e6)
rates = st.floats(1e-12, 10)


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(root=paths, names=st.lists(texts, max_size=3), weight=weights, rate=rates, side=st.integers(32, 4096))
def test_round_trip(tmp_path_factory: Any, root: str, names: list[str], weight: float, rate: float, side: int) -> None:
    base = load_config("camvid_day_to_dusk", ["--method.preset", "literal"])
    config = replace(
        base,
        target=replace(base.target, root=root, size=(side, 64)),
        evaluate=EvaluateConfig(root=root, subset=tuple(names)),
        method=replace(base.method, alpha=weight, lr=rate, clip_grad_norm=None),
        model=replace(base.model, normalization=NormalizationConfig(mean=(weight, 0.0, 1.0))),
    )
    path = tmp_path_factory.mktemp("round") / "config.yaml"
    save_config(config, path)
    assert load_config(path) == config
    assert [entry.name for entry in path.parent.iterdir()] == ["config.yaml"]
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) == {name for name in SECTIONS if "." not in name}


def test_require_data_names_the_flag() -> None:
    dusk = load_config("camvid_day_to_dusk", ["--target.root", "frames"])
    require_data(dusk, "target")
    unnamed = load_config("camvid_day_to_dusk", ["--target.root", "frames", "--evaluate.frames", "2"])
    with pytest.raises(UserError, match=r"evaluate\.root .*--evaluate\.root FOLDER.*--evaluate null"):
        require_data(unnamed, "target", "evaluate", dispensable=True)
    for config, words in ((unnamed, r"evaluate\.root is null"), (dusk, "section evaluate is null, .* needs it")):
        with pytest.raises(UserError, match=rf"{words}: .*--evaluate\.root FOLDER.*--evaluate\.split day$"):
            require_data(config, "evaluate")
    with pytest.raises(UserError, match=r"--target\.root"):
        require_data(load_config("camvid_day_to_dusk"), "target")
    with pytest.raises(UserError, match=r"--source\.root"):
        require_data(dusk, "source")
    require_data(load_config("demo"), "target", "evaluate")


def test_resolve_weights(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.touch()
    assert resolve_weights(str(file)) == file
    for missing in (None, str(tmp_path / "absent.safetensors"), "package:no_such_model"):
        with pytest.raises(UserError, match=r"model\.weights"):
            resolve_weights(missing)
    with pytest.raises(UserError, match=r"'package:demosource'.* package:demo_source$"):
        resolve_weights("package:demosource")


def test_parse_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "run: {steps: 5}")
    config = parse_command(["--config", str(path), "--dry-run", "--run.seed=4"], "p", "d", "demo")
    assert (config.run.steps, config.run.seed, config.run.dry_run, config.name) == (5, 4, True, "my_city")
    assert parse_command([], "p", "d", "demo") == load_config("demo")
    deployed = parse_command(["--as-deployed"], "p", "d", "demo").evaluate
    assert deployed is not None
    assert deployed.as_deployed
    with pytest.raises(SystemExit) as stop:
        parse_command([f"--config={path}", "--print_config", "--run.steps", "6"], "p", "d", "demo")
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert printed == to_yaml(load_config(path, ["--run.steps", "6"]))
    assert "  size: null" in printed
    with pytest.raises(UserError, match="--config"):
        parse_command(["--config"], "p", "d", "demo")


def test_help_explains_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_command(["--help"], "sfda adapt", "Adapt.", "demo")
    assert not stop.value.code
    words = " ".join(capsys.readouterr().out.split())
    assert [name for name in KEYS if f"--{name} " not in words] == []
    assert "demo_source" in words
    assert "Weight of L_DAD^ss" in words


def test_reading_a_configuration_does_not_import_torch() -> None:
    code = (
        "import sys; from sfda_engine.config.loader import load_config; load_config(); "
        "assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
