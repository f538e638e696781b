"""Rows survive their file, a torn one is dropped, another table is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.common.csv_file import read_csv, write_csv
from sfda_engine.errors import UserError

# csv turns a lone carriage return in a cell into a newline
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"))


@dataclass(frozen=True)
class Line:
    """Every type that a cell can have."""

    name: str
    count: int
    value: float
    known: bool
    perhaps: float | None = None


@dataclass(frozen=True)
class Open:
    """Columns of which only the first is known before."""

    name: str
    scores: dict[str, float] = field(default_factory=dict)


LINE = Line("a", 3, 0.5, True)


def write(path: Path, *lines: Line) -> str:
    write_csv(path, [dataclasses.asdict(line) for line in lines])
    return path.read_text()


@given(
    lines=st.lists(
        st.builds(
            Line,
            name=WORDS,
            count=st.integers(),
            value=st.floats(allow_nan=False),
            known=st.booleans(),
            perhaps=st.none() | st.floats(allow_nan=False),
        ),
        min_size=1,
    )
)
def test_rows_survive(tmp_path_factory: pytest.TempPathFactory, lines: list[Line]) -> None:
    path = tmp_path_factory.mktemp("new") / "folder" / "rows.csv"
    write(path, *lines)
    assert read_csv(path, Line) == lines


def test_the_file_is_plain(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, LINE, dataclasses.replace(LINE, name='b, "c"', perhaps=1 / 3))
    expected = 'name,count,value,known,perhaps\na,3,0.5,True,\n"b, ""c""",3,0.5,True,0.3333333333333333\n'
    assert path.read_bytes() == expected.encode()


def test_rows_written_with_carriage_returns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(write(path, LINE, LINE).replace("\n", "\r\n").encode())
    assert read_csv(path, Line) == [LINE, LINE]


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_csv(tmp_path / "rows.csv", Line) == []


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_torn_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(write(path, LINE, LINE)[:-cut])
    assert read_csv(path, Line) == [LINE]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "a,b\n1,2\n",
        lambda text: "",
        lambda text: text.replace("perhaps", "perhaps,more"),
        lambda text: text.replace("0.5", "high"),
        lambda text: text.replace("True", "maybe"),
        lambda text: text + "a,3\n",
        lambda text: text + "a,3,0.5,True,,1\n",
    ],
)
def test_another_file_is_refused_by_name(tmp_path: Path, spoil: Callable[[str], str]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(spoil(write(path, LINE)))
    with pytest.raises(UserError, match=r"rows\.csv"):
        read_csv(path, Line)


def test_columns_that_are_not_known_before(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_csv(path, [{"name": "a", "x": 1.5, "y": math.nan}, {"name": "b", "x": -1.0, "y": 2.0}])
    first, second = read_csv(path, Open, rest="scores")
    assert (first.name, first.scores["x"], math.isnan(first.scores["y"])) == ("a", 1.5, True)
    assert second == Open("b", {"x": -1.0, "y": 2.0})
    path.write_text("name,x\na,high\n")
    with pytest.raises(UserError, match=r"rows\.csv"):
        read_csv(path, Open, rest="scores")
