"""Bundles of the tiny network, and Segmenters on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfda_runtime import Segmenter
from tests.runtime.tiny import write_bundle


@pytest.fixture(scope="session")
def shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For reading only."""
    return write_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """One of the test's own, to be damaged."""
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def segmenter(shared_bundle: Path) -> Segmenter:
    return Segmenter.load(shared_bundle)
