"""Keys of earlier versions are refused by what does their work now, on the command line and in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfda_engine.config.keys import GONE, KEYS, RENAMED, SECTIONS
from sfda_engine.config.loader import load_config
from sfda_engine.config.presets import ALIASES, PRESETS
from sfda_engine.errors import UserError

# old key: the key that stands in for it
HEIRS = {
    "target.num_workers": "run.num_workers",
    "source.num_workers": "run.num_workers",
    "source.scale": "source.augment",
    "source.flip": "source.augment",
    "source.jitter": "source.augment",
    "method.max_square_scale": "method.terms",
    "method.attention": "method.temperature",
    "method.discrepancy": "method.terms",
    "method.bns_norm": "method.terms",
    "method.discriminator_input": "method.terms",
    "method.bn_source_share": "method.bn_share",
    "method.bn_warm_start_passes": "method.bn_share",
    "method.student_clip_grad_norm": "method.clip_grad_norm",
    "method.synthetic_sizes": "method.synthetic_size",
}


def told(folder: Path, key: str, *, in_file: bool) -> str:
    section, _, name = key.partition(".")
    (folder / "old.yaml").write_text(f"{section}: {{{name}: 1}}\n" if in_file else "")
    with pytest.raises(UserError) as caught:
        load_config(folder / "old.yaml", [] if in_file else [f"--{key}", "1"])
    return str(caught.value)


def test_every_renamed_key_has_an_heir() -> None:
    assert RENAMED.keys() == HEIRS.keys()
    assert KEYS.keys() >= set(HEIRS.values())
    assert not (RENAMED.keys() | GONE) & (KEYS.keys() | SECTIONS.keys())


@pytest.mark.parametrize("in_file", [False, True], ids=["command line", "file"])
@pytest.mark.parametrize("key", HEIRS)
def test_a_renamed_key_names_its_heir(key: str, in_file: bool, tmp_path: Path) -> None:
    before, _, after = told(tmp_path, key, in_file=in_file).partition(repr(key))
    assert before
    assert HEIRS[key] in after


@pytest.mark.parametrize("in_file", [False, True], ids=["command line", "file"])
@pytest.mark.parametrize("key", sorted(GONE))
def test_a_removed_key_names_itself_and_no_other(key: str, in_file: bool, tmp_path: Path) -> None:
    message = told(tmp_path, key, in_file=in_file)
    assert repr(key) in message
    assert not [other for other in KEYS if other in message.replace(key, "")]


@pytest.mark.parametrize("old", ALIASES)
def test_an_old_preset_is_the_one_that_took_its_place(old: str, tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(f"method: {{preset: {old}}}\n")
    (tmp_path / "new.yaml").write_text(f"method: {{preset: {ALIASES[old]}}}\n")
    assert ALIASES[old] in PRESETS
    new = load_config(tmp_path / "new.yaml")
    assert load_config(tmp_path / "old.yaml").method == new.method
    assert load_config(tmp_path / "new.yaml", ["--method.preset", old]).method == new.method
