"""Names that are made of content, made again: dataset versions, questions, splits, looks, models.

These names stand in reports, outside the ledger. Whoever computes the whole chain anew with another content has to
change the names too, and then they are not those of the report.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Table, select

from metier.core.hashing import merkle_root, sha256_hex, value_hash
from metier.ledger.looks import look_id_of
from metier.ledger.models import ModelIdentity
from metier.ledger.problems import Problem
from metier.ledger.questions import split_id_of
from metier.ledger.schema import dataset, look, member, model, part, question, source, split, transform

__all__ = ["check_names"]


def check_names(connection: Connection) -> Iterator[Problem]:
    """Every name that is a hash is the hash of what it names."""
    for found in _all(connection, dataset):
        query = select(member.c.row_id).where(member.c.dataset == found["version"])
        row_ids = [str(row_id) for row_id in connection.execute(query).scalars()]
        yield from _compare("dataset", found["version"], merkle_root(row_ids), "rows")
        if (found["root"], found["n"]) != (found["version"], len(row_ids)):
            what = f"it is said to have {found['n']} rows and root {str(found['root'])[:16]}"
            wanted = f"{len(row_ids)} rows and its version as root"
            yield Problem(where=f"dataset {found['version'][:16]}", found=what, expected=wanted)
    for found in _all(connection, question):
        yield from _compare("question", found["hash"], sha256_hex(str(found["body"]).encode()), "body")
    for found in _all(connection, split):
        parts = connection.execute(select(part.c.origin_id, part.c.part).where(part.c.split_id == found["split_id"]))
        made = split_id_of(
            dataset_version=found["dataset"], question_hash=found["question"],
            certificate_hash=found["certificate_hash"], parts=dict(map(tuple, parts)),
        )  # fmt: skip
        yield from _compare("split", found["split_id"], made, "dataset, question, certificate and parts")
    for found in _all(connection, look):
        made = look_id_of(split_id=found["split_id"], question_hash=found["question"], arms_hash=found["arms_hash"])
        yield from _compare("look", found["look_id"], made, "split, question and arms")
    for found in _all(connection, model):
        identity = ModelIdentity(**{name: found[name] for name in ModelIdentity.__dataclass_fields__})
        yield from _compare("model", found["model_id"], identity.model_id, "files, data, settings and seed")
    for found in _all(connection, source):
        yield from _compare("source", found["source_id"], value_hash([found["name"], found["sha256"]])[:32], "file")
    for found in _all(connection, transform):
        made = value_hash([found["op"], found["version"], found["params_hash"]])[:32]
        yield from _compare("transform", found["transform_id"], made, "operation, version and settings")


def _all(connection: Connection, table: Table) -> list[dict[str, Any]]:  # Any: SQL values
    """The records of a table; a value that only an edit can have put there is given as its `repr`."""
    records = connection.execute(select(table)).mappings()
    return [
        {name: value if isinstance(value, str | int) else repr(value) for name, value in found.items()}
        for found in records
    ]


def _compare(kind: str, name: str, made: str, of: str) -> Iterator[Problem]:
    """A problem where a name is not the one its content makes."""
    if name != made:
        where = f"{kind} {str(name)[:16]}"
        yield Problem(where=where, found=f"its {of} make the name {made[:16]}", expected="the name it has")
