"""What a person looks at: the report as one self-contained page."""

from metier.web.data_page import render_data_page
from metier.web.page import render_report, write_report

__all__ = ["render_data_page", "render_report", "write_report"]
