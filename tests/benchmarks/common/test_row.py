"""A row survives its CSV; the Markdown shows what is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.common.plot import plot
from benchmarks.common.row import Row, read_rows, stamp, write_table

ROW = Row(
    op="attention_kl", provider="ours", direction="both", shape="B=4 C=2048 N=512", dtype="bf16",
    p20_ms=1.1, p50_ms=1.25, p80_ms=1.5, peak_memory_mb=33.5, flop=1e12, bytes=3e6, floor_ms=0.5, floor_share=0.4,
    max_error=1e-7,
)  # fmt: skip
NUMBERS = st.none() | st.floats(allow_nan=False)
# csv turns a lone carriage return in a cell into a newline
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"))


@given(p50=NUMBERS, memory=NUMBERS, error=NUMBERS, threads=st.integers(0, 256), shape=WORDS, note=WORDS)
def test_a_row_survives_its_csv(
    tmp_path_factory: object, p50: float, memory: float, error: float, threads: int, shape: str, note: str
) -> None:
    row = replace(ROW, p50_ms=p50, peak_memory_mb=memory, max_error=error, threads=threads, shape=shape, note=note)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"  # type: ignore[attr-defined]
    write_table(path.with_suffix(""), [row, ROW], "A title", "A remark.")
    assert read_rows(path) == [row, ROW]


def test_a_stamped_row_says_where_it_was_measured() -> None:
    row = stamp(ROW)
    assert row.device
    assert row.threads >= 1
    assert "torch" in row.versions
    assert row.time.endswith("+00:00")
    assert row.p50_ms == ROW.p50_ms


def test_markdown_shows_numbers_and_leaves_empty_columns_out(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    refused = replace(ROW, provider="eager bf16", p50_ms=None, p20_ms=None, p80_ms=None, note="wrong")
    write_table(path.with_suffix(""), [ROW, refused], "A title", "A remark.")
    header, rule, first, second = (line for line in path.read_text().splitlines() if line.startswith("|"))
    assert header.split("|")[1:6] == [" op ", " shape ", " dtype ", " pass ", " provider "]
    assert "images/s" not in header
    assert set(rule) == {"|", "-"}
    assert "| 1.25 |" in first
    assert "| 40% |" in first
    assert "| wrong |" in second
    assert "1.25" not in second


def test_the_plot_comes_from_the_csv_alone(tmp_path: Path) -> None:
    slow = replace(ROW, provider="eager fp32", p50_ms=9.0, p20_ms=None, p80_ms=None)
    write_table(tmp_path / "rows", [ROW, slow], "A title", "A remark.")
    picture = plot(tmp_path / "rows.csv")
    assert picture is not None
    assert picture.stat().st_size > 1000
    write_table(tmp_path / "empty", [replace(ROW, p50_ms=None)], "A title", "A remark.")
    assert plot(tmp_path / "empty.csv") is None
