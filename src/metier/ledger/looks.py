"""Looks at the sealed hold-out: counted and paid for before anything is shown.

    >>> opened = open_look(
    ...     ledger,
    ...     store,
    ...     split_id=split,
    ...     question_hash=question,
    ...     arms_hash=arms,
    ...     alpha=0.05 / 3,
    ...     alpha_budget=0.05,
    ...     max_looks=3,
    ... )
    >>> scores = score(opened.pack)
    >>> finish_look(ledger, opened.look.look_id, result_hash=file_sha256(scores_path))

The alpha of a look is decided by the caller (`metier.assess`). Whatever rule it follows, this module
refuses a look once the alphas of all looks at the question would add up to more than its budget: by the
union bound the chance of a wrong verdict over all of them stays within it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import select

from metier.core.errors import DataError, GateClosed, StoreError
from metier.core.hashing import value_hash
from metier.ledger.keys import seal_key
from metier.ledger.ledger import Ledger, Transaction, utc_now
from metier.ledger.objects import ObjectStore
from metier.ledger.questions import HOLDOUT
from metier.ledger.schema import look, part, row, seal, split

__all__ = [
    "Look", "LookState", "OpenedLook", "find_look", "finish_look", "look_id_of", "looks_of", "looks_on", "open_look",
]  # fmt: skip

_ROUNDING = 1 + 1e-9


class LookState(StrEnum):
    """How far a look is."""

    OPENED = "opened"
    COMPLETE = "complete"


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One opening of a hold-out for one question with one set of arms."""

    look_id: str
    """Hash of split, question and arms."""
    split_id: str
    """Whose hold-out."""
    question: str
    """Question hash."""
    arms_hash: str
    """Hash of the fingerprints of all arms."""
    k: int
    """The how-manieth look at this question, from 1."""
    alpha: float
    """One-sided error rate this look may use."""
    state: LookState
    """How far it is."""
    opened_at: str
    """When it was first opened, ISO text in UTC."""
    finished_at: str | None = None
    """When it became complete."""
    result_hash: str | None = None
    """Hash of what it found; None until complete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedLook:
    """A recorded look and the rows it opened."""

    look: Look
    """The look; its `alpha` counts, also when it is resumed."""
    pack: bytes = field(repr=False)
    """The hold-out rows, as they were sealed."""
    resumed: bool = False
    """Whether the look had been opened before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    """What a caller asks to look at."""

    split_id: str
    question_hash: str
    arms_hash: str
    alpha: float
    alpha_budget: float
    max_looks: int | None


def look_id_of(*, split_id: str, question_hash: str, arms_hash: str) -> str:
    """The id a look at this split, for this question, with these arms has or will have."""
    return value_hash([split_id, question_hash, arms_hash])[:32]


def open_look(
    ledger: Ledger,
    store: ObjectStore,
    *,
    split_id: str,
    question_hash: str,
    arms_hash: str,
    alpha: float,
    alpha_budget: float,
    max_looks: int | None = None,
) -> OpenedLook:
    """Record a look, then return the hold-out rows: the only function that gives them out.

    The same split, question and arms are the same look: a killed one resumes at its first alpha and is
    not counted again. `max_looks` limits how many states of the hold-out (splits) one question may see.

    Raises:
        DataError: alpha is not above 0.
        StoreError: the split is not recorded for this question or not sealed, or its object changed.
        GateClosed: the looks of this question are used up.
    """
    if not 0 < alpha < 1:
        raise DataError(f"open_look: alpha is {alpha}; expected a number between 0 and 1.")
    wish = _Wish(split_id=split_id, question_hash=question_hash, arms_hash=arms_hash, alpha=alpha,
                 alpha_budget=alpha_budget, max_looks=max_looks)  # fmt: skip
    # The object is checked before the look is paid for, and the look is recorded before it is decrypted.
    store.get(_sealed_object(ledger, wish))
    look_id = look_id_of(split_id=split_id, question_hash=question_hash, arms_hash=arms_hash)
    with ledger.writing("look_opened") as transaction:
        stored = transaction.records(select(look).where(look.c.look_id == look_id))
        if stored:
            found = _look(stored[0])
            transaction.note(look=look_id, resumed_from=found.state.value)
        else:
            found = _new_look(transaction, look_id, wish)
            transaction.put(look, [_values(found)])
            transaction.note(look=look_id, k=found.k, alpha=alpha)
    # Asked again: an erasure may have written the object anew since.
    pack = store.get_encrypted(_sealed_object(ledger, wish), seal_key(ledger.project_dir))
    return OpenedLook(look=found, pack=pack, resumed=bool(stored))


