"""What the paper prints: its tables 1 to 6, from `paper_numbers.csv`, one line a cell (tables 1 and 2: a row)."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Printed:
    """A printed row, or a cell of tables 3 to 6. Percent."""

    table: int
    network: str
    source_free: bool | None
    """The column SF; None in tables that have none."""
    row: str
    column: str
    values: dict[str, float] = field(hash=False)
    """IoU by class where the paper gives it; mIoU; in table 2 mIoU13 over 13 classes, its mIoU*."""


@cache
def printed_numbers() -> tuple[Printed, ...]:
    """All of them, in the order of the paper."""
    with Path(__file__).with_name("paper_numbers.csv").open(newline="") as file:
        return tuple(_parse(line) for line in csv.DictReader(file))


def printed_table(table: int, network: str | None = None) -> list[Printed]:
    """The lines of one table, in order; of one network where it is named."""
    return [one for one in printed_numbers() if one.table == table and network in (None, one.network)]


def _parse(line: dict[str, str]) -> Printed:
    known = {"table", "network", "source_free", "row", "column"}
    return Printed(
        table=int(line["table"]),
        network=line["network"],
        source_free={"yes": True, "no": False, "": None}[line["source_free"]],
        row=line["row"],
        column=line["column"],
        values={name: float(text) for name, text in line.items() if name not in known and text},
    )
