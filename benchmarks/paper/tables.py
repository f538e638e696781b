"""The runs behind each table and figure: their rows are those that the paper prints (`paper_numbers.csv`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.common.methods.engine import WITHOUT_EXTRAS
from benchmarks.paper.domains import Domain, Task
from benchmarks.paper.numbers import Printed, printed_table
from sfda_engine.config.presets import PRESETS
from sfda_engine.errors import UserError

TABLES = (1, 2, 3, 4, 5, 6)
FIGURES = (6, 7, 8)
PATCH_GRIDS = (1, 2, 3, 4, 5)

Changes = dict[str, Any]
TRANSFER: Changes = WITHOUT_EXTRAS | {
    "student_init": "fresh",
    "alpha": 1.0,
    "beta": 0.5,
    "tau": 0.5,
    "max_square_weight": 0.0,
    "gamma": 0.0,
}
"""Eq. 11 and 12 alone, into a network that knows nothing."""
KNOWLEDGE: dict[str, Changes] = {
    "BNS": TRANSFER | {"beta": 0.0, "tau": 0.0},
    "DAD": TRANSFER | {"bns_weight": 0.0},
    "BNS+DAD": TRANSFER,
}
"""Table 4; the MAE of Eq. 5 is in all of them."""


@dataclass(frozen=True)
class Job:
    """What a run adapts, and how."""

    task: Task
    network: str
    method: str
    """source_only, a key of SOURCE_DRIVEN, or sfda."""
    changes: tuple[tuple[str, Any], ...] = ()
    """Keys of the section `method` that differ from the shipped configuration."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table, or one picture of a figure."""

    row: str
    column: str
    job: Job
    source_free: bool | None = None
    """As the paper marks it; None where it does not."""
    held_out_source: bool = False
    """Scored on held-out frames of the source, not on the target."""
    printed: Printed | None = None
    """The paper's own numbers, where the run is the paper's."""


@dataclass(frozen=True)
class Exhibit:
    """A table or a figure."""

    name: str
    title: str
    rows_are: str
    """What tells rows apart."""
    cells: tuple[Cell, ...]


def heading(exhibit: Exhibit) -> str:
    """ "Table 1: GTA5 → Cityscapes"."""
    return f"{exhibit.name.replace('_', ' ').capitalize()}: {exhibit.title}"


def exhibit(name: str, domain: Domain, networks: tuple[str, ...]) -> Exhibit:
    """Table or figure `name` ("table_1", "figure_8") of a domain, for those of `networks` that the paper has in it.

    Raises UserError where it has none of them.
    """
    build, title, rows_are = EXHIBITS[name]
    networks = networks[:1] if name == "figure_6" else networks
    cells = tuple(cell for network in networks for cell in build(name, domain, network))
    if not cells:
        raise UserError(f"{name.replace('_', ' ')} has no rows for {', '.join(networks)} in the paper")
    title = title if domain.name == "paper" else f"{title}; here on {domain.name}"
    return Exhibit(name, title, rows_are, cells)


def methods(name: str, domain: Domain, network: str) -> Iterator[Cell]:
    """Tables 1 to 3: a row a method, a column a target."""
    table = int(name[-1])
    for row, mark in printed_rows(table, network):
        method, changes = method_of(row, network)
        for task in domain.columns[name]:
            job = Job(task, network, method, tuple(changes.items()))
            yield Cell(row, task.target, job, mark, printed=printed_cell(domain, table, network, row, task.target))


def knowledge(name: str, domain: Domain, network: str) -> Iterator[Cell]:
    """Table 4: a row a source, a column a set of terms, scored on held-out frames of the source."""
    if not printed_rows(4, network):
        return
    for task in domain.columns[name]:
        for column in ("source model", *KNOWLEDGE):
            method = "source_only" if column == "source model" else "sfda"
            job = Job(task, network, method, tuple(KNOWLEDGE.get(column, {}).items()))
            printed = printed_cell(domain, 4, network, task.source, column)
            yield Cell(task.source, column, job, held_out_source=True, printed=printed)


