"""The first schema: all tables of the contract, and the speed bump before `event`.

The columns are written out, not taken from `metier.ledger.schema`: a migration must do tomorrow what it
does today.
"""

from __future__ import annotations

from typing import Any

from alembic import op
from sqlalchemy import Column, Float, Integer, Text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Table: its key columns; a name alone is text NOT NULL, name:i an integer, name:f a double, name? may be unset.
TABLES = {
    "source": (("source_id",), "name sha256 licence num_records:i"),
    "row": (("row_id", "origin_id"), "object_ref meta_hash state reason rule_version survivor"),
    "edge": (("child", "parent", "transform_id"), ""),
    "transform": (("transform_id",), "op version params_hash"),
    "subject_key": (("subject_hash",), "key_ref destroyed_at?"),
    "row_subject": (("row_id", "subject_hash"), ""),
    "dataset": (("version",), "root n:i"),
    "member": (("dataset", "row_id"), ""),
    "question": (("hash",), "body frozen_at"),
    "split": (("split_id",), "dataset question certificate_hash"),
    "part": (("split_id", "origin_id"), "part"),
    "seal": (("split_id",), "object_ref sealed_at num_rows:i"),
    "look": (
        ("look_id",),
        "split_id question arms_hash state opened_at k:i alpha:f finished_at? result_hash?",
    ),
    "run": (("run_id",), "stage inputs_hash config_hash stage_version state started finished? note?"),
    "model": (
        ("model_id",),
        "base_sha adapter_sha template_sha tokenizer_sha dataset config_hash seed:i state registered_at",
    ),
    "trained_on": (("model_id", "dataset"), "fraction:f seed:i"),
    "alias": (("name",), "model_id"),
    "vote": (("row_id", "annotator", "at"), "value guideline_version seconds:f"),
    "prediction": (("run_id", "quantity"), "predicted:f low:f high:f actual:f?"),
    "spend": (("spend_id",), "run_id price_ref quantity:f"),
}
INDEXES = {"row_origin": ("row", "origin_id"), "look_question": ("look", "question"), "spend_run": ("spend", "run_id")}


def _column(spec: str) -> Column[Any]:  # Any: the SQL type's Python value
    spec, may_be_unset = spec.removesuffix("?"), spec.endswith("?")
    name, _, kind = spec.partition(":")
    types: dict[str, Any] = {"": Text(), "i": Integer(), "f": Float(53)}  # Any: three SQL types
    return Column(name, types[kind], nullable=may_be_unset)


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "event",
        Column("seq", Integer, primary_key=True, autoincrement=False),
        *(Column(name, Text, nullable=False) for name in ("at", "actor", "kind", "body", "prev_hash", "hash")),
    )
    for table, (keys, columns) in TABLES.items():
        op.create_table(
            table,
            *(Column(name, Text, primary_key=True) for name in keys),
            *(_column(spec) for spec in columns.split()),
            Column("seq", Integer, nullable=False),
        )
    for name, (table, column) in INDEXES.items():
        op.create_index(name, table, [column])
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER event_no_{verb.lower()} BEFORE {verb} ON event "
                "BEGIN SELECT RAISE(ABORT, 'events are append only'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION event_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'events are append only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE ON event "
            "FOR EACH ROW EXECUTE FUNCTION event_append_only()"
        )
