"""The tables of the ledger, version 2 of their contract, in portable SQL.

Every table but `event` has a column `seq`: the event that wrote the record as it stands. The event holds
the Merkle root of what it wrote, so a record edited, added or removed behind the ledger's back is found.

Portable means: text, integers and doubles only; times are ISO text in UTC; JSON is canonical text. Integers have 64
bits and text is ordered by its bytes on both databases, as SQLite does of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, Table, Text

__all__ = ["MUTABLE", "REVISION", "TABLES", "TOLD", "event", "key_columns", "metadata"]

REVISION = "0002"
"""Schema revision this code reads and writes; the newest one in `migrations`."""

metadata = MetaData()

TEXT = Text().with_variant(Text(collation="C"), "postgresql")
INTEGER = Integer().with_variant(BigInteger(), "postgresql")


def _key(name: str) -> Column[Any]:  # Any: the SQL type's Python value
    return Column(name, TEXT, primary_key=True, autoincrement=False)


def _text(*names: str) -> list[Column[Any]]:  # Any: the SQL type's Python value
    return [Column(name, TEXT, nullable=False) for name in names]


def _seq(*, is_key: bool = False) -> Column[Any]:  # Any: the SQL type's Python value
    return Column("seq", INTEGER, nullable=False, primary_key=is_key, autoincrement=False)


event = Table("event", metadata, _seq(is_key=True),
              *_text("at", "actor", "kind", "body", "prev_hash", "hash"))  # fmt: skip
source = Table("source", metadata, _key("source_id"), *_text("name", "sha256", "licence"),
               Column("num_records", INTEGER, nullable=False), _seq())  # fmt: skip
# One content can come from two records (an exact duplicate), so the origin is part of the key.
row = Table("row", metadata, _key("row_id"), _key("origin_id"),
            *_text("object_ref", "meta_hash", "state", "reason", "rule_version", "survivor"), _seq(),
            Index("row_origin", "origin_id"))  # fmt: skip
edge = Table("edge", metadata, _key("child"), _key("parent"), _key("transform_id"), _seq(),
             Index("edge_parent", "parent"))  # fmt: skip
transform = Table("transform", metadata, _key("transform_id"), *_text("op", "version", "params_hash"), _seq())
subject_key = Table("subject_key", metadata, _key("subject_hash"), *_text("key_ref"), Column("destroyed_at", TEXT),
                    _seq())  # fmt: skip
row_subject = Table("row_subject", metadata, _key("row_id"), _key("subject_hash"), _seq(),
                    Index("row_subject_subject", "subject_hash"))  # fmt: skip
erasure = Table("erasure", metadata, _key("erasure_id"), *_text("subject_hash", "certificate_hash", "object_ref", "at"),
                _seq())  # fmt: skip
dataset = Table("dataset", metadata, _key("version"), *_text("root"), Column("n", INTEGER, nullable=False), _seq())
member = Table("member", metadata, _key("dataset"), _key("row_id"), _seq())
question = Table("question", metadata, _key("hash"), *_text("body", "frozen_at"), _seq())
split = Table("split", metadata, _key("split_id"), *_text("dataset", "question", "certificate_hash"), _seq())
part = Table("part", metadata, _key("split_id"), _key("origin_id"), *_text("part"), _seq())
seal = Table("seal", metadata, _key("split_id"), *_text("object_ref", "sealed_at"),
             Column("num_rows", INTEGER, nullable=False), _seq())  # fmt: skip
look = Table("look", metadata, _key("look_id"), *_text("split_id", "question", "arms_hash", "state", "opened_at"),
             Column("k", INTEGER, nullable=False), Column("alpha", Float(53), nullable=False),
             Column("finished_at", TEXT), Column("result_hash", TEXT), _seq(),
             Index("look_question", "question"))  # fmt: skip
run = Table("run", metadata, _key("run_id"), *_text("stage", "inputs_hash", "config_hash", "stage_version", "state"),
            *_text("started"), Column("finished", TEXT), Column("note", TEXT), _seq())  # fmt: skip
model = Table("model", metadata, _key("model_id"),
              *_text("base_sha", "adapter_sha", "template_sha", "tokenizer_sha", "dataset", "config_hash"),
              Column("seed", INTEGER, nullable=False), *_text("state", "registered_at"), _seq())  # fmt: skip
trained_on = Table("trained_on", metadata, _key("model_id"), _key("dataset"),
                   Column("fraction", Float(53), nullable=False), Column("seed", INTEGER, nullable=False),
                   _seq())  # fmt: skip
# A model whose training went on from the weights of another.
model_parent = Table("model_parent", metadata, _key("model_id"), _key("parent_id"), _seq())
alias = Table("alias", metadata, _key("name"), *_text("model_id"), _seq())
vote = Table("vote", metadata, _key("row_id"), _key("annotator"), _key("at"), *_text("value", "guideline_version"),
             Column("seconds", Float(53), nullable=False), _seq())  # fmt: skip
prediction = Table("prediction", metadata, _key("run_id"), _key("quantity"),
                   *(Column(name, Float(53), nullable=False) for name in ("predicted", "low", "high")),
                   Column("actual", Float(53)), _seq())  # fmt: skip
spend = Table("spend", metadata, _key("spend_id"), *_text("run_id", "price_ref"),
              Column("quantity", Float(53), nullable=False), _seq(), Index("spend_run", "run_id"))  # fmt: skip

TABLES: Mapping[str, Table] = {name: table for name, table in metadata.tables.items() if name != "event"}
"""Every table whose records are written by events."""

MUTABLE: Mapping[str, frozenset[str]] = {
    "source": frozenset({"licence", "num_records"}),  # what is said of a file, and how much of it could be counted
    "row": frozenset({"object_ref", "meta_hash", "state", "reason", "rule_version", "survivor"}),
    "subject_key": frozenset({"key_ref", "destroyed_at"}),
    "seal": frozenset({"object_ref"}),  # an erasure writes the sealed object anew
    "vote": frozenset({"value"}),  # an erasure empties it
    "look": frozenset({"state", "finished_at", "result_hash"}),
    "run": frozenset({"state", "finished", "note"}),
    "model": frozenset({"state"}),
    "alias": frozenset({"model_id"}),
    "prediction": frozenset({"actual"}),
}
"""Columns a later event may change; everything else is written once."""

TOLD: Mapping[str, frozenset[str]] = {
    "row": frozenset({"state", "reason", "rule_version", "survivor"}),
    "subject_key": frozenset({"destroyed_at"}),
    "look": frozenset({"state"}),
    "run": frozenset({"state"}),
    "model": frozenset({"state"}),
    "alias": frozenset({"model_id"}),
}
"""Columns whose earlier value an event tells when it replaces a record. Of the others only the leaf is left, so that
what an erasure empties does not live on in an event."""


def key_columns(table: Table) -> tuple[str, ...]:
    """Names of the columns that identify a record."""
    return tuple(column.name for column in table.primary_key)
