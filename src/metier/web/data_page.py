"""The data of a project as one self-contained HTML page: no script, no network, readable in print and without colour.

    write_data_page(facts, Path(".metier/report/data.html"))

The page adds nothing to `DataFacts` but the lengths of its bars and shares of the counts beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metier.core.data_facts import Age, Attribute, Bin, DataFacts, Histogram, LabelCount
from metier.core.folders import write_bytes
from metier.web import data_words as words
from metier.web.numbers import DASH, number
from metier.web.templating import environment, styles, without_control

__all__ = ["render_data_page", "write_data_page"]

SHOWN_BARS = 12
"""Slices of an attribute, and labels, that are not folded."""
SHOWN_SUSPECTS = 10
MAX_SUSPECTS = 200
SHOWN_NOTES = 4
SHOWN_REASONS = 3
MAX_TICKS = 5
_MIN_WIDTH = 0.6
"""Percent of the axis: a count of one beside thousands is still seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One line of a list of bars."""

    name: str
    num: int
    width: str
    """Percent of the longest bar there can be."""
    share: float
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of a chart."""

    name: str
    num: int
    left: str
    """Where it begins, in units of a column."""
    height: str
    """Percent of the highest."""
    top: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A name under a chart."""

    name: str
    left: str
    """Percent of the width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Columns over an axis."""

    what: str
    """What the columns are: month, or words of the prompt."""
    columns: tuple[Column, ...]
    ticks: tuple[Tick, ...]
    said: str
    """The chart in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BarList:
    """Bars with a heading, and those that are folded."""

    name: str
    shown: tuple[Bar, ...]
    folded: tuple[Bar, ...]
    line: str
    is_expected: bool = False


def render_data_page(facts: DataFacts) -> str:
    """The page as HTML text."""
    headline, glyph = words.headline(facts)
    drops = sorted(facts.drops, key=lambda drop: (-drop.num, drop.reason))
    template = environment()
    template.filters.update(
        quantity=words.quantity, short=words.short, reason=words.reason_words, kind=words.kind_words,
        repair=words.repair_words, kinds=words.kind_counts, claim=words.claim_words, share=words.share_words,
    )  # fmt: skip
    page = template.get_template("data.html").render(
        facts=facts,
        headline=headline,
        glyph=glyph,
        lead=words.lead(facts.readiness),
        drops=[drop for drop in drops if drop.num],
        num_reasons=SHOWN_REASONS,
        num_notes=SHOWN_NOTES,
        flow=flow_bars(facts),
        private_line=words.private_line(facts.private) if facts.private else "",
        age_lines=words.age_lines(facts.age) if facts.age else [],
        age_chart=age_chart(facts.age) if facts.age else None,
        lengths=[(length, length_chart(length)) for length in facts.lengths],
        attributes=[slice_bars(attribute, facts.kept) for attribute in facts.attributes],
        labels=label_bars(facts.labels),
        groups=[(group.key, words.grouping_line(group)) for group in facts.groups],
        part_names=words.PART_NAMES,
        suspects=facts.review.suspects[:MAX_SUSPECTS] if facts.review else (),
        num_suspects=SHOWN_SUSPECTS,
        css=styles("report.css", "data.css"),
    )
    return without_control(page)


def write_data_page(facts: DataFacts, path: Path) -> Path:
    """Write the page atomically; returns its path."""
    write_bytes(path, render_data_page(facts).encode())
    return path


def flow_bars(facts: DataFacts) -> list[Bar]:
    """From read to kept: one bar a reason, most rows first, each beside all that was read."""
    lines = [(words.reason_words(drop.reason), drop.num, drop.rule) for drop in facts.drops if drop.num]
    lines.sort(key=lambda line: -line[1])
    if facts.failed:
        lines.append(("not readable as a row", facts.failed, ""))
    lines = [("read", facts.read, ""), *lines, ("kept", facts.kept, "")]
    return [_bar(name, num, facts.read, note=note) for name, num, note in lines]


def _bar(name: str, num: int, total: int, *, most: int | None = None, note: str = "") -> Bar:
    """A bar whose length is beside `most` (or beside the total), its share that of the total."""
    longest = most or total
    width = max(100 * num / longest, _MIN_WIDTH) if num and longest else 0
    return Bar(name=words.short(name), num=num, width=f"{width:.2f}", share=num / total if total else 0.0, note=note)


def slice_bars(attribute: Attribute, num_kept: int) -> BarList:
    """The slices of an attribute: those too small to judge say so in words."""
    most = max((part.num for part in attribute.slices), default=0)
    bars = [
        _bar(
            part.value, part.num, num_kept, most=most, note=words.slice_note(part, is_expected=attribute.is_expected)
        )
        for part in attribute.slices
    ]  # fmt: skip
    return BarList(
        name=words.short(attribute.name),
        shown=tuple(bars[:SHOWN_BARS]),
        folded=tuple(bars[SHOWN_BARS:]),
        line=words.attribute_line(attribute),
        is_expected=attribute.is_expected,
    )


def label_bars(labels: Sequence[LabelCount]) -> BarList | None:
    """The labels, most rows first; None without labels."""
    if not labels:
        return None
    total = sum(label.num for label in labels)
    ordered = sorted(labels, key=lambda label: -label.num)
    bars = [_bar(label.name, label.num, total, most=ordered[0].num) for label in ordered]
    rarest = ordered[-1]
    line = (
        f"{words.quantity(len(labels), 'label')} in {words.quantity(total, 'row')}; the most frequent has "
        f"{number(ordered[0].num, 0)}, the rarest {number(rarest.num, 0)}."
    )
    return BarList(name="label", shown=tuple(bars[:SHOWN_BARS]), folded=tuple(bars[SHOWN_BARS:]), line=line)


def age_chart(age: Age) -> Chart:
    """Kept rows by month, quarter or year."""
    return _chart(age.unit, [(period.name, period.num) for period in age.periods], "")


def length_chart(histogram: Histogram) -> Chart:
    """Kept rows by length in words."""
    counts = [(bin_name(part), part.num) for part in histogram.bins]
    return _chart(f"words of the {histogram.what}", counts, " words")


def bin_name(part: Bin) -> str:
    """The lengths of a bin."""
    if part.high is None:
        return f"{number(part.low, 0)}+"
    return number(part.low, 0) if part.low == part.high else f"{number(part.low, 0)}{DASH}{number(part.high, 0)}"


def _chart(what: str, counts: Sequence[tuple[str, int]], unit: str) -> Chart:
    most = max((num for _, num in counts), default=0)
    columns = []
    for place, (name, num) in enumerate(counts):
        height = max(100 * num / most, 1.0) if num else 0.0
        columns.append(
            Column(name=name, num=num, left=f"{place + 0.1:.1f}", height=f"{height:.1f}", top=f"{100 - height:.1f}")
        )
    highest = max(counts, key=lambda item: item[1], default=("", 0))
    said = f"Most in {highest[0]}{unit}: {words.quantity(highest[1], 'row')}." if counts else ""
    return Chart(what=what, columns=tuple(columns), ticks=_ticks([name for name, _ in counts]), said=said)


def _ticks(names: Sequence[str]) -> tuple[Tick, ...]:
    """At most five names, no two closer than an even step, the first and the last among them."""
    places = list(range(0, len(names), -(-len(names) // MAX_TICKS) or 1))
    if places:
        places[max(len(places) - 1, 1) :] = [len(names) - 1] if len(names) > 1 else []
    return tuple(Tick(name=names[place], left=f"{100 * (place + 0.5) / len(names):.2f}") for place in places)
