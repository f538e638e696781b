"""From a configuration to the settings of the attention terms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sfda_engine.config.presets import PRESETS
from sfda_engine.config.schema import MethodConfig
from sfda_engine.losses.attention import AttentionSettings, attention_settings


def test_the_stable_preset_compares_by_cosine() -> None:
    assert attention_settings(MethodConfig()) == AttentionSettings(temperature=0.1, cosine=True)


def test_the_literal_preset_takes_the_raw_dot_product() -> None:
    assert not attention_settings(replace(MethodConfig(), **PRESETS["literal"])).cosine


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_temperature_is_passed_on(temperature: float) -> None:
    assert attention_settings(MethodConfig(temperature=temperature)).temperature == temperature
