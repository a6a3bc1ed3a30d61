"""Train, dev and a sealed hold-out, cut by group, near-duplicate and time, with a certificate anyone can recompute."""

from metier.split.certificate import Certificate, certify, verify_certificate
from metier.split.disjoint import assert_disjoint
from metier.split.parts import SplitResult, from_files, split_report, split_rows
from metier.split.purge import Purged

__all__ = [
    "Certificate", "Purged", "SplitResult", "assert_disjoint", "certify", "from_files", "split_report", "split_rows",
    "verify_certificate",
]  # fmt: skip
