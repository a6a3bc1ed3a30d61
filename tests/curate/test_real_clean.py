"""Public rows read and cleaned as a project would: what leaves, what stays, in seconds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from metier.core.settings import DataConfig
from tests.curate.cleaning import clean_files

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")]


def test_16501_templated_tickets_are_read_and_cleaned_and_all_but_true_copies_survive() -> None:
    started = time.process_time()
    data = DataConfig(
        files=("it_tickets/it_tickets_sample.csv",), columns={"prompt": "Document", "label": "Topic_group"}
    )
    result = clean_files(DATA, data)
    assert time.process_time() - started < 30  # about 5 s
    assert result.num_read == 16_501
    assert result.reasons == {"near_duplicate": 73}  # each was read beside its survivor: docs/curate.md


def test_support_replies_from_templates_all_survive() -> None:
    data = DataConfig(files=("bitext_support",), columns={"prompt": "instruction", "reply": "response"})
    result = clean_files(DATA, data)
    assert (result.num_read, result.reasons, result.failed) == (4514, {}, [])
    assert result.private == {"email": 2}
