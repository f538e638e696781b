"""Configuration: one clear message for each mistake, naming the key, the value and what is permitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfda_engine.config.keys import KEYS
from sfda_engine.config.loader import load_config
from sfda_engine.config.schema import Config
from sfda_engine.errors import UserError


def load(folder: Path, text: str, *overrides: str) -> Config:
    path = folder / "my_city.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def error(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, text, *overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "overrides", "unknown", "nearest"),
    [
        ("method: {gama: 1}", [], "method.gama", "method.gamma"),
        ("metod: {gamma: 1}", [], "metod", "method"),
        ("model:\n  normalization: {men: [0, 0, 0]}", [], "model.normalization.men", "normalization.mean"),
        ("", ["--evaluate.rot", "x"], "evaluate.rot", "evaluate.root"),
        ("", ["--run.step=3"], "run.step", "run.steps"),
        ("", ["--patch_grid", "3"], "patch_grid", "method.patch_grid"),
    ],
)
def test_unknown_key_names_the_nearest(
    tmp_path: Path, text: str, overrides: list[str], unknown: str, nearest: str
) -> None:
    message = error(tmp_path, text, *overrides)
    before, after = message.split("nearest")
    assert f"{unknown!r}" in before
    assert nearest in after
    assert ("line 1" in before or "line 2" in before) if text else "command line" in before


def test_an_unknown_key_that_is_like_none_lists_what_there_is(tmp_path: Path) -> None:
    for argv in (["--run.device", "cuda"], ["--run.gpu", "0"]):
        assert " output, seed, steps, " in error(tmp_path, "", *argv)
    assert " run, model, target, " in error(tmp_path, "", "--name", "x")
    assert "exposure" in error(tmp_path, "model: {normalization: {xyz: 1}}")
    assert "'target.batch_size'" in error(tmp_path, "", "--target.batch", "4")


def test_a_list_without_brackets_is_shown_with_them(tmp_path: Path) -> None:
    message = error(tmp_path, "", "--target.size", "64,32")
    assert message == "target.size: expected [int, int] or null, got '64,32'; write \"[64, 32]\", in quotes"
    assert '"[road, sky]"' in error(tmp_path, "", "--evaluate.subset", "road, sky")
    assert "quotes" not in error(tmp_path, "", "--target.size", "[64]")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("run.steps", "many", "int or null"),
        ("run.steps", "1.5", "int or null"),
        ("run.steps", "true", "int or null"),
        ("run.seed", "null", "int"),
        ("run.resume", "maybe", "true or false"),
        ("run.mixed_precision", "fp8", "one of: no, fp16, bf16 or null"),
        ("target.size", "[128]", "[int, int] or null"),
        ("target.size", "[128, 96, 3]", "[int, int] or null"),
        ("target.size", "128", "[int, int] or null"),
        ("method.alpha", "big", "float"),
        ("method.alpha", "[1]", "float"),
        ("method.lr", "true", "float"),
        ("method.preset", "litteral", "one of: recommended, paper, literal"),
        ("evaluate.frames", "x", "int or null"),
        ("model.normalization.mean", "[1, 2]", "[float, float, float]"),
    ],
)
def test_wrong_type_names_key_value_and_type(tmp_path: Path, key: str, value: str, expected: str) -> None:
    *sections, last = key.split(".")
    text = "".join(f"{'  ' * depth}{name}:\n" for depth, name in enumerate(sections))
    text += f"{'  ' * len(sections)}{last}: {value}\n"
    for message in (error(tmp_path, "", f"--{key}", value), error(tmp_path, text)):
        assert message == f"{key}: expected {expected}, got {value!r}"


OUT_OF_RANGE = [
    ("run.steps", "0", "at least 1"),
    ("run.epochs", "0", "at least 1"),
    ("run.seed", "-1", "at least 0"),
    ("run.seed", str(2**32), "at most"),
    ("run.keep_last", "0", "at least 1"),
    ("run.log_every", "0", "at least 1"),
    ("run.checkpoint_every", "0", "at least 1"),
    ("run.gradient_accumulation", "0", "at least 1"),
    ("model.num_classes", "1", "at least 2"),
    ("model.normalization.std", "[1, 0, 1]", "above 0"),
    ("model.normalization.value_range", "256", "1.0 or 255.0"),
    ("target.size", "[31, 96]", "at least 32"),
    ("target.size", "[128, 31]", "at least 32"),
    ("target.batch_size", "1", "at least 2"),
    ("run.num_workers", "-1", "at least 0"),
    ("run.num_workers", "1025", "at most 1024"),
    ("evaluate.frames", "0", "at least 1"),
    ("method.patch_grid", "0", "at least 1"),
    ("method.temperature", "0", "above 0"),
    ("method.alpha", "-0.1", "at least 0"),
    ("method.alpha", ".inf", "finite"),
    ("method.max_square_weight", "1e999", "finite"),
    ("method.warmup_steps", "-1", "at least 0"),
    ("method.generator_steps", "0", "at least 1"),
    ("method.lr", "0", "above 0"),
    ("method.generator_lr", "-1", "above 0"),
    ("method.discriminator_lr", "0", "above 0"),
    ("method.clip_grad_norm", "0", "above 0"),
    ("method.bn_share", "-0.1", "at least 0"),
    ("method.bn_share", "1.1", "at most 1"),
    ("method.synthetic_size", "[15, 32]", "at least 16"),
    ("target.crop", "[31, 64]", "at least 32"),
    ("target.size", "[128, 16385]", "at most 16384"),
    ("target.batch_size", "65537", "at most 65536"),
    ("source.lr", "0", "above 0"),
    ("source.weight_decay", "-1", "at least 0"),
    ("evaluate.expected_source_miou", "-1", "at least 0"),
    ("evaluate.expected_source_miou", "100.5", "at most 100"),
]


@pytest.mark.parametrize(("key", "value", "permitted"), OUT_OF_RANGE)
def test_out_of_range_names_key_value_and_range(tmp_path: Path, key: str, value: str, permitted: str) -> None:
    message = error(tmp_path, "target: {size: [128, 96]}", f"--{key}={value}")
    assert message.startswith(f"{key} is ")
    assert permitted in message


@pytest.mark.parametrize("value", [".nan", "nan", "-.inf"])
@pytest.mark.parametrize("key", [name for name, key in KEYS.items() if key.hint is float])
def test_no_float_may_be_non_finite(tmp_path: Path, key: str, value: str) -> None:
    assert key in error(tmp_path, "", f"--{key}={value}")


def test_edges_of_the_ranges_are_permitted(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "run: {steps: 1}\ntarget: {size: [32, 32], batch_size: 2}\n"
        "method: {patch_grid: 32, alpha: 0, beta: 0, tau: 0, gamma: 0, warmup_steps: 0, bn_share: 0}",
    )
    assert (config.target.size, config.method.patch_grid, config.method.bn_share) == ((32, 32), 32, 0)
    assert load(tmp_path, "", "--method.bn_share=1").method.bn_share == 1


def test_a_grid_is_no_finer_than_the_frame(tmp_path: Path) -> None:
    message = error(tmp_path, "target: {size: [128, 96]}", "--method.patch_grid=97")
    assert message.startswith("method.patch_grid is 97")
    assert "96" in message


def test_a_part_needs_a_stated_whole(tmp_path: Path) -> None:
    for key in ("target.crop", "evaluate.window"):
        message = error(tmp_path, "", f"--{key}", "[64, 64]", "--evaluate.dataset", "folder")
        assert key in message
        assert "target.size" in message


def test_scenes_need_a_known_domain_and_no_folder(tmp_path: Path) -> None:
    assert "target.split" in error(tmp_path, "target: {dataset: scenes}")
    assert "'night'" in error(tmp_path, "target: {dataset: scenes, split: nigth}")
    assert "target.root" in error(tmp_path, "target: {dataset: scenes, split: fog, root: x}")
    message = error(tmp_path, "source: {dataset: scenes, split: day, val_split: dusk}")
    assert message.startswith("source.val_split is 'dusk'")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run: {steps: 3", "line"),
        ("run:\n  steps: 1\n bad", "line 3"),
        ("- run\n- model\n", "sections"),
        ("just words", "sections"),
        ("run: 3", "run: "),
        ("run: {steps: {a: 1}}", "run.steps: "),
        ("run: {steps: 1, steps: 2}", "run.steps: given twice"),
        ("run: {output: {a: 1}}", "run.output"),
        ("run: \x00", "YAML"),
        ("--- a\n--- b\n", "YAML"),
    ],
)
def test_malformed_yaml(tmp_path: Path, text: str, words: str) -> None:
    assert words in error(tmp_path, text)


def test_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\xfa\x00weights")
    with pytest.raises(UserError, match=r"x\.yaml: not valid YAML"):
        load_config(path)
    with pytest.raises(UserError, match="shipped configs"):
        load_config(tmp_path)


def test_missing_value_and_stray_argument(tmp_path: Path) -> None:
    assert "--run.steps: " in error(tmp_path, "", "--run.steps")
    assert "--run.resume: " in error(tmp_path, "", "--run.resume", "--run.seed", "3")
    assert "'frames/'" in error(tmp_path, "", "frames/")
    assert "did you mean" not in error(tmp_path, "", "frames/")
    assert "--config demo?" in error(tmp_path, "", "demo")
    assert "--config my/x.yaml?" in error(tmp_path, "", "my/x.yaml")
    assert load(tmp_path, "", "--target.root=a=b").target.root == "a=b"
