"""Everything the page of the data shows: counts, ages, lengths, slices; nothing a person could be recognised by.

    facts = DataFacts(project="support", read=838, kept=728, failed=0, drops=(Drop(...), ...), ...)
    facts == data_facts_from_json(json.loads(json.dumps(facts.as_json())))

Filled by `metier.road` (`metier.core.data_counts` makes the parts from plain numbers), drawn by `metier.web`. Rows
appear as "file:record" and keyed ids; text only in examples, masked. Facts of the hold-out are counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from metier.core.errors import DataError
from metier.core.masking import MAX_MASKED_CHARS, mask
from metier.core.readiness import MIN_SLICE_ROWS
from metier.core.typed_json import built

__all__ = [
    "MAX_EXAMPLES", "MIN_NAMED_ROWS", "Age", "Agreement", "Attribute", "Bin", "DataFacts", "Drop",
    "Example", "Figure", "Grouping", "Histogram", "LabelCount", "Part", "Period", "Pointer", "PrivateFacts",
    "SEALED_REASONS", "Readiness", "Review", "Slice", "Source", "Split", "data_facts_from_json",
]  # fmt: skip

DATA_FACTS_SCHEMA_VERSION = 1
MAX_EXAMPLES = 3
MIN_NAMED_ROWS = 5
"""Kept rows from which a slice is named: so rare a value can point at a person."""
SEALED_REASONS = ("near_holdout", "holdout_unused")
"""Rows that are, or nearly are, rows of the hold-out: not even masked text of them is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Readiness:
    """Whether a run can start, and why not."""

    ready: bool
    sentence: str
    """The answer in one sentence a manager understands."""
    problems: tuple[str, ...] = ()
    """What must be mended first, one sentence each."""
    warnings: tuple[str, ...] = ()
    """What should be known, one sentence each."""

    def __post_init__(self) -> None:
        if self.ready == bool(self.problems):
            raise DataError(
                f"readiness: ready is {self.ready} with {len(self.problems)} problems; expected problems where rows "
                "are not ready, and only there. This is a defect of metier; please report it."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One row set aside, its prompt masked; made by `Example.of`."""

    where: str
    """file:record."""
    text: str = ""
    """Masked; empty where no text may be shown."""
    survivor: str = ""
    """file:record of the row that stays in its place."""

    def __post_init__(self) -> None:
        digits = any(char.isdecimal() and char != "0" for char in self.text)
        if digits or "@" in self.text or len(self.text) > MAX_MASKED_CHARS:
            raise DataError(
                f"the example of {self.where} is not masked; expected a text without numbers and addresses. Make it "
                "with Example.of. This is a defect of metier; please report it."
            )

    @classmethod
    def of(cls, where: str, text: str, *, survivor: str = "", keep_words: Collection[str] = ()) -> Self:
        """The example of a row whose prompt is `text`; `keep_words` are those of `masking.everyday_words`."""
        return cls(where=where, text=mask(text, keep_words=keep_words), survivor=survivor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """Rows set aside for one reason."""

    reason: str
    """The code: near_duplicate, expired, ..."""
    num: int
    rule: str
    """One sentence: which rows the rule takes."""
    examples: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        if len(self.examples) > min(MAX_EXAMPLES, self.num):
            raise DataError(
                f"{self.reason}: {len(self.examples)} examples of {self.num} rows; expected at most {MAX_EXAMPLES}, "
                "and not more than rows. This is a defect of metier; please report it."
            )
        if self.reason in SEALED_REASONS and any(example.text or example.survivor for example in self.examples):
            raise DataError(
                f"{self.reason}: an example shows text, or which row is in the hold-out; expected its place alone. "
                "This is a defect of metier; please report it."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivateFacts:
    """Private data found, and what was done about it."""

    found: Mapping[str, int]
    """Pieces by kind."""
    action: Literal["replace", "quarantine", "keep"]
    """The setting `[clean] private`."""
    public: Mapping[str, int] = field(default_factory=dict)
    """The organisation's own contacts, left as they are: distinct values by kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """Rows of one month, quarter or year."""

    name: str
    """2024-11, 2024-Q4 or 2024; "up to 2024" where older rows, "from 2024" where newer ones are counted in it."""
    num: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Age:
    """How old the kept rows are."""

    num_dated: int
    num_undated: int
    oldest: str
    """Day of the oldest row, ISO."""
    newest: str
    days: Mapping[str, float]
    """Age in days on the day the facts were gathered, by quantile: p10, p50, p90."""
    num_future: int
    """Rows whose time lies after that day."""
    unit: Literal["month", "quarter", "year"]
    periods: tuple[Period, ...]
    """Without gaps, oldest first; a few wrong dates may be counted in the first and the last, whose names say so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Rows whose length lies from `low` to `high`, both included."""

    low: int
    high: int | None
    """None: and more."""
    num: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Lengths in words."""

    what: str
    """prompt or reply."""
    num_rows: int
    median: float
    p95: float
    longest: int
    bins: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Kept rows with one value of an attribute."""

    value: str
    num: int
    num_holdout: float | None
    """Rows in the hold-out, or those expected there; None where neither is known."""

    @property
    def is_too_small(self) -> bool:
        """Whether there are, or can be, too few hold-out rows to judge it."""
        return (self.num if self.num_holdout is None else self.num_holdout) < MIN_SLICE_ROWS


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """A column kept as slices."""

    name: str
    slices: tuple[Slice, ...]
    """Most rows first."""
    num_without: int = 0
    """Kept rows without a value."""
    num_unnamed: int = 0
    """Values with fewer than `MIN_NAMED_ROWS` rows each, which are not named."""
    num_unnamed_rows: int = 0
    is_expected: bool = False
    """Whether hold-out rows are expected (no split yet) and not counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCount:
    """Kept rows of one label."""

    name: str
    num: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What became of the records of one file; the rest was set aside."""

    file: str
    read: int
    kept: int
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Grouping:
    """Kept rows by customer, document or case."""

    key: str
    """Name of the column."""
    num: int
    """Groups."""
    num_rows: int
    """Rows that have one."""
    largest: int
    """Rows of the largest group."""
    effective_n: float | None = None
    """Independent rows these rows are worth at least; None where it was not computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of the split."""

    name: str
    """train, dev, holdout, or set_aside (by the split)."""
    num: int
    num_groups: int | None = None
    oldest: str = ""
    """Day, ISO; empty without times."""
    newest: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """How the kept rows were cut."""

    mode: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """Where a row is, without its text."""

    row_id: str
    where: str
    """file:record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """Rows whose label or reply a person should look at, the most suspicious first; never rows of the hold-out."""

    num_judged: int
    num_likely: int | None
    """Labels that are probably wrong, estimated; None for replies."""
    suspects: tuple[Pointer, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A measured share or coefficient with its two-sided 95 % interval and the number it rests on."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """What the annotators' votes allow."""

    num_annotators: int
    alpha: Figure | None
    """Krippendorff's alpha; `n` counts rows with two votes or more. None: could not be computed."""
    ceiling: Figure | None
    """Score of a faultless model against these labels, 0-1. None: could not be computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """The data of a project on one day."""

    project: str
    written_at: str
    """When these facts were gathered: ISO, UTC."""
    code: str
    """Version of metier."""
    dataset_version: str
    """Merkle root of the kept rows."""
    readiness: Readiness
    read: int
    kept: int
    failed: int
    """Records that are no row."""
    drops: tuple[Drop, ...]
    failures: tuple[str, ...] = ()
    """file:line of the first that failed; never their text."""
    private: PrivateFacts | None = None
    """None: not looked for."""
    repaired: Mapping[str, int] = field(default_factory=dict)
    """Rows whose text was repaired, by kind of damage."""
    conflicting_labels: int = 0
    """Kept rows whose label differs from that of a near-identical row."""
    age: Age | None = None
    """None: no kept row has a time."""
    lengths: tuple[Histogram, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    labels: tuple[LabelCount, ...] = ()
    sources: tuple[Source, ...] = ()
    groups: tuple[Grouping, ...] = ()
    split: Split | None = None
    review: Review | None = None
    """None: not looked for."""
    agreement: Agreement | None = None
    """None: not measured."""
    schema_version: int = DATA_FACTS_SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.kept + self.set_aside + self.failed != self.read:
            raise DataError(
                f"data facts: kept {self.kept} + set aside {self.set_aside} + failed {self.failed} is not the "
                f"{self.read} read. This is a defect of metier; please report it."
            )

    @property
    def set_aside(self) -> int:
        """Rows set aside, for whatever reason."""
        return sum(drop.num for drop in self.drops)

    def as_json(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        return asdict(self)


def data_facts_from_json(values: Mapping[str, Any]) -> DataFacts:
    """The facts written by `as_json`.

    Raises:
        DataError: another schema version, an unknown or a missing field, a value of another type.
    """
    found = values.get("schema_version")
    if found != DATA_FACTS_SCHEMA_VERSION:
        raise DataError(
            f"data facts have schema_version {found!r}; this metier reads {DATA_FACTS_SCHEMA_VERSION}. Run again to "
            "write them anew."
        )
    facts = built(DataFacts, values, "data facts")
    assert isinstance(facts, DataFacts)
    return facts
