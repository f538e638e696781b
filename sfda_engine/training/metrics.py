"""Loss curves of a run: kept on the device until a log step, checked there for NaN, written to metrics.jsonl."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from sfda_engine.errors import TrainingError, UserError
from sfda_engine.files import append_line, write_text


class Metrics:
    """Averages named terms between log steps and appends one JSON line a log step; only the main process writes."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add the scalar tensors of one step without a device synchronization."""
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Means since the last call, as floats, finite or not."""
        if not self._sums:
            return {}
        values = torch.stack([value.float() for value in self._sums.values()]).tolist()
        means = {name: value / self._counts[name] for name, value in zip(self._sums, values, strict=True)}
        self._sums, self._counts = {}, {}
        return means

    def flush(self, phase: str, step: int) -> dict[str, float]:
        """`means`. Raises TrainingError that names the terms that are not finite."""
        means = self.means()
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            raise TrainingError(
                f"{', '.join(broken)} became NaN or infinite by step {step} of {phase}; the last good checkpoint is "
                "kept. Lower the learning rates or the loss weights, or use --method.preset stable."
            )
        return means

    def write(self, line: dict[str, object]) -> None:
        """Append one line to metrics.jsonl."""
        if self.path is not None:
            append_line(self.path, json.dumps(line, allow_nan=False))

    def rewind(self, total: int) -> None:
        """Drop the lines past `total` steps (warm-up and adaptation): a resumed run writes them again."""
        if self.path is None or not self.path.exists():
            return
        try:
            kept = [line for line in read_metrics(self.path) if line["total_step"] <= total]
            text = "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in kept)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.path} holds a line that no run has written ({repr(error)[:200]}); remove that line, or move "
                "the file away"
            ) from error
        write_text(self.path, text)


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl, in order, but for a last one that a killed process left torn."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
