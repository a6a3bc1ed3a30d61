"""One page about the annotators: agreement, each annotator, who should be looked at, and what the labels allow.

    >>> report = annotator_report(votes, slices={"region": region_by_row}, gold=answers, seed=0)
    >>> report.alpha
    Estimate(value=0.41, low=0.36, high=0.46, n=800)
    >>> print(report.as_text())

Every figure carries its interval and the number it rests on; what cannot be known is None, with the reason in `notes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from metier.core.agreement import Metric, krippendorff_alpha, majority_vote
from metier.core.annotators import Pace, gold_accuracy, pace, peer_agreement, share
from metier.core.dawid_skene import (
    DawidSkene,
    LabelCeiling,
    accuracies,
    ceiling,
    chance_accuracy,
    dawid_skene,
    resample,
)
from metier.core.errors import DataError
from metier.core.label_slices import SliceCell, SliceFinding, SliceTest, label_rates, slice_tests
from metier.core.seeds import generator
from metier.core.votes import Estimate, Vote, VoteTable, vote_table

__all__ = ["AnnotatorLine", "AnnotatorReport", "annotator_report"]

P = ParamSpec("P")
T = TypeVar("T")
MIN_JUDGED_VOTES = 50
"""From so many votes on, an annotator whose accuracy is not above chance by its interval is flagged near_chance."""
MAX_SHOWN = 20  # lines of annotators on the page; all of them are in the JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorLine:
    """What is known about one annotator."""

    annotator: str
    num_votes: int
    accuracy: Estimate | None
    """Estimated from the votes of the others; `n` counts votes on rows they labelled too. None without such rows."""
    gold: Estimate | None
    """On rows with known answers; None without such rows."""
    peers: Estimate | None
    """Agreement with the majority of the others; None without others on the same rows."""
    pace: Pace | None
    """Seconds a vote; None where not measured."""
    flags: tuple[str, ...]
    """Why a person should look: too_fast; near_chance; annotator_differs or unexplained with the attribute."""

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """The line as JSON values."""
        return {
            "annotator": self.annotator,
            "num_votes": self.num_votes,
            "accuracy": _json(self.accuracy),
            "gold": _json(self.gold),
            "peers": _json(self.peers),
            "pace": self.pace._asdict() if self.pace else None,
            "flags": list(self.flags),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorReport:
    """The page."""

    num_votes: int
    num_rows: int
    num_replaced: int
    """Earlier votes that a newer one of the same annotator on the same row replaced."""
    num_ties: int
    """Rows on which no label has the majority."""
    guideline_versions: tuple[str, ...]
    metric: Metric
    alpha: Estimate | None
    """Krippendorff's alpha; `n` counts rows with two votes or more."""
    lines: tuple[AnnotatorLine, ...]
    """Flagged annotators first, then by number of votes."""
    cells: tuple[SliceCell, ...]
    tests: tuple[SliceTest, ...]
    ceiling: LabelCeiling | None
    """What a faultless model would score against the labels, by the model's own estimate."""
    gold_ceiling: Estimate | None
    """Share of gold rows whose fitted label is the known answer: the ceiling without the model's assumption."""
    converged: bool | None
    """Whether the model converged; None where it could not be fitted."""
    notes: tuple[str, ...]
    """What could not be computed and why, and what to keep in mind."""

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """The page as JSON values."""
        cells = [{**cell._asdict(), "agreement": _json(cell.agreement)} for cell in self.cells]
        return {
            "num_votes": self.num_votes,
            "num_rows": self.num_rows,
            "num_annotators": len(self.lines),
            "num_replaced": self.num_replaced,
            "num_ties": self.num_ties,
            "guideline_versions": list(self.guideline_versions),
            "metric": self.metric.value,
            "alpha": _json(self.alpha),
            "annotators": [line.as_json() for line in self.lines],
            "slices": cells,
            "slice_tests": [{**test._asdict(), "slices": list(test.slices)} for test in self.tests],
            "ceiling": {k: _json(v) for k, v in self.ceiling._asdict().items()} if self.ceiling else None,
            "gold_ceiling": _json(self.gold_ceiling),
            "converged": self.converged,
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """The page as text, at most twenty annotators on it."""
        page = [
            f"{self.num_votes} votes of {len(self.lines)} annotators on {self.num_rows} rows, "
            f"{self.num_ties} rows tied, {self.num_replaced} votes replaced by newer ones.",
            f"Krippendorff's alpha ({self.metric.value}): {_shown(self.alpha, 'rows with two votes or more')}",
        ]
        if self.ceiling:
            page += [
                "Label ceiling: a faultless model would score, if annotators err independently,",
                f"  against one vote a row   {_shown(self.ceiling.one_vote, 'rows')}",
                f"  against majority labels  {_shown(self.ceiling.majority, 'rows')}",
                f"  against fitted labels    {_shown(self.ceiling.fitted, 'rows')}",
            ]
        if self.gold_ceiling:
            page.append(f"  fitted labels, by gold   {_shown(self.gold_ceiling, 'gold rows')}")
        page += ["", *_annotator_table(self.lines)]
        flagged = [test for test in self.tests if test.flagged]
        if self.tests:
            few = sum(test.finding is SliceFinding.TOO_FEW for test in self.tests)
            tested = f"{len(flagged)} of {len(self.tests) - few} tested are flagged, {few} have too few votes to test."
            page += ["", f"Labels by slice: {tested}"]
        page += [_slice_line(test, self.cells) for test in flagged]
        page += ["", *(f"Note: {note}" for note in self.notes)] if self.notes else []
        return "\n".join(page)


def annotator_report(
    votes: Iterable[Vote],
    slices: Mapping[str, Mapping[str, str]] | None = None,
    gold: Mapping[str, str] | None = None,
    *,
    seed: int,
    metric: Metric = Metric.NOMINAL,
    order: Sequence[str] = (),
) -> AnnotatorReport:
    """The page about `votes`; `slices` maps attribute to row id to slice, `gold` row id to the known answer.

    Raises:
        DataError: no votes, values outside `order`, or slices and gold answers that fit no vote.
    """
    votes = list(votes)
    table = vote_table(votes, order=order)
    notes: list[str] = []
    alpha = _or_note(notes, krippendorff_alpha, table, rng=generator(seed, "annotators", "alpha"), metric=metric)
    fit = _or_note(notes, dawid_skene, table)
    accuracy: tuple[Estimate | None, ...] = ()
    tests: tuple[SliceTest, ...] = ()
    top: LabelCeiling | None = None
    if fit is not None:
        resampled = resample(fit, rng=generator(seed, "annotators", "resample"))
        accuracy, top = accuracies(fit, resampled), _or_note(notes, ceiling, fit, resampled)
        tests = tuple(slice_tests(fit, slices or {}, rng=generator(seed, "annotators", "slices"), gold=gold))
    versions = tuple(sorted({vote.guideline_version for vote in votes}))
    notes += _cautions(fit, versions, has_gold=bool(gold))
    return AnnotatorReport(
        num_votes=len(table.row_V), num_rows=len(table.rows), num_replaced=table.num_replaced,
        num_ties=majority_vote(table).num_ties, guideline_versions=versions, metric=metric, alpha=alpha,
        lines=_lines(table, accuracy, gold or {}, tests, fit), cells=tuple(label_rates(table, slices or {})),
        tests=tests, ceiling=top, gold_ceiling=_gold_ceiling(fit, gold or {}), converged=fit.converged if fit else None,
        notes=tuple(notes),
    )  # fmt: skip


def _or_note(notes: list[str], compute: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """What `compute` gives; where these votes cannot give it, None and the reason among the notes."""
    try:
        return compute(*args, **kwargs)
    except DataError as err:
        notes.append(str(err))
        return None


def _cautions(fit: DawidSkene | None, versions: tuple[str, ...], *, has_gold: bool) -> list[str]:
    notes = []
    if fit is not None and not fit.converged:
        notes.append(f"The model did not converge in {len(fit.objectives)} iterations; its figures are not final.")
    if len(versions) > 1:
        notes.append(
            f"Votes under {len(versions)} guideline versions are taken together; select one to judge it alone."
        )
    if fit is not None and not has_gold:
        notes.append("No gold rows: accuracy and ceiling assume that annotators err independently of each other.")
    return notes


def _gold_ceiling(fit: DawidSkene | None, gold: Mapping[str, str]) -> Estimate | None:
    """Share of gold rows whose fitted label is the known answer; None without such rows."""
    if fit is None:
        return None
    labels = zip(fit.table.rows, fit.label_N.tolist(), strict=True)
    right = [fit.table.labels[label] == gold[row] for row, label in labels if row in gold]
    return share(sum(right), len(right)) if right else None


def _lines(
    table: VoteTable,
    accuracy: Sequence[Estimate | None],
    gold: Mapping[str, str],
    tests: Sequence[SliceTest],
    fit: DawidSkene | None,
) -> tuple[AnnotatorLine, ...]:
    """One line an annotator, flagged ones first, then those with most votes."""
    on_gold, with_peers, paces = gold_accuracy(table, gold), peer_agreement(table), pace(table)
    chance = chance_accuracy(fit).tolist() if fit else []
    lines = []
    for number, (name, num_votes) in enumerate(zip(table.annotators, table.votes_J.tolist(), strict=True)):
        own_pace, own_gold, own = paces.get(name), on_gold.get(name), accuracy[number] if accuracy else None
        flags = [f"{test.finding}:{test.attribute}" for test in tests if test.annotator == name and test.flagged]
        if own_pace is not None and own_pace.too_fast:
            flags.append("too_fast")
        judged = own_gold if own_gold and own_gold.n >= MIN_JUDGED_VOTES else own
        if judged and judged.n >= MIN_JUDGED_VOTES and chance and judged.low <= chance[number]:
            flags.append("near_chance")
        lines.append(
            AnnotatorLine(
                annotator=name, num_votes=num_votes, accuracy=own, gold=own_gold, peers=with_peers.get(name),
                pace=own_pace, flags=tuple(flags),
            )
        )  # fmt: skip
    return tuple(sorted(lines, key=lambda line: (not line.flags, -line.num_votes, line.annotator)))


def _json(estimate: Estimate | None) -> dict[str, float | int] | None:
    return estimate.as_json() if estimate is not None else None


def _shown(estimate: Estimate | None, of: str = "") -> str:
    """A figure with its interval and number; a dash where it is not known."""
    if estimate is None:
        return "-"
    tail = f", {estimate.n} {of})" if of else f", n {estimate.n})"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}{tail}"


def _annotator_table(lines: Sequence[AnnotatorLine]) -> list[str]:
    """The annotators as aligned columns."""
    head = ("annotator", "votes", "accuracy", "on gold rows", "with the others", "seconds", "look at")
    body = [
        (
            line.annotator, str(line.num_votes), _shown(line.accuracy), _shown(line.gold), _shown(line.peers),
            f"{line.pace.median_s:.1f} (n {line.pace.num_timed})" if line.pace else "-", ", ".join(line.flags),
        )
        for line in lines[:MAX_SHOWN]
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    shown = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in (head, *body)
    ]
    if len(lines) > MAX_SHOWN:
        shown.append(f"and {len(lines) - MAX_SHOWN} more annotators (all of them are in the JSON)")
    return shown


def _slice_line(test: SliceTest, cells: Sequence[SliceCell]) -> str:
    """One flagged annotator: the label that differs most, with its counts in every compared slice."""
    own = [
        c for c in cells if (c.annotator, c.attribute) == (test.annotator, test.attribute) and c.slice in test.slices
    ]
    rates = {label: [cell.votes_by_label[label] / cell.num_votes for cell in own] for label in own[0].votes_by_label}
    label = max(rates, key=lambda name: max(rates[name]) - min(rates[name]))
    counts = ", ".join(f"{cell.slice} {cell.votes_by_label[label]} of {cell.num_votes}" for cell in own)
    p_value = test.beyond_p if test.finding is SliceFinding.ANNOTATOR_DIFFERS else test.rates_p
    why = (
        f"beyond what is known of the rows (n {test.num_compared})"
        if test.finding is SliceFinding.ANNOTATOR_DIFFERS
        else "and too few of the rows were labelled by others to say why"
    )
    return f"  {test.annotator}, {test.attribute}: {label!r} {counts}; differs {why}, p {p_value:.4f}"
