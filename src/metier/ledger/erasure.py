"""What an erasure does to the ledger and its objects: rows become tombstones, packs lose bytes, models are named.

    >>> begin_erasure(ledger, subject_hash, origins, num_records={"rows.jsonl": 2})
    >>> erase_rows(ledger, store, origins, subject=subject_hash)
    2

A row's record stays (ids, hashes, parts), its text goes. So every Merkle root of a dataset and every split can still be
checked: the leaf is there, the payload is not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Select, select

from metier.core.errors import StoreError
from metier.core.hashing import sha256_hex
from metier.ledger.keys import seal_key
from metier.ledger.ledger import Ledger, utc_now
from metier.ledger.models import ModelState, descendants, set_model_state
from metier.ledger.objects import ObjectStore, decrypt, encrypt
from metier.ledger.packs import is_pack, pack_ids, pack_subjects, without_rows
from metier.ledger.persons import record_destroyed
from metier.ledger.schema import (
    alias,
    edge,
    erasure,
    member,
    model,
    part,
    row,
    seal,
    split,
    trained_on,
    vote,
)
from metier.ledger.subjects import FILE_NAME

__all__ = [
    "ModelPlan", "begin_erasure", "begun_erasures", "copies_of", "count_parts", "count_votes", "erase_rows",
    "erasures", "finish_erasure", "origins_about", "plan_models", "referenced_objects",
    "require_whole_objects", "retire_models", "row_ids_of", "subjects_in_packs",
]  # fmt: skip

BEGUN = "erasure_begun"
ERASED_VALUE = ""
"""What stands in place of an erased vote."""
_CHUNK = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPlan:
    """What to do about one model that saw an erased row."""

    model_id: str
    state: str
    action: str
    """retrain (in use: make it anew without the rows, then retire it) or retire."""
    why: str
    after: Sequence[str]
    """Models of the list it continues from: they come first."""

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {**asdict(self), "after": list(self.after)}


def _chunks(values: Iterable[str]) -> Iterator[list[str]]:
    wanted = sorted(set(values))
    for start in range(0, len(wanted), _CHUNK):
        yield wanted[start : start + _CHUNK]


def _values(ledger: Ledger, query: Select[Any]) -> list[Any]:  # Any: SQL values
    return [next(iter(record.values())) for record in ledger.records(query)]


def subjects_in_packs(store: ObjectStore) -> dict[str, set[str]]:
    """Hashes of the persons each stored row is about, by `origin_id`, over all packs; no key is needed.

    What no record names and cannot be read is passed over: it is rubbish of a killed run.
    """
    found: dict[str, set[str]] = {}
    for ref in store.refs():
        with suppress(StoreError):
            data = store.get(ref)
            if is_pack(data):
                for origin, subjects in pack_subjects(data, where=store.path_of(ref)).items():
                    found.setdefault(origin, set()).update(subjects)
    return found


def origins_about(ledger: Ledger, hashed: str, subjects: Mapping[str, Collection[str]]) -> list[str]:
    """Every stored row about a person, and what a begun erasure named already; `subjects` from `subjects_in_packs`.

    The text of a row does not tell: two persons may have written the same.
    """
    found = {origin for origin, hashes in subjects.items() if hashed in hashes}
    begun = begun_erasures(ledger).get(hashed)
    return sorted(found | set(begun["origins"] if begun else ()))


def copies_of(ledger: Ledger, origins: Collection[str]) -> list[str]:
    """Rows on record as copies of these: the same content, set aside for one of them, or what one was set aside for."""
    found: set[str] = set()
    for chunk in _chunks(origins):
        mine = ledger.records(select(row.c.row_id, row.c.survivor).where(row.c.origin_id.in_(chunk)))
        found |= {record["survivor"] for record in mine if record["survivor"]}
        found |= set(_values(ledger, select(row.c.origin_id).where(row.c.survivor.in_(chunk))))
        for part_of in _chunks(record["row_id"] for record in mine):
            found |= set(_values(ledger, select(row.c.origin_id).where(row.c.row_id.in_(part_of))))
    return sorted(found - set(origins))


def require_whole_objects(ledger: Ledger, store: ObjectStore) -> None:
    """Read every pack and seal the ledger names, before anything is begun that needs them.

    Raises:
        StoreError: one is missing, damaged, or of an earlier version.
    """
    for ref in set(_values(ledger, select(row.c.object_ref).where(row.c.object_ref != "").distinct())):
        pack_ids(store.get(ref), where=store.path_of(ref))
    for ref in _values(ledger, select(seal.c.object_ref)):
        where = store.path_of(ref)
        pack_ids(decrypt(store.get(ref), seal_key(ledger.project_dir), where=where), where=where)


def row_ids_of(ledger: Ledger, origins: Collection[str]) -> list[str]:
    """Every recorded version of these rows, and the versions before a transform."""
    found: set[str] = set()
    for chunk in _chunks(origins):
        found |= set(_values(ledger, select(row.c.row_id).where(row.c.origin_id.in_(chunk))))
    for chunk in _chunks(found):
        found |= set(_values(ledger, select(edge.c.parent).where(edge.c.child.in_(chunk))))
    return sorted(found)


def count_parts(ledger: Ledger, origins: Collection[str]) -> dict[str, int]:
    """How many of these rows stand in which part of a recorded split."""
    found: dict[str, set[str]] = defaultdict(set)
    for chunk in _chunks(origins):
        for record in ledger.records(select(part.c.origin_id, part.c.part).where(part.c.origin_id.in_(chunk))):
            found[record["part"]].add(record["origin_id"])
    return {name: len(found[name]) for name in sorted(found)}


def count_votes(ledger: Ledger, origins: Collection[str]) -> int:
    """Votes on these rows that still hold a value."""
    counts = Counter[str]()
    for chunk in _chunks(row_ids_of(ledger, origins)):
        query = select(vote.c.row_id).where(vote.c.row_id.in_(chunk), vote.c.value != ERASED_VALUE)
        counts.update(_values(ledger, query))
    return counts.total()


def plan_models(ledger: Ledger, origins: Collection[str]) -> list[ModelPlan]:
    """Every model trained on one of these rows, and every model continued from one, parents first."""
    datasets: set[str] = set()
    for chunk in _chunks(row_ids_of(ledger, origins)):
        datasets |= set(_values(ledger, select(member.c.dataset).where(member.c.row_id.in_(chunk)).distinct()))
    trained: set[str] = set()
    for chunk in _chunks(_trained_from(ledger, datasets, origins)):
        trained |= set(_values(ledger, select(trained_on.c.model_id).where(trained_on.c.dataset.in_(chunk))))
    parents: dict[str, set[str]] = {model_id: set() for model_id in trained}
    for model_id in trained:
        for child, parent in descendants(ledger, model_id):
            parents.setdefault(child, set()).add(parent)
    states = {r["model_id"]: r["state"] for r in ledger.records(select(model.c.model_id, model.c.state))}
    named = defaultdict(list)
    for record in ledger.records(select(alias.c.name, alias.c.model_id).order_by(alias.c.name)):
        named[record["model_id"]].append(record["name"])
    plans = []
    for model_id in _parents_first(parents):
        in_use = named[model_id] or states[model_id] == ModelState.RELEASED.value
        seen = "trained on a row that is gone" if model_id in trained else "continued from a model that saw such a row"
        used = f", in use as {', '.join(named[model_id])}" if named[model_id] else ""
        plans.append(
            ModelPlan(
                model_id=model_id,
                state=states[model_id],
                action="retrain" if in_use else "retire",
                why=seen + used,
                after=sorted(parents[model_id] & set(parents)),
            )
        )
    return plans


def _trained_from(ledger: Ledger, datasets: Collection[str], origins: Collection[str]) -> set[str]:
    """Datasets in whose train part one of these rows stands, in any of their splits; those never split count whole."""
    gone, found = set(origins), set()
    for version in datasets:
        splits = _values(ledger, select(split.c.split_id).where(split.c.dataset == version))
        trained = select(part.c.origin_id).where(part.c.split_id.in_(splits), part.c.part == "train")
        if not splits or gone.intersection(_values(ledger, trained)):
            found.add(version)
    return found


def _parents_first(parents: dict[str, set[str]]) -> list[str]:
    """Models in an order in which each comes after those it continues from."""
    done: list[str] = []
    waiting = sorted(parents)
    while waiting:
        ready = [model_id for model_id in waiting if not (parents[model_id] & set(waiting))]
        assert ready, "a model cannot continue from itself: record_parent refuses it"
        done += ready
        waiting = [model_id for model_id in waiting if model_id not in ready]
    return done


def begun_erasures(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """What the begun erasures of each person named, by subject hash: origins, and records by file."""
    found: dict[str, dict[str, Any]] = {}
    for event in ledger.events(kind=BEGUN):
        known = found.setdefault(event.body["subject"], {"origins": set(), "num_records": {}})
        known["origins"] |= set(event.body["origins"])
        known["num_records"] |= event.body["num_records"]
    return found


def begin_erasure(ledger: Ledger, hashed: str, origins: Sequence[str], *, num_records: Mapping[str, int]) -> None:
    """Record which rows will go, before the first of them does: a killed erasure finds them again."""
    known = begun_erasures(ledger).get(hashed)
    if known and set(origins) <= known["origins"] and dict(num_records) == known["num_records"]:
        return
    ledger.append(BEGUN, {"subject": hashed, "origins": sorted(origins), "num_records": dict(num_records)})


def erase_rows(ledger: Ledger, store: ObjectStore, origins: Collection[str], *, subject: str) -> int:
    """Rewrite every pack and seal that holds one of these rows, and record the tombstones; number of objects rewritten.

    Raises:
        StoreError: an object is missing or damaged, or the disk is full.
    """
    gone = set(origins)
    moved = {ref: new for ref in list(store.refs()) if (new := _rewritten(store, ref, gone)) != ref}
    key = seal_key(ledger.project_dir)
    sealed = {}
    for record in ledger.records(select(seal.c.split_id, seal.c.object_ref)):
        where = store.path_of(record["object_ref"])
        data = decrypt(store.get(record["object_ref"]), key, where=where)
        if any(origin in gone and not erased for origin, _, erased in pack_ids(data, where=where)):
            sealed[record["split_id"]] = store.put(encrypt(without_rows(data, gone, where=where), key))
    with ledger.writing("rows_erased") as transaction:
        for chunk in _chunks(gone):
            records = transaction.records(select(row).where(row.c.origin_id.in_(chunk)))
            transaction.put(row, [_tombstone(record, moved) for record in records])
            ids = [record["row_id"] for record in records]
            votes = transaction.records(select(vote).where(vote.c.row_id.in_(ids)))
            transaction.put(vote, [{**_plain(record), "value": ERASED_VALUE} for record in votes])
        for chunk in _chunks(moved):
            records = transaction.records(select(row).where(row.c.object_ref.in_(chunk)))
            left = [record for record in records if record["origin_id"] not in gone]
            transaction.put(row, [{**_plain(r), "object_ref": moved[r["object_ref"]]} for r in left])
        for split_id, ref in sealed.items():
            stored = transaction.records(select(seal).where(seal.c.split_id == split_id))
            transaction.put(seal, [{**_plain(stored[0]), "object_ref": ref}])
        transaction.note(subject=subject, num_rows=len(gone), objects=len(moved) + len(sealed))
    record_destroyed(ledger, subject, key_ref=FILE_NAME)
    return len(moved) + len(sealed)


def _rewritten(store: ObjectStore, ref: str, gone: Collection[str]) -> str:
    """The reference of a pack without the rows; the same where it holds none of them, or is no pack."""
    try:
        data, where = store.get(ref), store.path_of(ref)
    except StoreError:  # nothing names it, else it was read before the erasure was begun: it is removed afterwards
        return ref
    if not is_pack(data) or not any(o in gone and not erased for o, _, erased in pack_ids(data, where=where)):
        return ref
    return store.put(without_rows(data, gone, where=where))


def _plain(record: dict[str, Any]) -> dict[str, Any]:  # Any: SQL values
    return {name: value for name, value in record.items() if name != "seq"}


def _tombstone(record: dict[str, Any], moved: dict[str, str]) -> dict[str, Any]:  # Any: SQL values
    """The record of a row whose text is gone."""
    ref = moved.get(record["object_ref"], record["object_ref"])
    return {**_plain(record), "object_ref": ref, "state": "erased", "reason": "subject_erased", "meta_hash": ""}


def referenced_objects(ledger: Ledger) -> set[str]:
    """Every object a record of the ledger points at."""
    refs = set(_values(ledger, select(row.c.object_ref).distinct()))
    refs |= set(_values(ledger, select(seal.c.object_ref)))
    return refs | set(_values(ledger, select(erasure.c.object_ref)))


def erasures(ledger: Ledger) -> dict[str, str]:
    """The certificate's hash of every finished erasure, by its id."""
    query = select(erasure.c.erasure_id, erasure.c.certificate_hash).order_by(erasure.c.at)
    return {record["erasure_id"]: record["certificate_hash"] for record in ledger.records(query)}


def retire_models(ledger: Ledger, model_ids: Iterable[str]) -> None:
    """Let models stand as retired: nobody may serve them any more."""
    for model_id in model_ids:
        set_model_state(ledger, model_id, ModelState.RETIRED)


def finish_erasure(ledger: Ledger, store: ObjectStore, erasure_id: str, *, subject: str, certificate: bytes) -> None:
    """Keep and record the certificate of an erasure that is done."""
    ref = store.put(certificate)
    record = {
        "erasure_id": erasure_id, "subject_hash": subject, "certificate_hash": sha256_hex(certificate),
        "object_ref": ref, "at": utc_now(),
    }  # fmt: skip
    with ledger.writing("subject_erased") as transaction:
        if transaction.records(select(erasure.c.at).where(erasure.c.erasure_id == erasure_id)):
            return
        transaction.put(erasure, [record])
        transaction.note(erasure=erasure_id, subject=subject)
