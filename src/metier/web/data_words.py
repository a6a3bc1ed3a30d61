"""The data's codes and counts as words: kinds of private data and damage, ages, groups, slices too small to judge.

>>> quantity(1, "row")
'1 row'
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from metier.core.data_facts import (
    MIN_NAMED_ROWS,
    Age,
    Attribute,
    DataFacts,
    Grouping,
    PrivateFacts,
    Readiness,
    Slice,
)
from metier.core.readiness import MIN_SLICE_ROWS
from metier.web.numbers import number, percent
from metier.web.sentences import DROP_REASONS

__all__ = [
    "PART_NAMES", "age_lines", "attribute_line", "claim_words", "grouping_line", "headline", "kind_counts",
    "kind_words", "lead", "private_line", "quantity", "reason_words", "repair_words", "share_words",
    "short", "slice_note",
]  # fmt: skip

MAX_NAME_CHARS = 120
MAX_LISTED = 8
PART_NAMES: Mapping[str, str] = MappingProxyType(
    {"train": "train", "dev": "dev", "holdout": "hold-out", "set_aside": "set aside by the split"}
)
_CLAIMS: Mapping[str, str] = MappingProxyType(
    {"later": "later rows", "new_groups": "rows of new groups", "later_and_new_groups": "later rows of new groups"}
)
_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "email": "e-mail addresses",
        "phone": "telephone numbers",
        "card": "card numbers",
        "iban": "IBANs",
        "ip": "IP addresses",
        "url": "links with a token",
        "name": "names",
        "address": "postal addresses",
        "record": "record numbers",
        "national_id": "national ids",
        "secret": "API keys and passwords",
    }
)
_REPAIRS: Mapping[str, str] = MappingProxyType(
    {
        "mojibake": "letters garbled by a wrong encoding",
        "invisible": "invisible characters",
        "control": "control characters",
        "nfc": "letters put together from parts",
    }
)
_ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "replace": "each was replaced by a stand-in of the same form, the same one wherever it stood",
        "quarantine": "the rows that hold some were set aside",
        "keep": "all were left as they are, as the project says",
    }
)


def headline(facts: DataFacts) -> tuple[str, str]:
    """Whether the data is ready, and a sign for it."""
    ready = facts.readiness
    if not ready.ready:
        return "The data is not ready", "\u2716"
    if ready.warnings:
        num = len(ready.warnings)
        return f"The data is ready, with {quantity(num, 'thing')} to know", "\u2714"
    return "The data is ready", "\u2714"


def lead(readiness: Readiness) -> str:
    """The sentence under the headline; empty where it only repeats the one problem, which stands below it."""
    problems = readiness.problems
    repeats = len(problems) == 1 and readiness.sentence.rstrip(". ").endswith(problems[0].rstrip(". "))
    return "" if repeats else readiness.sentence


def quantity(num: float, noun: str) -> str:
    """A number with its noun: "1 row", "1,200 rows"."""
    return f"{number(num, 0)} {noun}" if num == 1 else f"{number(num, 0)} {noun}s"


def share_words(share: float) -> str:
    """A share in percent; one that rounds to nothing, or to all, says on which side it lies."""
    if 0 < share < 0.0005:
        return "under 0.1 %"
    return "over 99.9 %" if 0.9995 <= share < 1 else percent(share)


def short(name: str) -> str:
    """A name from the data, cut where nobody reads on."""
    return name if len(name) <= MAX_NAME_CHARS else name[: MAX_NAME_CHARS - 1] + "\u2026"


def reason_words(reason: str) -> str:
    """Which rows a reason takes, as a clause after "rows"."""
    return DROP_REASONS.get(reason, reason.replace("_", " "))


def claim_words(mode: str) -> str:
    """What the hold-out speaks for."""
    return _CLAIMS.get(mode, mode.replace("_", " "))


def kind_counts(counts: Mapping[str, int]) -> str:
    """Numbers of private data by kind, in one line."""
    return ", ".join(f"{kind_words(kind)} {number(num, 0)}" for kind, num in counts.items() if num)


def kind_words(kind: str) -> str:
    """A kind of private data."""
    return _KINDS.get(kind, kind.replace("_", " "))


def repair_words(kind: str) -> str:
    """A kind of damage that was repaired."""
    return _REPAIRS.get(kind, kind.replace("_", " "))


def private_line(private: PrivateFacts) -> str:
    """What was done about the private data."""
    if not any(private.found.values()):
        return "Nothing was found."
    action = _ACTIONS[private.action]
    return f"{action[0].upper()}{action[1:]}."


def age_lines(age: Age) -> list[str]:
    """How old the rows are, one sentence each."""
    days = {name: number(value, 0) for name, value in age.days.items()}
    lines = [
        f"Median age {days['p50']} days; one row in ten is {days['p90']} days old or more, one in ten {days['p10']} or "
        f"less. The oldest is of {age.oldest}, the newest of {age.newest}."
    ]
    if age.num_undated:
        lines.append(f"Without a time: {quantity(age.num_undated, 'row')}.")
    if age.num_future:
        lines.append(f"With a time still to come: {quantity(age.num_future, 'row')}; check the column in [data] time.")
    return lines


def slice_note(part: Slice, *, is_expected: bool) -> str:
    """The hold-out rows of a slice, and whether they are too few."""
    if part.num_holdout is None:
        return "too few to judge" if part.is_too_small else ""
    about = "about " if is_expected else ""
    verdict = ": too few to judge" if part.is_too_small else ""
    rows = number(part.num_holdout, 0)
    return f"{about}{rows} hold-out {'row' if rows == '1' else 'rows'}{verdict}"


def attribute_line(attribute: Attribute) -> str:
    """What a person should know about the slices of an attribute."""
    small = [part.value for part in attribute.slices if part.is_too_small]
    rows = "rows" if any(part.num_holdout is None for part in attribute.slices) else "hold-out rows"
    said = []
    if small:
        listed = ", ".join(short(value) for value in small[:MAX_LISTED])
        more = f" and {number(len(small) - MAX_LISTED, 0)} more" if len(small) > MAX_LISTED else ""
        said.append(
            f"{number(len(small), 0)} of {quantity(len(attribute.slices), 'value')} too small to judge (under "
            f"{MIN_SLICE_ROWS} {rows}): {listed}{more}."
        )
    elif attribute.slices:
        said.append(f"Every value named here can be judged ({MIN_SLICE_ROWS} {rows} or more).")
    if attribute.num_unnamed:
        said.append(
            f"Not named, because so rare a value can point at a person: {quantity(attribute.num_unnamed, 'value')} "
            f"with fewer than {MIN_NAMED_ROWS} rows, {quantity(attribute.num_unnamed_rows, 'row')} in all."
        )
    if attribute.num_without:
        said.append(f"Without a value: {quantity(attribute.num_without, 'row')}.")
    return " ".join(said)


def grouping_line(group: Grouping) -> str:
    """How many groups there are, and what they are worth."""
    line = (
        f"{quantity(group.num, 'group')} in {quantity(group.num_rows, 'row')}; the largest has "
        f"{number(group.largest, 0)}."
    )
    if group.effective_n is not None:
        line += f" For an interval they are worth at least {quantity(int(group.effective_n), 'independent row')}."
    return line
