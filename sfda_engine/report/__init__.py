"""The report: a run folder becomes one self-contained HTML page, for people who were not there."""

from sfda_engine.report.figures import save_frame, save_synthetic
from sfda_engine.report.html import write_report

__all__ = ["save_frame", "save_synthetic", "write_report"]
