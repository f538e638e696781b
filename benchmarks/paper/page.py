"""A table or a figure as a Markdown page: ours, and the paper's own numbers beside them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.common.markdown import mean_and_spread, table
from benchmarks.paper.numbers import Printed, printed_table
from benchmarks.paper.options import Options
from benchmarks.paper.outcomes import Outcome
from benchmarks.paper.tables import Cell, Exhibit, heading
from sfda_engine.evaluation.expectation import TOLERANCE


def markdown(exhibit: Exhibit, found: Sequence[Outcome], options: Options) -> str:
    """The exhibit as a page: ours beside the paper's, cost, IoU by class, and under what it was measured."""
    lines = [f"# {heading(exhibit)}", "", options.domain.remark, "", f"![{exhibit.name}]({exhibit.name}.png)", ""]
    lines += _deviations(found)
    lines += [*_overview(exhibit, found), ""]
    lines += ["## Cost, pixel accuracy", "", *_cost(exhibit, found), ""]
    lines += ["## IoU by class", "", *_by_class(exhibit, found), ""]
    if options.domain.name != "paper" and exhibit.name.startswith("table"):
        lines += ["## What the paper prints, on its own data and networks", "", *_printed(exhibit), ""]
    lines += ["## Measured under", "", *_conditions(found)]
    return "\n".join(lines) + "\n"


def _deviations(found: Sequence[Outcome]) -> list[str]:
    """A line for each source model that is far from the paper's: it decides every other row."""
    models = {o.cell: o for o in found if o.cell.job.method == "source_only" and o.cell.printed is not None}
    lines = []
    for cell, outcome in models.items():
        assert cell.printed is not None
        ours, paper = outcome.score["miou"], cell.printed.values["mIoU"]
        if abs(ours - paper) > TOLERANCE:
            lines += [
                f"**The source model of {cell.job.task.name}, {cell.job.network}, has {ours:.2f} mIoU, the paper's "
                f"{paper:.2f}**: rows that start from it cannot be compared with the paper's.",
                "",
            ]
    return lines


def _overview(exhibit: Exhibit, found: Sequence[Outcome]) -> list[str]:
    columns = list(dict.fromkeys(cell.column for cell in exhibit.cells))
    thirteen = exhibit.name == "table_2" and any(outcome.miou13 is not None for outcome in found)
    measures = ["mIoU", "mIoU13"] if thirteen else ["mIoU"]
    heads = [f"{column} {measure}" for column in columns for measure in measures]
    papers = any(cell.printed is not None for cell in exhibit.cells)
    marked = any(cell.source_free is not None for cell in exhibit.cells)
    head = [exhibit.rows_are, "network", *(["SF"] if marked else [])]
    for name in heads:
        head += [name, "paper"] if papers else [name]
    body = []
    for (network, row), cells in _rows(exhibit).items():
        line = [row, network, *([_mark(cells[0].source_free)] if marked else [])]
        for column in columns:
            cell = next((one for one in cells if one.column == column), None)
            own = [outcome for outcome in found if outcome.cell == cell]
            for measure in measures:
                values = [o.score["miou"] if measure == "mIoU" else o.miou13 for o in own]
                line.append(mean_and_spread([value for value in values if value is not None], digits=2))
                if papers:
                    printed = cell.printed.values if cell is not None and cell.printed is not None else {}
                    line.append(f"{printed[measure]:g}" if measure in printed else "")
        body.append(line)
    remark = "mIoU in percent at the labels' own size, after the last step; mean over seeds and, from two on, sample "
    remark += "standard deviation. Empty: not run yet."
    remark += " SF ✗: trained on labelled source frames all along (*source only*: not adapted)." if marked else ""
    return [remark, "", *table(head, body)]


def _cost(exhibit: Exhibit, found: Sequence[Outcome]) -> list[str]:
    head = [exhibit.rows_are, "network", "column", "PA", "mPA", "seeds", "steps", "hours", "peak MiB", "notes"]
    body = []
    for cell in exhibit.cells:
        own = [outcome for outcome in found if outcome.cell == cell]
        if not own:
            continue
        contents = [outcome.content for outcome in own]
        body.append(
            [
                cell.row,
                cell.job.network,
                cell.column,
                mean_and_spread([o.score["pixel_accuracy"] for o in own], digits=2),
                mean_and_spread([o.score["mean_pixel_accuracy"] for o in own], digits=2),
                ", ".join(str(o.seed) for o in own),
                str(contents[0]["steps"]),
                f"{statistics.fmean(c['seconds'] for c in contents) / 3600:.3g}",
                f"{max(c['peak_memory_mb'] for c in contents):.0f}",
                "; ".join(f"seed {c['seed']}: {c['note']}" for c in contents if c["note"]),
            ]
        )
    return table(head, body)


def _by_class(exhibit: Exhibit, found: Sequence[Outcome]) -> list[str]:
    """Two lines a cell where the paper gives classes too, ours and the paper's."""
    classes = list(dict.fromkeys(name for outcome in found for name in outcome.score["iou"]))
    body = []
    for cell in exhibit.cells:
        own = [outcome for outcome in found if outcome.cell == cell]
        if own:
            body.append(
                [cell.row, cell.job.network, cell.column, "ours", *(_class_mean(own, name) for name in classes)]
            )
        printed = cell.printed.values if cell.printed is not None else {}
        if any(name in printed for name in classes):
            values = [f"{printed[name]:.1f}" if name in printed else "" for name in classes]
            body.append([cell.row, cell.job.network, cell.column, "paper", *values])
    return table([exhibit.rows_are, "network", "column", "", *classes], body)


def _class_mean(own: Sequence[Outcome], name: str) -> str:
    values = [outcome.score["iou"].get(name) for outcome in own]
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.1f}" if known else ""


def _printed(exhibit: Exhibit) -> list[str]:
    lines = printed_table(int(exhibit.name[-1]))
    columns = list(dict.fromkeys(line.column for line in lines))
    rows: dict[tuple[str, str], list[Printed]] = {}
    for line in lines:
        rows.setdefault((line.network, line.row), []).append(line)
    body = [
        [row, network, *(f"{one.values['mIoU']:g}" for one in own)] for (network, row), own in rows.items()
    ]  # fmt: skip
    return table([exhibit.rows_are, "network", *(f"{column} mIoU" for column in columns)], body)


def _conditions(found: Sequence[Outcome]) -> list[str]:
    known = list(dict.fromkeys((o.cell.job.network, o.cell.job.task.name, o.content["settings"]) for o in found))
    machines = list(
        dict.fromkeys(
            f"{c['device']}, {c['threads']} threads; {c['versions']}; commit {c['commit']}"
            for c in (o.content for o in found)
        )
    )
    return [*(f"- {network}, {task}: {text}" for network, task, text in known), "", *machines]


def _rows(exhibit: Exhibit) -> dict[tuple[str, str], list[Cell]]:
    rows: dict[tuple[str, str], list[Cell]] = {}
    for cell in exhibit.cells:
        rows.setdefault((cell.job.network, cell.row), []).append(cell)
    return rows


def _mark(source_free: bool | None) -> str:
    return {True: "✓", False: "✗", None: ""}[source_free]
