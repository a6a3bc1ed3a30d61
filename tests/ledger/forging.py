"""What somebody does who may write the database and knows this code: make the chain fit to what was changed."""

from __future__ import annotations

import json
from typing import Any

from metier.core.hashing import canonical_json, merkle_root
from metier.ledger.chain import FIRST_PREV_HASH, event_hash
from metier.ledger.leaves import form_of
from metier.ledger.schema import TABLES

from .servers import Place


def rechain(place: Place) -> None:
    """Compute every event's hash anew, over the bodies as they stand."""
    prev_hash, statements = FIRST_PREV_HASH, []
    for seq, at, actor, kind, body in place.run_sql("SELECT seq, at, actor, kind, body FROM event ORDER BY seq"):
        hashed = event_hash(prev_hash, seq=seq, at=at, actor=actor, kind=kind, body=json.loads(body))
        statements.append(f"UPDATE event SET prev_hash = '{prev_hash}', hash = '{hashed}' WHERE seq = {seq}")
        prev_hash = hashed
    place.tamper(*statements)


def reroot(place: Place) -> None:
    """Let every event claim the records as they stand now."""
    claims: dict[int, dict[str, list[str]]] = {}
    for name, table in TABLES.items():
        form = form_of(table)
        columns = ", ".join(f'"{column}"' for column in (*form.names, "seq"))
        for record in place.run_sql(f'SELECT {columns} FROM "{name}"'):
            claims.setdefault(record[-1], {}).setdefault(name, []).append(form.leaf(tuple(record[:-1])))
    statements = []
    for seq, text in place.run_sql("SELECT seq, body FROM event ORDER BY seq"):
        body: dict[str, Any] = json.loads(text)
        body.pop("replaced", None)
        body.pop("wrote", None)
        if seq in claims:
            body["wrote"] = {name: {"n": len(of), "root": merkle_root(of)} for name, of in claims[seq].items()}
        told = canonical_json(body).decode().replace("'", "''")
        statements.append(f"UPDATE event SET body = '{told}' WHERE seq = {seq}")
    place.tamper(*statements)
