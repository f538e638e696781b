"""A run folder -> `report.html`: one file that holds its images, styles and charts."""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2
from markupsafe import Markup

from sfda_engine.files import write_text
from sfda_engine.report import numbers, summary, trust
from sfda_engine.report.charts import loss_panels
from sfda_engine.report.reading import CELLS, Run, read_run
from sfda_engine.report.views import view_grid

CELL_TITLES = {
    "frame": "Target frame",
    "source": "Source model",
    "adapted": "Adapted model",
    "label": "Label",
    "entropy": "Uncertainty",
    "patches": "Easy and hard patches",
}


def write_report(run_folder: Path) -> Path:
    """Render `report.html` of a run folder and return its path; an older report is replaced.

    The same folder gives the same bytes. Configuration, metrics and figures may be missing, their sections
    then are too. Raises UserError where result.json is absent or broken.
    """
    path = run_folder / "report.html"
    write_text(path, render(read_run(run_folder)))
    return path


def render(run: Run) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(fixed=numbers.fixed, signed=numbers.signed, tone=numbers.tone, data_uri=_data_uri)
    environment.filters["svg"] = Markup  # our own drawing, the only markup that is not escaped
    result, rows = run.result, summary.class_rows(run.result)
    return environment.get_template("report.html.j2").render(
        run=run,
        title=result.get("config") or "Adaptation run",
        subtitle=[str(result[key]) for key in ("arch", "preset", "device") if result.get(key)],
        badges=summary.badges(result),
        headline=summary.headline(result),
        alerts=summary.alerts(result, unread_lines=run.unread_lines),
        scores=summary.scores(result),
        facts=summary.facts(result),
        rows=rows,
        class_sentence=summary.class_sentence(rows),
        models=summary.MODELS,
        measures=summary.measures(result),
        legend=summary.legend(result),
        cells=[(cell, CELL_TITLES[cell]) for cell in CELLS if any(cell in frame.cells for frame in run.frames)],
        panels=loss_panels(run.metrics),
        warnings=result.get("warnings") or [],
        strikes=summary.strikes(result),
        views=view_grid(result),
        provenance=summary.provenance(result),
        firewall=trust.firewall_sentence(run.manifest),
        trust=trust.trust_rows(run.manifest, run.manifest_sha256),
    )


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