def finish_look(
    ledger: Ledger, look_id: str, *, result_hash: str, found_beside: Mapping[str, Any] | None = None
) -> Look:
    """Mark a look complete with the hash of what it found; the same result twice changes nothing.

    `found_beside` is noted in the event: what the look found besides the scores, as JSON values.

    Raises:
        StoreError: no such look, or it is complete with another result.
    """
    with ledger.writing("look_finished") as transaction:
        stored = transaction.records(select(look).where(look.c.look_id == look_id))
        if not stored:
            raise StoreError(f"{ledger.where}: no look {look_id!r}; open it with open_look.")
        found = _look(stored[0])
        if found.state is LookState.COMPLETE:
            if found.result_hash != result_hash:
                raise StoreError(
                    f"{ledger.where}: look {look_id} is complete with result {str(found.result_hash)[:12]}; found "
                    f"{result_hash[:12]}. A look has one result: restore its files, or freeze a new question."
                )
            return found
        values = {
            **_values(found),
            "state": LookState.COMPLETE.value,
            "finished_at": utc_now(),
            "result_hash": result_hash,
        }
        transaction.put(look, [values])
        transaction.note(look=look_id, result=result_hash, found=dict(found_beside or {}))
    return _look(values)


def looks_of(ledger: Ledger, question_hash: str) -> list[Look]:
    """All looks at a question, in their order."""
    return [
        _look(values)
        for values in ledger.records(select(look).where(look.c.question == question_hash).order_by(look.c.k))
    ]


def find_look(ledger: Ledger, look_id: str) -> Look | None:
    """A look by its id, or None when it was never opened."""
    return next((_look(values) for values in ledger.records(select(look).where(look.c.look_id == look_id))), None)


def looks_on(ledger: Ledger, split_id: str) -> list[Look]:
    """All looks, for whatever question, at a hold-out that shares rows with that of a split, in their order.

    A changed question has an alpha of its own, but not rows of its own: this is where it shows. A row is the same
    by its record or by its content, so that a renamed file is no fresh hold-out.
    """
    records = select(part.c.origin_id).where(part.c.split_id == split_id, part.c.part == HOLDOUT)
    contents = select(row.c.row_id).where(row.c.origin_id.in_(records))
    copies = select(row.c.origin_id).where(row.c.row_id.in_(contents))
    shared = part.c.origin_id.in_(records) | part.c.origin_id.in_(copies)
    splits = select(part.c.split_id).where(part.c.part == HOLDOUT, shared)
    query = select(look).where(look.c.split_id.in_(splits)).order_by(look.c.opened_at, look.c.k)
    return [_look(values) for values in ledger.records(query)]


def _sealed_object(ledger: Ledger, wish: _Wish) -> str:
    """Reference of the sealed rows of a split that was made for this question."""
    splits = ledger.records(select(split).where(split.c.split_id == wish.split_id))
    if not splits or splits[0]["question"] != wish.question_hash:
        found = f"was made for question {splits[0]['question'][:12]}" if splits else "is not recorded"
        raise StoreError(
            f"{ledger.where}: split {wish.split_id!r} {found}; expected a split for question "
            f"{wish.question_hash[:12]}. A changed question needs its own split."
        )
    seals = ledger.records(select(seal).where(seal.c.split_id == wish.split_id))
    if not seals:
        raise StoreError(f"{ledger.where}: the hold-out of split {wish.split_id!r} is not sealed; use seal_holdout.")
    return str(seals[0]["object_ref"])


def _new_look(transaction: Transaction, look_id: str, wish: _Wish) -> Look:
    """The next look at a question, or a refusal with the counts."""
    earlier = transaction.records(select(look).where(look.c.question == wish.question_hash))
    spent = sum(values["alpha"] for values in earlier)
    used = f"{len(earlier)} looks have used {spent:.4g} of alpha {wish.alpha_budget:.4g}"
    so_far = f"question {wish.question_hash[:12]}: {used}"
    advice = "Its verdict stands; to learn more, collect new hold-out rows and freeze a new question."
    if spent + wish.alpha > wish.alpha_budget * _ROUNDING:
        raise GateClosed(f"{so_far}; one more at {wish.alpha:.4g} is not covered. {advice}")
    splits = {values["split_id"] for values in earlier}
    if wish.max_looks is not None and wish.split_id not in splits and len(splits) >= wish.max_looks:
        raise GateClosed(f"{so_far}, at {len(splits)} of {wish.max_looks} states of the hold-out. {advice}")
    return Look(
        look_id=look_id, split_id=wish.split_id, question=wish.question_hash, arms_hash=wish.arms_hash,
        k=len(earlier) + 1, alpha=wish.alpha, state=LookState.OPENED, opened_at=utc_now(),
    )  # fmt: skip


def _look(values: dict[str, Any]) -> Look:  # Any: SQL values
    facts = {name: value for name, value in values.items() if name not in ("seq", "state")}
    return Look(**facts, state=LookState(values["state"]))


def _values(found: Look) -> dict[str, Any]:  # Any: SQL values
    return {**asdict(found), "state": found.state.value}
