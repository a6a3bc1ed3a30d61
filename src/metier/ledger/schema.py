"""The tables of the ledger, version 1 of their contract, in portable SQL.

Every table but `event` has a column `seq`: the event that wrote the record as it stands. The event holds
the Merkle root of what it wrote, so a record edited, added or removed behind the ledger's back is found.

Portable means: text, integers and doubles only; times are ISO text in UTC; JSON is canonical text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Column, Float, Index, Integer, MetaData, Table, Text

from metier.core.hashing import canonical_json, sha256_hex

__all__ = ["MUTABLE", "REVISION", "TABLES", "event", "key_columns", "leaf", "metadata"]

REVISION = "0001"
"""Schema revision this code reads and writes; the newest one in `migrations`."""

metadata = MetaData()


def _key(name: str, kind: type[Text] | type[Integer] = Text) -> Column[Any]:  # Any: the SQL type's Python value
    return Column(name, kind, primary_key=True, autoincrement=False)


def _text(*names: str) -> list[Column[Any]]:  # Any: the SQL type's Python value
    return [Column(name, Text, nullable=False) for name in names]


def _seq() -> Column[Any]:  # Any: the SQL type's Python value
    return Column("seq", Integer, nullable=False)


event = Table("event", metadata, _key("seq", Integer), *_text("at", "actor", "kind", "body", "prev_hash", "hash"))
source = Table("source", metadata, _key("source_id"), *_text("name", "sha256", "licence"),
               Column("num_records", Integer, nullable=False), _seq())  # fmt: skip
# One content can come from two records (an exact duplicate), so the origin is part of the key.
row = Table("row", metadata, _key("row_id"), _key("origin_id"),
            *_text("object_ref", "meta_hash", "state", "reason", "rule_version", "survivor"), _seq(),
            Index("row_origin", "origin_id"))  # fmt: skip
edge = Table("edge", metadata, _key("child"), _key("parent"), _key("transform_id"), _seq())
transform = Table("transform", metadata, _key("transform_id"), *_text("op", "version", "params_hash"), _seq())
subject_key = Table("subject_key", metadata, _key("subject_hash"), *_text("key_ref"), Column("destroyed_at", Text),
                    _seq())  # fmt: skip
row_subject = Table("row_subject", metadata, _key("row_id"), _key("subject_hash"), _seq())
dataset = Table("dataset", metadata, _key("version"), *_text("root"), Column("n", Integer, nullable=False), _seq())
member = Table("member", metadata, _key("dataset"), _key("row_id"), _seq())
question = Table("question", metadata, _key("hash"), *_text("body", "frozen_at"), _seq())
split = Table("split", metadata, _key("split_id"), *_text("dataset", "question", "certificate_hash"), _seq())
part = Table("part", metadata, _key("split_id"), _key("origin_id"), *_text("part"), _seq())
seal = Table("seal", metadata, _key("split_id"), *_text("object_ref", "sealed_at"),
             Column("num_rows", Integer, nullable=False), _seq())  # fmt: skip
look = Table("look", metadata, _key("look_id"), *_text("split_id", "question", "arms_hash", "state", "opened_at"),
             Column("k", Integer, nullable=False), Column("alpha", Float(53), nullable=False),
             Column("finished_at", Text), Column("result_hash", Text), _seq(),
             Index("look_question", "question"))  # fmt: skip
run = Table("run", metadata, _key("run_id"), *_text("stage", "inputs_hash", "config_hash", "stage_version", "state"),
            *_text("started"), Column("finished", Text), Column("note", Text), _seq())  # fmt: skip
model = Table("model", metadata, _key("model_id"),
              *_text("base_sha", "adapter_sha", "template_sha", "tokenizer_sha", "dataset", "config_hash"),
              Column("seed", Integer, nullable=False), *_text("state", "registered_at"), _seq())  # fmt: skip
trained_on = Table("trained_on", metadata, _key("model_id"), _key("dataset"),
                   Column("fraction", Float(53), nullable=False), Column("seed", Integer, nullable=False),
                   _seq())  # fmt: skip
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
    "row": frozenset({"object_ref", "meta_hash", "state", "reason", "rule_version", "survivor"}),
    "subject_key": frozenset({"key_ref", "destroyed_at"}),
    "look": frozenset({"state", "finished_at", "result_hash"}),
    "run": frozenset({"state", "finished", "note"}),
    "model": frozenset({"state"}),
    "alias": frozenset({"model_id"}),
    "prediction": frozenset({"actual"}),
}
"""Columns a later event may change; everything else is written once."""


def key_columns(table: Table) -> tuple[str, ...]:
    """Names of the columns that identify a record."""
    return tuple(column.name for column in table.primary_key)


def leaf(table: Table, record: Mapping[str, Any]) -> str:  # Any: SQL values
    """Hash of one record of a table, 64 hex digits; `seq` and unset columns are left out.

    Unset columns are left out so that a column added by a later revision keeps the hashes of old records.
    """
    values: dict[str, Any] = {}  # Any: SQL values
    for column in table.columns:
        value = record.get(column.name)
        if column.name == "seq" or value is None:
            continue
        if isinstance(column.type, Float) and isinstance(value, int):
            value = float(value)  # SQL gives 1.0 back for a 1
        values[column.name] = value if isinstance(value, str | int | float) else repr(value)
    return sha256_hex(canonical_json([table.name, values]))
