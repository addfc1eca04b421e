"""What a run leaves behind for people: report, model card, configuration, terminal tables."""

from hcnr.report.card import model_card
from hcnr.report.gather import gather
from hcnr.report.page import write_html, write_pngs
from hcnr.report.record import MatrixRecord
from hcnr.report.summary import build_report
from hcnr.report.writing import read_report, write_companions

__all__ = [
    "MatrixRecord",
    "build_report",
    "gather",
    "model_card",
    "read_report",
    "write_companions",
    "write_html",
    "write_pngs",
]