def weights(name: str, domain: Domain, network: str) -> Iterator[Cell]:
    """Tables 5 and 6: a row a weight, a column a target; the other weights are those of the paper."""
    table = int(name[-1])
    for row, _ in printed_rows(table, network):
        value = float(row)
        chosen = (
            {"alpha": value, "beta": 0.5, "tau": 0.5} if table == 5 else {"alpha": 1.0, "beta": value, "tau": value}
        )
        for task in domain.columns[name]:
            job = Job(task, network, "sfda", tuple((WITHOUT_EXTRAS | chosen).items()))
            yield Cell(row, task.target, job, printed=printed_cell(domain, table, network, row, task.target))


def patches(name: str, domain: Domain, network: str) -> Iterator[Cell]:
    """Figure 8: a row a K, a column a target. The paper's curves are not in its text."""
    if not printed_rows(5, network):
        return
    for grid in PATCH_GRIDS:
        for task in domain.columns[name]:
            job = Job(task, network, "sfda", tuple((WITHOUT_EXTRAS | {"patch_grid": grid}).items()))
            yield Cell(str(grid), f"{task.source} → {task.target}", job)


def qualitative(name: str, domain: Domain, network: str) -> Iterator[Cell]:
    """Figure 6: four rows of Table 1 on its first target, of one network."""
    shown = ("source only", "MinEnt", "SFDA (w/o IPSM)", "SFDA")
    first = domain.columns["table_1"][0]
    yield from (
        cell for cell in methods("table_1", domain, network) if cell.row in shown and cell.job.task == first
    )  # fmt: skip


def synthetic(name: str, domain: Domain, network: str) -> Iterator[Cell]:
    """Figure 7: the generators of Table 4, of Cityscapes where the domain has it."""
    cells = [cell for cell in knowledge("table_4", domain, network) if cell.column != "source model"]
    source = "Cityscapes" if any(cell.row == "Cityscapes" for cell in cells) else cells[0].row if cells else ""
    yield from (cell for cell in cells if cell.row == source)


EXHIBITS = {
    "table_1": (methods, "GTA5 → Cityscapes", "method"),
    "table_2": (methods, "SYNTHIA → Cityscapes", "method"),
    "table_3": (methods, "Cross-City adaptation", "method"),
    "table_4": (knowledge, "Key components of the knowledge transfer, on held-out source frames", "data set"),
    "table_5": (weights, "Influence of alpha given beta = 0.5", "alpha"),
    "table_6": (weights, "Influence of beta = tau given alpha = 1", "beta"),
    "figure_6": (qualitative, "Qualitative results", "method"),
    "figure_7": (synthetic, "Synthetic samples and what the source model sees in them", "data set"),
    "figure_8": (patches, "Influence of the number of patches, K x K", "K"),
}


def method_of(row: str, network: str) -> tuple[str, Changes]:
    """The method of a printed row, and what it changes in the shipped configuration."""
    adaptsegnet = "adaptsegnet_single" if network == "segnet" else "adaptsegnet_multi"
    known: dict[str, tuple[str, Changes]] = {
        "source only": ("source_only", {}),
        "MinEnt": ("source_min_entropy", {}),
        "AdaptSegNet": (adaptsegnet, {}),
        "CBST": ("source_cbst", {}),
        "MaxSquare": ("source_max_square", {}),
        "transfer only": ("sfda", TRANSFER),
        "SFDA (w/o IPSM)": ("sfda", {"gamma": 0.0}),
        "SFDA": ("sfda", {"gamma": PRESETS["paper"]["gamma"]}),  # a configuration may be without
    }
    return known[row]


def printed_rows(table: int, network: str) -> list[tuple[str, bool | None]]:
    """Rows of a table with their SF mark, in order; streetnet stands in for DeepLabV3."""
    lines = printed_table(table, "deeplabv3" if network == "streetnet" else network)
    return list(dict.fromkeys((line.row, line.source_free) for line in lines))


def printed_cell(domain: Domain, table: int, network: str, row: str, column: str) -> Printed | None:
    """The paper's numbers of a cell; None on other data than the paper's."""
    if domain.name != "paper":
        return None
    found = [line for line in printed_table(table, network) if (line.row, line.column) == (row, column)]
    return found[0] if found else None
