"""Public data, where it stands beside the repository: copies found, templates kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from metier.core.rows import Message, Meta, Role, Row, Target, TargetKind, make_row
from metier.core.similarity import near_pairs, shingles_of
from metier.curate.duplicates import Duplicates, duplicate_columns, find_duplicates

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")]


@pytest.mark.parametrize("exact", [20_000, 0])
@pytest.mark.parametrize("num", [100, 1000, 2500])
def test_planted_copies_of_articles_are_found_and_nothing_else(num: int, exact: int) -> None:
    folder = DATA / "minhash_articles"
    articles = [json.loads(line) for line in (folder / f"articles_{num}.jsonl").read_text().splitlines()]
    with (folder / f"truth_{num}.csv").open() as file:
        truth = {frozenset((row["doc_a"], row["doc_b"])) for row in csv.DictReader(file)}
    texts = shingles_of([article["text"] for article in articles])
    found = {
        frozenset((articles[i]["doc_id"], articles[j]["doc_id"]))
        for pairs in near_pairs(texts, 0.8, exact_texts=exact, exact_entries=exact)
        for i, j in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    }
    assert found == truth  # precision 1, recall 1


def read(name: str, prompt: str, reply: str, *, labels: bool) -> Iterator[Row]:
    """The rows of a public table."""
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        for number, record in enumerate(csv.DictReader(file)):
            if not record[prompt]:
                continue
            target = Target(kind=TargetKind.LABEL, label=record[reply]) if labels else Target()
            spoken = (
                Message(role=Role.USER, content=record[prompt]),
                Message(role=Role.ASSISTANT, content=record[reply]),
            )
            yield make_row(b"project", messages=spoken, target=target, meta=Meta(source=name, source_row=number))


def copies(rows: list[Row]) -> Duplicates:
    return find_duplicates(duplicate_columns(rows, key=b"project"), 0.8)


def test_of_16501_templated_tickets_only_copies_leave() -> None:
    rows = list(read("it_tickets/it_tickets_sample.csv", "Document", "Topic_group", labels=True))
    found = copies(rows)
    assert (len(rows), int((found.survivor_N >= 0).sum())) == (16_501, 73)
    for i in (found.survivor_N >= 0).nonzero()[0].tolist():
        mine, other = rows[i], rows[found.survivor_N[i]]
        assert mine.target.label == other.target.label
        # Counted another way: of the words of both, as sets, most are the same.
        left, right = set(mine.prompt_text.split()), set(other.prompt_text.split())
        assert len(left & right) >= 0.75 * len(left | right)


def test_support_replies_from_templates_all_survive() -> None:
    rows = list(read("bitext_support/bitext_customer_support.csv", "instruction", "response", labels=False))
    found = copies(rows)
    assert (len(rows), int((found.survivor_N >= 0).sum())) == (4514, 0)


def test_complaints_sent_twice_leave() -> None:
    rows = list(read("cfpb_complaints/cfpb_narratives.csv", "narrative", "product", labels=True))
    found = copies(rows)
    assert [int((found.reason_N == reason).sum()) for reason in range(3)] == [3437, 75, 25]
