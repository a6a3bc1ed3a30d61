"""Public data, where it stands beside the repository: copies found, templates kept, seconds measured."""

from __future__ import annotations

import csv
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from metier.core.settings import CleanConfig, DataConfig
from metier.core.similarity import near_pairs
from metier.curate import clean_rows, read_rows

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
NOW = datetime(2026, 11, 1, tzinfo=UTC)
pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")]


@pytest.mark.parametrize("exact_rows", [20_000, 0])
@pytest.mark.parametrize("num", [1000, 2500])
def test_planted_copies_of_articles_are_found_and_nothing_else(num: int, exact_rows: int) -> None:
    folder = DATA / "minhash_articles"
    articles = [json.loads(line) for line in (folder / f"articles_{num}.jsonl").read_text().splitlines()]
    with (folder / f"truth_{num}.csv").open() as file:
        truth = {frozenset((row["doc_a"], row["doc_b"])) for row in csv.DictReader(file)}
    found = {
        frozenset((articles[i]["doc_id"], articles[j]["doc_id"]))
        for pairs in near_pairs([article["text"] for article in articles], 0.8, exact_rows=exact_rows)
        for i, j in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    }
    assert found == truth  # precision 1, recall 1


def test_16501_templated_tickets_are_read_and_cleaned_in_seconds_and_survive() -> None:
    start = time.perf_counter()
    data = DataConfig(
        files=("it_tickets/it_tickets_sample.csv",), columns={"prompt": "Document", "label": "Topic_group"}
    )
    read = read_rows(data, DATA, key=b"project")
    result = clean_rows(read, CleanConfig(), key=b"project", now=NOW)
    assert result.num_read == 16_501
    assert len(result.kept) >= 0.98 * result.num_read
    assert time.perf_counter() - start < 60  # about 5 s on an idle core; room for a busy neighbour


def test_support_replies_from_templates_all_survive() -> None:
    data = DataConfig(files=("bitext_support",), columns={"prompt": "instruction", "reply": "response"})
    result = clean_rows(read_rows(data, DATA, key=b"project"), CleanConfig(), key=b"project", now=NOW)
    assert (len(result.kept), result.failed) == (4514, [])
