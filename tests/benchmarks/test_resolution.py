"""The exponent is the one the costs were made with; a second call measures only what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import resolution
from benchmarks.common.row import Row
from benchmarks.common.step.setting import Setting
from benchmarks.resolution import curve_of, exponent, exponents, main, settings


def test_exponent() -> None:
    sizes = [10, 20, 40, 80]
    assert exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_a_second_call_measures_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(setting: Setting, steps: int) -> Row:
        measured.append(setting)
        pixels = setting.size[0] * setting.size[1]
        shape = resolution.shape_of(setting)
        costs = {"p50_ms": pixels**1.1, "peak_memory_mb": 7.0 * pixels}
        return Row(op="resolution", provider=curve_of(setting), direction="step", shape=shape, dtype="fp32", **costs)

    monkeypatch.setattr(resolution, "measure", measure)
    main(["--quick", "--output", str(tmp_path)])
    rows = main(["--quick", "--output", str(tmp_path)])
    assert measured == settings("streetnet", [(64, 32), (128, 64)], 2, halved=False)
    (line,) = exponents(rows)
    assert "time 1.10 (last two 1.10), memory 1.00" in line
    assert line.endswith("bound 1.1")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".md", ".png"]


def test_a_point_is_really_measured() -> None:
    setting = Setting(provider="engine", size=(64, 32), batch=2)
    times, peak = resolution.measure_steps(setting, steps=1, threads=1)
    assert len(times) == 1
    assert times[0] > 0
    assert peak > 0


def test_curves() -> None:
    (halved,) = settings("streetnet", [(512, 256)], 2, halved=True)
    (fixed,) = settings("streetnet", [(512, 256)], 2, halved=False)
    assert (halved.synthetic, fixed.synthetic) == (None, (256, 128))
    assert curve_of(halved) != curve_of(fixed)
