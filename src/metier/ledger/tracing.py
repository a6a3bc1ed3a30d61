"""Finds everything that concerns one row and puts it in the order of the chain.

>>> [entry.what for entry in row_history(ledger, "5f0c").events][:2]
['file tickets.jsonl read', 'version 91ab77... kept']
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Column, func, or_, select

from metier.core.errors import DataError
from metier.core.hashing import canonical_json, keyed_hash
from metier.ledger.history import (
    DatasetUse,
    Erased,
    HistoryEvent,
    LookUse,
    ModelUse,
    Origin,
    Parent,
    RowHistory,
    RowVersion,
    Saw,
    SplitUse,
    VoteCast,
    state_words,
)
from metier.ledger.keys import project_key
from metier.ledger.ledger import Ledger
from metier.ledger.questions import HOLDOUT
from metier.ledger.schema import (
    alias,
    dataset,
    edge,
    erasure,
    event,
    look,
    member,
    model,
    model_parent,
    part,
    row,
    row_subject,
    source,
    split,
    subject_key,
    trained_on,
    transform,
    vote,
)

__all__ = ["row_history"]

_LISTED = 5
_SHOWN = 16
_GAP = 10_000
"""How far the number of a record may lie beyond the number of records: blank lines and headers count in some files."""

_UNTOLD = {"state": "recorded", "reason": "", "rule_version": "", "survivor": ""}

Record = dict[str, Any]  # Any: SQL values


def row_history(ledger: Ledger, wanted: str) -> RowHistory:
    """The history of the row whose `origin_id` or `row_id` begins so, or that was read as `file:record`.

    Raises:
        DataError: no such row, or several.
    """
    return _Trace(ledger, _find_origin(ledger, wanted)).history()


def _find_origin(ledger: Ledger, wanted: str) -> str:
    """The one origin that is meant."""
    name, _, number = wanted.rpartition(":")
    if name and number.isdigit():
        wanted = keyed_hash(project_key(ledger.project_dir), [name, int(number)])
    query = select(row.c.origin_id, row.c.row_id, row.c.state).where(
        or_(*(func.substr(column, 1, len(wanted)) == wanted for column in (row.c.origin_id, row.c.row_id)))
    )
    found = ledger.records(query.order_by(row.c.origin_id, row.c.row_id)) if wanted else []
    for column in ("origin_id", "row_id"):
        found = [values for values in found if values[column] == wanted] or found
    origins = list(dict.fromkeys(values["origin_id"] for values in found))
    if len(origins) == 1:
        return str(origins[0])
    if not origins:
        asked = f"{name}:{number}" if name else repr(wanted)
        raise DataError(
            f"{ledger.where}: no row {asked}; expected the beginning of a row_id or an origin_id, or file:record as in "
            "tickets.jsonl:17."
        )
    listed = ", ".join(f"{origin[:_SHOWN]}" for origin in origins[:_LISTED])
    more = f" and {len(origins) - _LISTED} more" if len(origins) > _LISTED else ""
    raise DataError(
        f"{ledger.where}: {len(origins)} rows are meant by {wanted!r}: origins {listed}{more}. Give more of the id, or "
        "one of these origins."
    )


class _Trace:
    """What was found so far about one origin; `told` holds (event number, words)."""

    def __init__(self, ledger: Ledger, origin_id: str) -> None:
        self.ledger = ledger
        self.origin_id = origin_id
        self.told: list[tuple[int, str]] = []
        self.erased_seq: int | None = None
        self.rows = self.find(row, row.c.origin_id, [origin_id])
        self.row_ids = [found["row_id"] for found in self.rows]

    def find(self, table: Any, column: Column[Any], values: Iterable[str]) -> list[Record]:  # Any: tables, SQL values
        """The records whose column has one of these values, in the order they were written."""
        wanted = sorted(set(values))
        if not wanted:
            return []
        return self.ledger.records(select(table).where(column.in_(wanted)).order_by(table.c.seq, column))

    def tell(self, found: Record, what: str) -> None:
        """Note what the event that wrote a record did."""
        self.told.append((found["seq"], what))

    def history(self) -> RowHistory:
        """Everything, in an order in which later questions know the answers of earlier ones."""
        origin, versions = self.origin(), self.versions()
        datasets, splits = self.datasets(), self.splits()
        looks, models, votes = self.looks(splits), self.models(datasets, splits), self.votes()
        self.subjects()
        stories = self.ledger.records(select(event).where(event.c.seq.in_({seq for seq, _ in self.told})))
        by_seq = {found["seq"]: found for found in stories}
        entries = [
            HistoryEvent(seq=seq, at=by_seq[seq]["at"], actor=by_seq[seq]["actor"], what=what)
            for seq, what in sorted(dict.fromkeys(self.told)) if seq in by_seq
        ]  # fmt: skip
        return RowHistory(
            origin_id=self.origin_id, origin=origin, versions=versions, datasets=datasets, splits=splits, looks=looks,
            models=models, votes=votes, erased=self.erased(by_seq), events=tuple(entries),
        )  # fmt: skip

    def origin(self) -> Origin | None:
        """The file and record whose keyed hash the origin is."""
        key, sources = project_key(self.ledger.project_dir), self.ledger.records(select(source).order_by(source.c.seq))
        likely = [(found, range(found["num_records"] + 1)) for found in sources]
        for found, numbers in likely + [(found, range(tried.stop, tried.stop + _GAP)) for found, tried in likely]:
            number = _record_number(key, found["name"], numbers, self.origin_id)
            if number is not None:
                self.tell(found, f"file {found['name']} read")
                return Origin(source=found["name"], record=number, licence=found["licence"], sha256=found["sha256"])
        return None

    def versions(self) -> tuple[RowVersion, ...]:
        """Every content, the ones made from others after those."""
        edges = self.find(edge, edge.c.child, self.row_ids)
        ops = {found["transform_id"]: found for found in self.find(
            transform, transform.c.transform_id, [found["transform_id"] for found in edges])}  # fmt: skip
        parents: dict[str, list[Parent]] = {row_id: [] for row_id in self.row_ids}
        for found in edges:
            done = ops.get(found["transform_id"], {"op": "a transform that is not recorded", "version": ""})
            parents[found["child"]].append(Parent(row_id=found["parent"], op=done["op"], version=done["version"]))
            self.tell(found, f"version {found['child'][:_SHOWN]} made from {found['parent'][:_SHOWN]} by {done['op']}")
        for found in self.rows:
            self._tell_states(found)
        names = ("row_id", "state", "reason", "rule_version", "survivor")
        made = [
            RowVersion(**{name: found[name] for name in names}, parents=tuple(parents[found["row_id"]]))
            for found in self.rows
        ]
        return tuple(sorted(made, key=lambda version: len(version.parents) > 0))

    def _tell_states(self, found: Record) -> None:
        """Every state of a version, from the newest back over the events that replaced it."""
        told = {name: found[name] for name in ("state", "reason", "rule_version", "survivor")}
        seq: int | None = found["seq"]
        while seq is not None:
            old_seq, before = self._state_before(seq, [found["row_id"], found["origin_id"]])
            is_moved = old_seq is not None and not before
            words = "written anew, its state unchanged" if is_moved else state_words(**told)
            self.told.append((seq, f"version {found['row_id'][:_SHOWN]} {words}"))
            if told["state"] == "erased":
                self.erased_seq = seq  # the oldest of them, as the way leads back
            seq = old_seq
            told |= before

    def _state_before(self, seq: int, key: list[str]) -> tuple[int | None, dict[str, str]]:
        """The event that wrote the state this event replaced, and what differed; None for a first state."""
        for found in self.ledger.records(select(event.c.body).where(event.c.seq == seq)):
            replaced = json.loads(found["body"]).get("replaced", {}).get("row", [])
            for old_seq, _, *more in replaced:
                # Ledgers of the first version told neither key nor state; of one record alone the event is known.
                if (more[0] == key) if more else len(replaced) == 1:
                    return old_seq, more[1] if more else dict(_UNTOLD)
        return None, {}

    def datasets(self) -> tuple[DatasetUse, ...]:
        """Memberships, with the size of each dataset."""
        uses = self.find(member, member.c.row_id, self.row_ids)
        sizes = {found["version"]: found["n"] for found in self.find(
            dataset, dataset.c.version, [found["dataset"] for found in uses])}  # fmt: skip
        for found in uses:
            self.tell(found, f"member of dataset {found['dataset'][:_SHOWN]}")
        return tuple(
            DatasetUse(version=found["dataset"], row_id=found["row_id"], num_rows=sizes.get(found["dataset"], 0))
            for found in uses
        )

    def splits(self) -> tuple[SplitUse, ...]:
        """Parts, with the dataset and question of each split."""
        uses = self.find(part, part.c.origin_id, [self.origin_id])
        splits = {found["split_id"]: found for found in self.find(
            split, split.c.split_id, [found["split_id"] for found in uses])}  # fmt: skip
        for found in uses:
            self.tell(found, f"put into {found['part']} by split {found['split_id'][:_SHOWN]}")
        return tuple(
            SplitUse(
                split_id=found["split_id"], part=found["part"], dataset=splits[found["split_id"]]["dataset"],
                question=splits[found["split_id"]]["question"],
            )
            for found in uses if found["split_id"] in splits
        )  # fmt: skip

    def looks(self, splits: Sequence[SplitUse]) -> tuple[LookUse, ...]:
        """Looks at the hold-outs it is in; each opening and finishing is an event of its own."""
        looks = self.find(look, look.c.split_id, [use.split_id for use in splits if use.part == HOLDOUT])
        ids = {found["look_id"] for found in looks}
        for kind, verb in (("look_opened", "opened"), ("look_finished", "finished")):
            for entry in self.ledger.events(kind=kind) if ids else ():
                if entry.body.get("look") in ids:
                    again = " again" if "resumed_from" in entry.body else ""
                    self.told.append((entry.seq, f"hold-out {verb}{again} for look {entry.body['look'][:_SHOWN]}"))
        names = ("look_id", "split_id", "k", "alpha", "state")
        return tuple(LookUse(**{name: found[name] for name in names}) for found in looks)

    def models(self, datasets: Sequence[DatasetUse], splits: Sequence[SplitUse]) -> tuple[ModelUse, ...]:
        """Models trained on it, and those that went on from them."""
        parts = {use.version: {s.part for s in splits if s.dataset == use.version} for use in datasets}
        saw: dict[str, tuple[Saw, str]] = {}
        for found in self.find(trained_on, trained_on.c.dataset, parts):
            in_parts = parts[found["dataset"]]
            if in_parts and "train" not in in_parts:
                continue  # the model saw the train part, and the row never was in one
            sure = found["fraction"] == 1 and in_parts <= {"train"}
            saw[found["model_id"]] = (Saw.YES if sure else Saw.PERHAPS, found["dataset"])
            share = "" if found["fraction"] == 1 else f"a share of {found['fraction']:.3g} of "
            words = f"model {found['model_id'][:_SHOWN]} trained on {share}dataset {found['dataset'][:_SHOWN]}"
            self.tell(found, words)
        level: Sequence[str] = list(saw)
        while level:
            below = [f for f in self.find(model_parent, model_parent.c.parent_id, level) if f["model_id"] not in saw]
            for found in below:
                saw[found["model_id"]] = (Saw.THROUGH_PARENT, found["parent_id"])
                self.tell(found, f"model {found['model_id'][:_SHOWN]} went on from {found['parent_id'][:_SHOWN]}")
            level = [found["model_id"] for found in below]
        states = {found["model_id"]: found["state"] for found in self.find(model, model.c.model_id, saw)}
        names = self.find(alias, alias.c.model_id, saw)
        return tuple(
            ModelUse(
                model_id=model_id, saw=how, through=through, state=states.get(model_id, "not registered"),
                names=tuple(sorted(found["name"] for found in names if found["model_id"] == model_id)),
            )
            for model_id, (how, through) in saw.items()
        )  # fmt: skip

    def votes(self) -> tuple[VoteCast, ...]:
        """Votes, their values only where no record with this content is held out."""
        twins = [found["origin_id"] for found in self.find(row, row.c.row_id, self.row_ids)]
        is_held_out = any(found["part"] == HOLDOUT for found in self.find(part, part.c.origin_id, twins))
        votes = self.find(vote, vote.c.row_id, self.row_ids)
        for found in votes:
            self.tell(found, f"{found['annotator']} voted")
        return tuple(
            VoteCast(
                row_id=found["row_id"], annotator=found["annotator"], at=found["at"],
                value=None if is_held_out else found["value"] or None,
            )
            for found in votes
        )  # fmt: skip

    def subjects(self) -> None:
        """Tell of the persons it is about, of their keys, and of their erasures."""
        links = self.find(row_subject, row_subject.c.row_id, self.row_ids)
        hashes = {found["subject_hash"] for found in links}
        for found in links:
            self.tell(found, f"about subject {found['subject_hash'][:_SHOWN]}")
        for found in self.find(subject_key, subject_key.c.subject_hash, hashes):
            if found["destroyed_at"] is not None:
                self.tell(found, f"key of subject {found['subject_hash'][:_SHOWN]} destroyed")
        for found in self.find(erasure, erasure.c.subject_hash, hashes):
            self.tell(found, f"erasure of subject {found['subject_hash'][:_SHOWN]} recorded")

    def erased(self, by_seq: dict[int, Record]) -> Erased | None:
        """The event that set the row to erased, with the certificate of the person it names."""
        if self.erased_seq not in by_seq:
            return None
        found = by_seq[self.erased_seq]
        # A copy of a row goes with it, and need not be about the person on record.
        recorded = self.find(erasure, erasure.c.subject_hash, [json.loads(found["body"]).get("subject", "")])
        certificate = recorded[0]["certificate_hash"] if recorded else ""
        return Erased(seq=found["seq"], at=found["at"], actor=found["actor"], certificate_hash=certificate)


def _record_number(key: bytes, name: str, numbers: range, wanted: str) -> int | None:
    """Which record of a file has this origin: `keyed_hash(key, [name, number])`, tried for every number."""
    before = canonical_json([name, 0])[:-2]
    for number in numbers:
        if hmac.digest(key, b"%b%d]" % (before, number), hashlib.sha256).hex()[:32] == wanted:
            return number
    return None
