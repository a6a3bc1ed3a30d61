"""The question, frozen before the hold-out is opened, and the split it is asked on.

    >>> question = freeze_question(ledger, config.question())
    >>> question.hash == config.question_hash()
    True

A question is its content: the same content is the same question, a changed one is a new question with
looks of its own, and both stay in the ledger for everyone to see.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from metier.core.errors import DataError, StoreError
from metier.core.hashing import canonical_json, merkle_root, value_hash
from metier.ledger.ledger import Ledger, utc_now
from metier.ledger.schema import dataset, part, question, split

__all__ = [
    "HOLDOUT", "PARTS", "Question", "SplitRecord", "find_question", "find_split", "freeze_question", "parts_of",
    "record_split", "split_id_of",
]  # fmt: skip

HOLDOUT = "holdout"
PARTS = ("train", "dev", HOLDOUT, "purged")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a verdict is about."""

    hash: str
    """SHA-256 of the canonical JSON of `body`."""
    body: Mapping[str, Any]
    """The question's tables, as JSON values."""
    frozen_at: str
    """When it was first frozen, ISO text in UTC."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRecord:
    """One division of one dataset's origins into parts, for one question."""

    split_id: str
    """Hash of dataset, question, certificate and parts."""
    dataset: str
    """Dataset version."""
    question: str
    """Question hash."""
    certificate_hash: str
    """Hash of the certificate."""


def freeze_question(ledger: Ledger, body: Mapping[str, Any]) -> Question:  # Any: JSON values
    """Freeze a question, or return it as it was frozen before."""
    frozen = Question(hash=value_hash(dict(body)), body=json.loads(canonical_json(dict(body))), frozen_at=utc_now())
    with ledger.writing("question_frozen") as transaction:
        for stored in transaction.records(select(question).where(question.c.hash == frozen.hash)):
            return Question(hash=frozen.hash, body=frozen.body, frozen_at=stored["frozen_at"])
        text = canonical_json(frozen.body).decode()
        transaction.put(question, [{"hash": frozen.hash, "body": text, "frozen_at": frozen.frozen_at}])
        transaction.note(question=frozen.hash)
    return frozen


def find_question(ledger: Ledger, question_hash: str) -> Question:
    """A frozen question by its hash.

    Raises:
        StoreError: no such question.
    """
    for stored in ledger.records(select(question).where(question.c.hash == question_hash)):
        return Question(hash=stored["hash"], body=json.loads(stored["body"]), frozen_at=stored["frozen_at"])
    raise StoreError(f"{ledger.where}: no question {question_hash!r}; freeze it with freeze_question.")


def record_split(
    ledger: Ledger,
    *,
    dataset_version: str,
    question_hash: str,
    parts: Mapping[str, str],
    certificate: Mapping[str, Any],
) -> SplitRecord:
    """Record which origin went into which part; `parts` maps origin ids to train, dev, holdout or purged.

    Raises:
        DataError: no parts, or a part that is none of these.
        StoreError: the dataset or the question is not recorded.
    """
    if not parts:
        raise DataError("record_split: 0 rows in all parts; expected at least one.")
    if strange := sorted(set(parts.values()) - set(PARTS)):
        raise DataError(f"record_split: part {strange[0]!r} is unknown; expected one of {', '.join(PARTS)}.")
    certificate_hash = value_hash(dict(certificate))
    split_id = split_id_of(
        dataset_version=dataset_version, question_hash=question_hash, certificate_hash=certificate_hash, parts=parts
    )
    record = SplitRecord(
        split_id=split_id, dataset=dataset_version, question=question_hash, certificate_hash=certificate_hash
    )
    with ledger.writing("split_recorded") as transaction:
        if not transaction.records(select(dataset.c.n).where(dataset.c.version == dataset_version)):
            raise StoreError(f"{ledger.where}: no dataset version {dataset_version!r}; record it with record_dataset.")
        if not transaction.records(select(question.c.hash).where(question.c.hash == question_hash)):
            raise StoreError(f"{ledger.where}: no question {question_hash!r}; freeze it with freeze_question.")
        transaction.put(split, [_split_values(record)])
        new = ({"split_id": split_id, "origin_id": origin_id, "part": name} for origin_id, name in parts.items())
        if transaction.put(part, new):
            transaction.note(split=split_id, counts=dict(sorted(Counter(parts.values()).items())))
    return record


def split_id_of(*, dataset_version: str, question_hash: str, certificate_hash: str, parts: Mapping[str, str]) -> str:
    """The id that a division of a dataset's origins has for a question, 32 hex digits."""
    parts_root = merkle_root(f"{origin_id} {name}" for origin_id, name in parts.items())
    return value_hash([dataset_version, question_hash, certificate_hash, parts_root])[:32]


def find_split(ledger: Ledger, split_id: str) -> SplitRecord:
    """A split by its id.

    Raises:
        StoreError: no such split.
    """
    for values in ledger.records(select(split).where(split.c.split_id == split_id)):
        del values["seq"]
        return SplitRecord(**values)
    raise StoreError(f"{ledger.where}: no split {split_id!r}; record it with record_split.")


def parts_of(ledger: Ledger, split_id: str) -> dict[str, str]:
    """The part of every origin id of a split; empty for an unknown split."""
    query = select(part.c.origin_id, part.c.part).where(part.c.split_id == split_id).order_by(part.c.origin_id)
    return {values["origin_id"]: values["part"] for values in ledger.records(query)}


def _split_values(record: SplitRecord) -> dict[str, str]:
    return {
        "split_id": record.split_id,
        "dataset": record.dataset,
        "question": record.question,
        "certificate_hash": record.certificate_hash,
    }
