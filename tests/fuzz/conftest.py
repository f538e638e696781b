"""A sample of each target's cases runs always; all of them only where they are asked for: `pytest -m fuzz`."""

from __future__ import annotations

import sys

import pytest

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]  # the limits of memory are Linux's


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "fuzz" in str(config.getoption("-m")):
        return
    for item in items:
        if item.get_closest_marker("fuzz"):
            item.add_marker(pytest.mark.skip(reason="thousands of cases; run them with pytest -m fuzz tests/fuzz"))


def amounts(sample: int, full: int) -> pytest.MarkDecorator:
    """Parametrize a test by `count`: a sample for every day, and all cases under the mark fuzz."""
    marks = (pytest.mark.fuzz, pytest.mark.timeout(3600))
    return pytest.mark.parametrize("count", [sample, pytest.param(full, marks=marks)])
