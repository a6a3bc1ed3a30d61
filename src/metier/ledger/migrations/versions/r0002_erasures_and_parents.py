"""Erasures, and models that went on from other models; PostgreSQL orders text by bytes and keeps 64-bit integers.

SQLite has both of itself, so its tables stay as they are.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer, Text, inspect

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_POSTGRESQL_TYPES = {"TEXT": 'TEXT COLLATE "C"', "INTEGER": "BIGINT"}


def upgrade() -> None:
    """Add the tables and indexes; on PostgreSQL change the types of all columns, and refuse to empty `event`."""
    op.create_table(
        "erasure",
        Column("erasure_id", Text, primary_key=True),
        *(Column(name, Text, nullable=False) for name in ("subject_hash", "certificate_hash", "object_ref", "at")),
        Column("seq", Integer, nullable=False),
    )
    op.create_table(
        "model_parent",
        Column("model_id", Text, primary_key=True),
        Column("parent_id", Text, primary_key=True),
        Column("seq", Integer, nullable=False),
    )
    op.create_index("edge_parent", "edge", ["parent"])
    op.create_index("row_subject_subject", "row_subject", ["subject_hash"])
    if op.get_bind().dialect.name != "postgresql":
        return
    columns_of = inspect(op.get_bind()).get_columns
    for table in ("event", *_tables()):
        changes = [
            f'ALTER COLUMN "{column["name"]}" TYPE {_POSTGRESQL_TYPES[str(column["type"])]}'
            for column in columns_of(table)
            if str(column["type"]) in _POSTGRESQL_TYPES
        ]
        op.execute(f'ALTER TABLE "{table}" {", ".join(changes)}')
    op.execute(
        "CREATE TRIGGER event_not_emptied BEFORE TRUNCATE ON event "
        "FOR EACH STATEMENT EXECUTE FUNCTION event_append_only()"
    )


def _tables() -> list[str]:
    """Every table of ours but `event`, as they are called at this revision."""
    return [
        "source", "row", "edge", "transform", "subject_key", "row_subject", "dataset", "member", "question", "split",
        "part", "seal", "look", "run", "model", "trained_on", "alias", "vote", "prediction", "spend", "erasure",
        "model_parent",
    ]  # fmt: skip
