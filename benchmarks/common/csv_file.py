"""CSV files of rows: the one writer and the one reader."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from sfda_engine.errors import UserError
from sfda_engine.files import write_text

T = TypeVar("T")

PARSERS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: {"True": True, "False": False}.__getitem__,
    float | None: lambda text: float(text) if text else None,
}
"""By the type of a field."""


def write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write at least one line under the names of the first, whole or not at all; None is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())


def read_csv(path: Path, kind: type[T], rest: str | None = None) -> list[T]:
    """Rows of the dataclass `kind`, none where there is no file; a last line that was left torn is dropped.

    `rest` names the field, a dictionary of numbers, that holds the columns behind the other fields'. Raises UserError
    where the file is no table of these rows.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        text = file.read()
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    found = list(reader.fieldnames or ())
    own = [field.name for field in dataclasses.fields(kind) if field.name != rest]  # type: ignore[arg-type]
    if found[: len(own)] != own or (rest is None and len(found) > len(own)):
        raise UserError(f"{path} is not a table of this benchmark (its first line differs); name another file")
    parsers = {name: PARSERS[hint] for name, hint in get_type_hints(kind).items() if name in own}
    try:
        return [_parse(kind, line, parsers, rest) for line in reader]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds a row that cannot be read ({error!r}); remove the line") from error


def _parse(kind: type[T], line: dict[str, str], parsers: dict[str, Callable[[str], Any]], rest: str | None) -> T:
    if None in line or None in line.values():
        raise ValueError("too many cells, or too few")
    values = {name: parse(line[name]) for name, parse in parsers.items()}
    if rest is not None:
        values[rest] = {name: float(text) for name, text in line.items() if name not in parsers}
    return kind(**values)
