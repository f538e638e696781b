"""The evidence as Markdown and as plots; nothing is read but the CSV's rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.common.markdown import table
from benchmarks.common.plot import save
from benchmarks.label_free.evidence import VERDICTS, Correlation, Selection, correlations, group, selections
from benchmarks.label_free.rows import ScoredModel
from benchmarks.label_free.rules import RULES
from sfda_engine.files import write_text

PLOTTED = (
    "entropy", "marginal_entropy", "mutual_information", "information_maximization", "neighborhood_density",
    "nuclear_norm", "agreement_mirrored", "iou_scale", "agreement_bn_warm_start", "iou_bn_warm_start", "bns",
    "bns_source",
)  # fmt: skip


def write_evidence(csv: Path, rows: Sequence[ScoredModel]) -> None:
    """label_free.md and label_free.png beside the CSV."""
    found = correlations(rows)
    chosen = selections(rows, RULES)
    write_text(csv.with_suffix(".md"), markdown(rows, found, chosen))
    plot(csv.with_suffix(".png"), rows)


def markdown(rows: Sequence[ScoredModel], found: Mapping[str, Correlation], chosen: Mapping[str, Selection]) -> str:
    """Tables of correlation, selection and confusion, and the runs that they rest on."""
    runs = group(rows, lambda row: row.key)
    domains = list(dict.fromkeys(row.domain for row in rows))
    lines = ["# Scores without labels against mIoU", ""]
    lines += [
        f"{len(runs)} runs on {len(domains)} domains, {len(rows)} scored models; mIoU in percent, held-out frames.",
        "",
    ]
    lines += ["## Rank correlation with mIoU", ""]
    lines += ["Spearman, signs turned so that 1 is perfect; BN warm start and snapshots, the source left out.", ""]
    head = ["score", "within runs, mean", *(f"all on {domain}" for domain in domains)]
    body = [
        [score, _signed(value.within_run), *(_signed(value.within_domain.get(domain)) for domain in domains)]
        for score, value in found.items()
    ]
    lines += table(head, body, right=range(1, len(head)))
    lines += ["", "## What a rule would have shipped", ""]
    lines += ["Of each run one model: the snapshot of highest quality, the BN warm start or the source.", ""]
    lines += _selections(rows, chosen)
    for name, one in list(chosen.items())[:3]:
        lines += ["", f"## Verdicts of: {name}", "", "Rows: what labels say is best. Columns: the verdict.", ""]
        said = list(VERDICTS.values())
        counts = [[truth, *(str(one.confusion[truth, verdict]) for verdict in said)] for truth in said]
        lines += table(["", *said], counts, right=range(1, len(said) + 1))
    return "\n".join([*lines, "", "## Runs", "", *_runs(runs.values())]) + "\n"


def _selections(rows: Sequence[ScoredModel], chosen: Mapping[str, Selection]) -> list[str]:
    head = ["rule", "mean regret", "worst", "mean gain over warm start", "worst", "runs 1 or more below it"]
    body = [_selected("the last snapshot, unjudged", *_unjudged(rows))]
    for name, one in chosen.items():
        body.append(_selected(name, one.regret, one.worst_regret, one.gain, one.worst_gain, one.harmed, one.right))
    return table([*head, "verdict right"], body, right=range(1, 7))


def _runs(runs: Iterable[Sequence[ScoredModel]]) -> list[str]:
    body = []
    for run in runs:
        miou = {row.model: row.miou for row in run}
        best = max(row.miou for row in run if row.model == "snapshot")
        figures = (miou["source"], miou["bn_warm_start"], best, run[-1].miou)
        body.append([run[0].run, run[0].domain, str(run[0].seed), *(f"{value:.1f}" for value in figures)])
    head = ["run", "domain", "seed", "source", "BN warm start", "best snapshot", "last"]
    return table(head, body, right=range(2, 7))


def _unjudged(rows: Sequence[ScoredModel]) -> tuple[float, float, float, float, int]:
    """Regret, its worst, gain, its worst, and harmed runs of who ships what the last step leaves."""
    runs = group(rows, lambda row: row.key).values()
    regrets = [max(row.miou for row in run) - run[-1].miou for run in runs]
    gains = [run[-1].miou - next(row.miou for row in run if row.model == "bn_warm_start") for run in runs]
    return (
        statistics.fmean(regrets),
        max(regrets),
        statistics.fmean(gains),
        min(gains),
        sum(gain < -1 for gain in gains),
    )


def _selected(
    name: str, regret: float, worst: float, gain: float, least: float, harmed: int, right: float | None = None
) -> list[str]:
    verdict = "" if right is None else f"{right:.0%}"
    return [name, f"{regret:.2f}", f"{worst:.1f}", f"{gain:+.2f}", f"{least:+.1f}", str(harmed), verdict]


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def plot(path: Path, rows: Sequence[ScoredModel]) -> None:
    """Each score against mIoU relative to the BN warm start, one point a snapshot, one color a domain."""
    figure = Figure(figsize=(14, 9), layout="constrained")
    grid = figure.subplots(3, 4, sharey=True)
    for axes, score in zip(grid.flat, PLOTTED, strict=True):
        for domain, every in group(rows, lambda row: row.domain).items():
            warm = statistics.fmean(row.miou for row in every if row.model == "bn_warm_start")
            shown = [row for row in every if row.model == "snapshot" and math.isfinite(row.scores[score])]
            axes.scatter(
                [row.scores[score] for row in shown], [row.miou - warm for row in shown], s=9, alpha=0.7, label=domain
            )
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_xlabel(score)
    grid[0, 0].legend(fontsize=8)
    figure.supylabel("mIoU over the BN warm start, points")
    save(figure, path, dpi=110)
