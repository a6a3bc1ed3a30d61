"""Raw files into governed rows: read, cleaned, every drop kept with its reason."""

from metier.curate.clean import CLEAN_RULES, CurateResult, Quarantined, clean_rows, curate
from metier.curate.private import Hit, find_private
from metier.curate.read import Failure, ReadResult, read_rows
from metier.curate.shapes import FORMATS
from metier.curate.store import data_report, dataset_version, load, write

__all__ = [
    "CLEAN_RULES", "FORMATS", "CurateResult", "Failure", "Hit", "Quarantined", "ReadResult", "clean_rows", "curate",
    "data_report", "dataset_version", "find_private", "load", "read_rows", "write",
]  # fmt: skip
