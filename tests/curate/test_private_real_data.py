"""Public texts of three domains, where they stand beside the repository: what is hit that should not be."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path

import pytest

from metier.curate.private import find_private

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")]


def hits(path: str, *columns: str) -> tuple[int, Counter[tuple[str, str]]]:
    csv.field_size_limit(sys.maxsize)
    with (DATA / path).open(encoding="utf-8", errors="replace") as file:
        texts = [row[column] or "" for row in csv.DictReader(file) for column in columns]
    return len(texts), Counter((hit.kind, hit.text) for text in texts for hit in find_private(text))


def test_helpdesk_tickets_and_support_replies_hold_order_numbers_and_one_mail_address() -> None:
    assert hits("it_tickets/it_tickets_sample.csv", "Document") == (16_501, Counter())
    found = Counter({("email", "support@company.com"): 2})
    assert hits("bitext_support/bitext_customer_support.csv", "instruction", "response") == (9_028, found)


def test_ages_doses_and_dates_of_patients_and_masked_complaints_are_left() -> None:
    assert hits("mts_dialog/train.csv", "section_text", "dialogue") == (2_402, Counter())
    assert hits("cfpb_complaints/cfpb_narratives.csv", "narrative") == (3_537, Counter())
