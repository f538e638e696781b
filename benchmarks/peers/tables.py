"""The rows as Markdown: final mIoU by method and domain, and what it took."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.common.markdown import mean_and_spread, table
from benchmarks.peers.rows import PeerRow


def markdown(rows: Sequence[PeerRow], methods: Iterable[str], domains: Sequence[str]) -> str:
    """Final mIoU by method and domain, mean and spread over seeds; then the oracle, cost, and what was noted."""
    present = [domain for domain in domains if any(row.domain == domain for row in rows)]
    named = [method for method in methods if any(row.method == method for row in rows)]
    head = ["method", "source data", *present, "mean over domains"]
    shipped = {row.domain: row.miou_source for row in rows}
    body = [["source as shipped", "none", *_cells([{0: shipped[name]} for name in present])]]
    for method in named:
        own = [row for row in rows if row.method == method]
        free = "none" if all(row.source_free for row in own) else "**needed**"
        final = [{row.seed: row.miou_final for row in own if row.domain == domain} for domain in present]
        stopped = [any(row.note for row in own if row.domain == domain) for domain in present]
        cells = [
            (cell + " †" * mark if cell else "")
            for cell, mark in zip(_cells(final), [*stopped, any(stopped)], strict=True)
        ]
        body.append([method, free, *cells])
    lines = ["# Methods without and with source data", "", *_remarks(rows, present), ""]
    lines += table(head, body, right=range(2, len(head)))
    lines += [""] + ["† holds a run that was stopped or diverged, see the notes."] * any(row.note for row in rows)
    return "\n".join([*lines, "## Oracle, cost", "", *_cost(rows, named)]) + "\n"


def _cost(rows: Sequence[PeerRow], methods: Iterable[str]) -> list[str]:
    head = ["method", "best snapshot (oracle), mean", "steps", "seconds", "seconds, idle machine", "peak MiB", "notes"]
    body = []
    for method in methods:
        own = [row for row in rows if row.method == method]
        body.append(
            [
                method,
                f"{statistics.fmean(row.miou_best for row in own):.1f}",
                _span(row.steps for row in own),
                f"{statistics.fmean(row.seconds for row in own):.1f}",
                f"{statistics.fmean(row.idle_seconds for row in own):.1f}",
                f"{max(row.peak_memory_mb for row in own):.0f}",
                "; ".join(sorted({f"{row.domain} seed {row.seed}: {row.note}" for row in own if row.note})),
            ]
        )
    return table(head, body, right=range(1, 6))


def _remarks(rows: Sequence[PeerRow], domains: Sequence[str]) -> list[str]:
    last = max(rows, key=lambda row: row.time)
    seeds = sorted({row.seed for row in rows})
    return [
        "mIoU in percent after the last step, at the labels' own size, on held-out frames of each target: mean over",
        f"seeds ({', '.join(map(str, seeds))}) and, from two on, sample standard deviation; over domains, that of",
        "the seeds' means. The best snapshot is chosen by labels: perfect stopping, which no method knows.",
        "",
        *(f"- {domain}: {'; '.join(sorted({r.settings for r in rows if r.domain == domain}))}" for domain in domains),
        "",
        f"{last.device}, {last.threads} threads; {last.versions}; commit {last.commit}; {last.time}.",
    ]


def _cells(by_domain: list[dict[int, float]]) -> list[str]:
    """A cell for each domain from its values by seed, and one for the mean over domains at the seeds that all have."""
    common = set.intersection(*(set(values) for values in by_domain))
    over = [statistics.fmean(values[seed] for values in by_domain) for seed in sorted(common)]
    return [mean_and_spread(values, digits=1) for values in (*(list(own.values()) for own in by_domain), over)]


def _span(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"
