"""Raw files into governed rows: read, cleaned, every drop kept with its reason."""

from metier.curate.clean import clean_chunks, curate
from metier.curate.curated import CLEAN_RULES, Curated
from metier.curate.erase import erase_records
from metier.curate.private import Hit, find_private
from metier.curate.read import Failure, ReadChunk, ReadResult, read_chunks, read_rows
from metier.curate.rules import RowRules
from metier.curate.shapes import FORMATS
from metier.curate.store import data_report, load, write

__all__ = [
    "CLEAN_RULES", "FORMATS", "Curated", "Failure", "Hit", "ReadChunk", "ReadResult", "RowRules", "clean_chunks",
    "curate", "data_report", "erase_records", "find_private", "load", "read_chunks", "read_rows", "write",
]  # fmt: skip
