"""The register of models: what each is made of, what it saw, and which one a name means today.

    >>> model = register_model(ledger, ModelIdentity(base_sha=..., adapter_sha=..., ...))
    >>> move_alias(ledger, "champion", model.model_id)

A model id is the hash of everything the model is made of and never means another model. An alias may
move, each move being an event.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import select

from metier.core.errors import DataError, StoreError
from metier.core.hashing import value_hash
from metier.ledger.ledger import Ledger, Transaction, utc_now
from metier.ledger.schema import alias, model, model_parent, trained_on

__all__ = [
    "ModelIdentity", "ModelRecord", "ModelState", "aliases", "descendants", "find_model", "move_alias", "record_parent",
    "record_training", "register_model", "registered_models", "set_model_state",
]  # fmt: skip


class ModelState(StrEnum):
    """Where a model stands on its way to users."""

    CANDIDATE = "candidate"
    RELEASED = "released"
    REFUSED = "refused"
    RETIRED = "retired"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelIdentity:
    """Everything a tuned model is made of; its id is the hash of these."""

    base_sha: str
    """SHA-256 of the base weights."""
    adapter_sha: str
    """SHA-256 of the adapter file; empty for a base model alone."""
    template_sha: str
    """SHA-256 of the chat template."""
    tokenizer_sha: str
    """SHA-256 of the tokenizer."""
    dataset: str
    """Dataset version it was trained on."""
    config_hash: str
    """Hash of the settings it was trained with."""
    seed: int = 0
    """Seed it was trained with."""

    @property
    def model_id(self) -> str:
        """SHA-256 of the identity, 64 hex digits."""
        return value_hash(asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRecord:
    """A registered model."""

    model_id: str
    """Hash of `identity`."""
    identity: ModelIdentity
    """What it is made of."""
    state: ModelState
    """Where it stands."""
    registered_at: str
    """When it was first registered, ISO text in UTC."""


def register_model(ledger: Ledger, identity: ModelIdentity) -> ModelRecord:
    """Register a model as a release candidate, or return it as it is registered."""
    with ledger.writing("model_registered") as transaction:
        for stored in transaction.records(select(model).where(model.c.model_id == identity.model_id)):
            return _record(stored)
        values = {
            "model_id": identity.model_id, **asdict(identity), "state": ModelState.CANDIDATE.value,
            "registered_at": utc_now(),
        }  # fmt: skip
        transaction.put(model, [values])
        transaction.note(model=identity.model_id)
    return _record(values)


def record_training(ledger: Ledger, model_id: str, *, dataset_version: str, fraction: float, seed: int) -> None:
    """Record which share of a dataset a model was trained on.

    Raises:
        DataError: the share is not in (0, 1].
        StoreError: no such model, or recorded already with another share or seed.
    """
    if not 0 < fraction <= 1:
        raise DataError(f"record_training: fraction is {fraction}; expected a number in (0, 1].")
    with ledger.writing("training_recorded") as transaction:
        _stored(ledger, transaction, model_id)
        record = {"model_id": model_id, "dataset": dataset_version, "fraction": float(fraction), "seed": seed}
        transaction.put(trained_on, [record])


def record_parent(ledger: Ledger, model_id: str, parent_id: str) -> None:
    """Record that a model's training went on from the weights of another: it saw what that one saw.

    Raises:
        DataError: the parent is the model itself or comes from it.
        StoreError: one of the two is not registered.
    """
    with ledger.writing("parent_recorded") as transaction:
        for name in (model_id, parent_id):
            _stored(ledger, transaction, name)
        below = {child for child, _ in _below(model_id, transaction.records(select(model_parent)))}
        if parent_id in {model_id, *below}:
            raise DataError(
                f"record_parent: model {model_id[:16]} cannot go on from {parent_id[:16]}, which "
                f"{'is itself' if parent_id == model_id else 'went on from it'}; expected an older model."
            )
        if transaction.put(model_parent, [{"model_id": model_id, "parent_id": parent_id}]):
            transaction.note(model=model_id, parent=parent_id)


def descendants(ledger: Ledger, model_id: str) -> list[tuple[str, str]]:
    """(child, parent) of every model that went on from a model or from one that did; nearest first.

    Raises:
        StoreError: no such model.
    """
    found = find_model(ledger, model_id)
    return _below(found.model_id, ledger.records(select(model_parent)))


def _below(model_id: str, parents: list[dict[str, Any]]) -> list[tuple[str, str]]:  # Any: SQL values
    """(child, parent) pairs reached from a model, level by level, each level sorted."""
    found: dict[tuple[str, str], None] = {}
    level = {model_id}
    while level:
        pairs = {(values["model_id"], values["parent_id"]) for values in parents if values["parent_id"] in level}
        new = sorted(pairs - found.keys())
        found |= dict.fromkeys(new)
        level = {child for child, _ in new}
    return list(found)


def set_model_state(ledger: Ledger, model_id: str, state: ModelState) -> ModelRecord:
    """Move a model to another state.

    Raises:
        StoreError: no such model.
    """
    with ledger.writing("model_state_set") as transaction:
        stored = _stored(ledger, transaction, model_id)
        values = {**stored, "state": state.value}
        if transaction.put(model, [values]):
            transaction.note(model=model_id, before=stored["state"], after=state.value)
    return _record(values)


def find_model(ledger: Ledger, name: str) -> ModelRecord:
    """The model of an id or an alias.

    Raises:
        StoreError: neither an id nor an alias.
    """
    targets = [values["model_id"] for values in ledger.records(select(alias).where(alias.c.name == name))]
    for values in ledger.records(select(model).where(model.c.model_id.in_([*targets, name]))):
        return _record(values)
    raise _unknown(ledger, name)


def registered_models(ledger: Ledger) -> list[ModelRecord]:
    """All registered models, oldest first."""
    query = select(model).order_by(model.c.registered_at, model.c.model_id)
    return [_record(values) for values in ledger.records(query)]


def move_alias(ledger: Ledger, name: str, model_id: str) -> str:
    """Let a name mean a model from now on; returns the id it meant before, empty for a new name.

    Raises:
        DataError: the name is empty or looks like a model id.
        StoreError: no such model.
    """
    if not name or (len(name) == 64 and set(name) <= set("0123456789abcdef")):
        raise DataError(f"move_alias: {name!r} is no name for a model; give it a word, for example 'champion'.")
    with ledger.writing("alias_moved") as transaction:
        _stored(ledger, transaction, model_id)
        before = "".join(
            values["model_id"] for values in transaction.records(select(alias).where(alias.c.name == name))
        )
        if transaction.put(alias, [{"name": name, "model_id": model_id}]):
            transaction.note(name=name, before=before, after=model_id)
    return before


def aliases(ledger: Ledger) -> dict[str, str]:
    """The model id of every alias."""
    return {values["name"]: values["model_id"] for values in ledger.records(select(alias).order_by(alias.c.name))}


def _stored(ledger: Ledger, transaction: Transaction, model_id: str) -> dict[str, Any]:  # Any: SQL values
    for values in transaction.records(select(model).where(model.c.model_id == model_id)):
        return values
    raise _unknown(ledger, model_id)


def _unknown(ledger: Ledger, name: str) -> StoreError:
    return StoreError(f"{ledger.where}: no model {name!r}; register it with register_model.")


def _record(values: dict[str, Any]) -> ModelRecord:  # Any: SQL values
    facts = {name: values[name] for name in ModelIdentity.__dataclass_fields__}
    return ModelRecord(
        model_id=values["model_id"], identity=ModelIdentity(**facts), state=ModelState(values["state"]),
        registered_at=values["registered_at"],
    )  # fmt: skip
