"""Private data of a row: where it is, whether it is the organisation's own, and the row without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from metier.core.rows import Message, Role, Row, make_row
from metier.curate.private import KINDS, find_private
from metier.curate.surrogates import canonical, replace_private

__all__ = ["Contacts", "Found", "Value", "private_values", "without_private"]

MIN_PUBLIC_ROWS, MIN_PUBLIC_SHARE = 5, 0.01
"""A contact given in replies to so many rows and groups is the organisation's own, not a person's."""
Value = tuple[str, str]
"""Kind and canonical form."""


class Found(NamedTuple):
    """Private data of one row."""

    who: str
    """Whom the row is about, as far as groups and subjects tell."""
    ours: frozenset[Value]
    """Said by the organisation."""
    theirs: frozenset[Value]
    """Said by anybody else."""


def _texts(row: Row) -> list[tuple[bool, str]]:
    """Every text of a row, with whether the organisation (not the person) wrote it."""
    target = row.target
    spoken = [(message.role in (Role.SYSTEM, Role.ASSISTANT), message.content) for message in row.messages]
    called = [text for message in row.messages for call in message.tool_calls for text in _strings(call.arguments)]
    return [*spoken, *((True, text) for text in (target.chosen, target.rejected, target.answer, *called) if text)]


def _strings(value: Any) -> Iterator[str]:  # Any: a JSON value
    """Every text in a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:  # Any: a JSON value
    """A JSON value with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    return [_mapped(item, change) for item in value] if isinstance(value, list | tuple) else value


def private_values(row: Row) -> Found | None:
    """The private data of a row; None where there is none."""
    sides: tuple[set[Value], set[Value]] = (set(), set())
    for ours, text in _texts(row):
        for hit in find_private(text, row.meta.subjects):
            sides[ours].add((hit.kind, canonical(hit)))
    if not any(sides):
        return None
    who = str(sorted(row.meta.groups.items()) or row.meta.subjects or "")
    return Found(who, frozenset(sides[True]), frozenset(sides[False]))


def without_private(row: Row, public: frozenset[Value], key: bytes) -> Row:
    """The row's next version, its private data replaced by surrogates; the row itself where all of it is public."""

    def clean(text: str) -> str:
        hits = [hit for hit in find_private(text, row.meta.subjects) if (hit.kind, canonical(hit)) not in public]
        return replace_private(text, hits, key) if hits else text

    def message(old: Message) -> Message:
        calls = tuple(call.model_copy(update={"arguments": _mapped(call.arguments, clean)}) for call in old.tool_calls)
        return old.model_copy(update={"content": clean(old.content), "tool_calls": calls})

    answers = ((name, getattr(row.target, name)) for name in ("chosen", "rejected", "answer"))  # getattr: by name
    target = row.target.model_copy(update={name: text and clean(text) for name, text in answers})
    messages = tuple(map(message, row.messages))
    if messages == row.messages and target == row.target:
        return row
    return make_row(key, messages=messages, meta=row.meta, target=target, tools=row.tools, parent=row)


@dataclass
class Contacts:
    """Private data of all rows that hold some, by place."""

    found: dict[int, Found] = field(default_factory=dict)

    def public(self, places: Collection[int]) -> frozenset[Value]:
        """Contacts the organisation gives in its own words to many of these rows, of different groups: its hotline."""
        givers: dict[Value, set[str]] = {}
        said_by_people: set[Value] = set()
        for place, found in self.found.items():
            if place not in places:
                continue
            for value in found.ours:
                if value[0] in ("email", "phone", "address"):
                    givers.setdefault(value, set()).add(found.who or str(place))
            if not found.who:  # perhaps one person who wrote many times: nothing tells
                said_by_people |= found.theirs
        needed = max(MIN_PUBLIC_ROWS, MIN_PUBLIC_SHARE * len(places))
        return frozenset(v for v, who in givers.items() if len(who) >= needed and v not in said_by_people)

    def counts(self, public: frozenset[Value], places: Collection[int]) -> tuple[dict[str, int], set[int]]:
        """Distinct private values of these rows by kind, and the places of the rows that hold some."""
        counts: Counter[str] = Counter()
        holding: set[int] = set()
        for place, found in self.found.items():
            if place not in places:
                continue
            private = (found.ours | found.theirs) - public
            counts.update(kind for kind, _ in private)
            if private:
                holding.add(place)
        return {kind: counts[kind] for kind in KINDS if counts[kind]}, holding
