"""What `to_onnx` shows: a line a stage with its seconds, and one table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sfda_runtime.card import Card


def summarize(output: Path, card: Card, parity: dict[str, Any], console: Console) -> None:
    """One table: what was written and how it compares."""
    figures, read_out, miou = parity["logits"]["figures"], parity["read_out"], parity["miou"]
    noise = ", ".join(f"{figures[f'noise_{q}']:.2f}" for q in ("p50", "p90", "p999"))
    reduced = card.precision != "fp32"
    rows = {
        "model": f"{card.arch}, {len(card.classes)} classes, {card.precision}, exposure {card.exposure}",
        "frames": f"{card.size[0]}x{card.size[1]}" + (", fixed" if card.fixed else ", batch and size dynamic"),
        "opset, IR": f"{card.opset}, {card.ir}",
        "error p99.9 / s" if reduced else "noise ratio p50, p90, p99.9": f"{figures['error_p999']:.4f}"
        if reduced
        else noise,
        "labels equal to float64's": f"{figures['agreement']:.4f} %",
        "the same at margin > 0.1 s": f"{figures['agreement_margin_01']:.4f} %",
        "confidence, entropy within 1/255": f"{read_out['confidence']:.4f} %, {read_out['entropy']:.4f} %",
        "mIoU engine, ONNX": f"{miou['engine']:.2f}, {miou['onnx']:.2f}" if miou else "no labels",
        "time to PyTorch's, 1 thread": ", ".join(
            f"{name} {ratio:.2f}" for name, ratio in parity["latency"]["ratio"].items()
        ),
    }
    if "adaptive" in parity:
        state = parity["adaptive"]["state"]
        rows[f"self-adapting, {state['frames']} frames"] = f"mean off by {state['mean']:.1e} s, var {state['var']:.1e}"
    table = Table(title=f"bundle {output}", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    table.add_section()
    for path in sorted(output.glob("*.onnx")):
        table.add_row(path.name, f"{path.stat().st_size / 1e6:.2f} MB")
    console.print(table)


@contextmanager
def stage(console: Console, what: str) -> Iterator[None]:
    """A spinner in a terminal, a line elsewhere; then a line with the seconds it took."""
    started = time.monotonic()
    if not console.is_terminal:
        console.print(f"{what} ...", highlight=False, soft_wrap=True)
    with console.status(what):
        yield
    console.print(f"{what}: {time.monotonic() - started:.1f} s", highlight=False, soft_wrap=True)
