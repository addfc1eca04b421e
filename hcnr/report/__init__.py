"""What a run leaves behind for people: report, model card, configuration, terminal tables."""

from hcnr.record.card import model_card
from hcnr.record.files.matrix_record import MatrixRecord
from hcnr.record.writing import read_report, write_companions
from hcnr.repair.summary import build_report
from hcnr.report.gather import gather
from hcnr.report.page import write_charts, write_html

__all__ = [
    "MatrixRecord",
    "build_report",
    "gather",
    "model_card",
    "read_report",
    "write_charts",
    "write_companions",
    "write_html",
]
