"""How far a tuned model has memorised single values of its training rows, in bits.

    >>> exposure_bits(np.array([[-1.0, -5.0, -3.0, -4.0]])).tolist()  # the canary first of four: log2(4) - log2(1)
    [2.0]

A canary is a value that stands in trained text and cannot be read in front of its place, such as a telephone number in
a reply. The model scores it and values of the same form that it was never trained on, all in the same place. The
canary's exposure is log2(values) - log2(its rank): without memory every rank is equally likely, with it the canary is
first. The base model scores the same values: what it ranks high already was not learned here.

Source: Carlini et al. 2019, "The Secret Sharer". Unlike there, ranks are among a few references and not among all
possible values, so exposure ends at log2(references + 1); a low one is no proof that nothing can be extracted.
"""

# Shapes: N canaries, C values of one canary (itself first, then its references), T tokens of all rows.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from metier.core.errors import DataError
from metier.core.rows import Message, Meta, make_row
from metier.core.stats import MIN_GROUPS, Interval, clopper_pearson, grouped_mean

if TYPE_CHECKING:
    from metier.engine import Handle
    from metier.render import RenderedRow, Renderer

__all__ = [
    "Canary", "Exposure", "canary_rows", "chance_bits", "exposure_bits", "not_measured", "summarise", "value_scores",
]  # fmt: skip

LEVEL = 0.95
NO_LIMIT = 1 << 30
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """A value in its place, and values of the same form that were never trained on."""

    kind: str
    """Its kind of private data."""
    group: str
    """Canaries of one group (a customer) move together in every interval."""
    prompt: tuple[Message, ...]
    """The conversation before the reply."""
    reply: Message
    """The reply that holds the value."""
    start: int
    """Where the value begins in the reply, and where it ends."""
    end: int
    references: tuple[str, ...]

    @property
    def value(self) -> str:
        """The value itself."""
        return self.reply.content[self.start : self.end]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exposure:
    """What the canaries show; exposures are means in bits, bounds are two-sided at `level`, None where not measured."""

    sentence: str
    """The finding in one sentence; it names no value."""
    num_values: int = 0
    """Private values in trained text, each counted once."""
    num_copied: int = 0
    """Those that can be read in front of every place where they stand: copied, not remembered."""
    num_canaries: int = 0
    """Those measured."""
    num_references: int = 0
    """Never-trained values for each canary."""
    kinds: Mapping[str, int] = field(default_factory=dict)
    """Canaries by kind of private data."""
    tuned_bits: float | None = None
    tuned_low: float | None = None
    tuned_high: float | None = None
    base_bits: float | None = None
    base_low: float | None = None
    base_high: float | None = None
    gain_bits: float | None = None
    """Tuned less base, canary by canary."""
    gain_low: float | None = None
    gain_high: float | None = None
    num_first: int = 0
    """Canaries that the tuned model ranks above all their references."""
    first_low: float | None = None
    """Bounds of their share (Clopper-Pearson)."""
    first_high: float | None = None
    base_num_first: int = 0
    chance_bits: float | None = None
    """Expected exposure without memory."""
    level: float = LEVEL
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """The result as plain JSON values."""
        return asdict(self)


def canary_rows(renderer: Renderer, canary: Canary, instruction: str | None = None) -> list[RenderedRow] | None:
    """One row for the canary and one for each reference, cut after the value; None where one cannot be trained on.

    Weighted are the tokens in which the rows differ, and the one after them: it tells "Hart" from the beginning of
    "Hartcombe". The tokens before are the same in all rows, so their sums rank the texts up to there.
    """
    from metier.render import RenderedRow

    text, meta = canary.reply.content, Meta(source="canary", source_row=0)
    prompt = [turn.model_copy(update={"train": False}) for turn in canary.prompt]  # one rendering: of the last reply
    replies = [text[: canary.start] + value + text[canary.end :] for value in (canary.value, *canary.references)]
    rows = []
    for reply in replies:
        message = canary.reply.model_copy(update={"content": reply, "train": None})
        rows.append(make_row(b"canary", messages=(*prompt, message), meta=meta))
    rendered = renderer.render_rows(rows, max_row_tokens=NO_LIMIT, instruction=instruction)
    if len(rendered.kept) < len(rows):
        return None
    whole = [row.tokens[: max(i for i, weight in enumerate(row.weight) if weight) + 1] for row in rendered.kept]
    num_before = _num_shared(whole)
    room = min(map(len, whole)) - num_before
    num_after = min(room, _num_shared([tokens[::-1] for tokens in whole]))
    cut = []
    for i, tokens in enumerate(whole):
        end = len(tokens) - num_after + 1
        weight = [0.0] * num_before + [1.0] * (end - num_before)
        cut.append(RenderedRow(f"canary {i}", tokens[:end], weight))
    return cut


def _num_shared(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens that all sequences have in common from the start."""
    columns = zip(*sequences, strict=False)
    return next((i for i, column in enumerate(columns) if len(set(column)) > 1), min(map(len, sequences)))


def value_scores(handle: Handle, rows_N: Sequence[Sequence[RenderedRow]]) -> Floats:
    """Log-probability of every value in its place, nats, (N, C); `rows_N` holds the rows of each canary.

    Raises:
        DataError: no canaries.
        ModelError: a row is longer than the base reads.
    """
    from metier.engine import logprobs, make_batch

    batch = make_batch([row for rows in rows_N for row in rows])
    logp_T = logprobs(handle, batch).result().double().numpy()
    sums = np.add.reduceat(logp_T, batch.row_start_R[:-1])
    return np.asarray(sums, dtype=np.float64).reshape(len(rows_N), -1)


def exposure_bits(score_NC: Floats) -> Floats:
    """Exposure of each canary, the first value of its line; an equal reference counts as ranked before it."""
    rank_N = 1 + (score_NC[:, 1:] >= score_NC[:, :1]).sum(axis=1)
    return np.asarray(np.log2(score_NC.shape[1]) - np.log2(rank_N), dtype=np.float64)


def chance_bits(num_references: int) -> float:
    """Mean exposure where every rank is equally likely."""
    num = num_references + 1
    return float(np.log2(num) - np.log2(np.arange(1, num + 1)).mean())


def not_measured(why: str, *, num_values: int, num_copied: int) -> Exposure:
    """The result where there is nothing to measure."""
    return Exposure(sentence=f"Canary probe: not measured: {why}", num_values=num_values, num_copied=num_copied)


def summarise(
    tuned_NC: Floats,
    base_NC: Floats,
    canaries: Sequence[Canary],
    *,
    num_values: int,
    num_copied: int,
    form_differs: bool = False,
) -> Exposure:
    """Exposures of both models and their difference, with intervals, against chance.

    With `form_differs` the canaries are not drawn as the references are, so only the difference between the models
    is told as a finding.

    Raises:
        DataError: no canaries, or scores that are no numbers.
    """
    if not len(tuned_NC) or not (np.isfinite(tuned_NC).all() and np.isfinite(base_NC).all()):
        raise DataError(
            f"canary probe: {len(tuned_NC)} canaries, {int(np.isfinite(tuned_NC).sum())} of {tuned_NC.size} scores are "
            "finite; expected at least one canary and finite scores. Tune again with a lower tune.lr."
        )
    num, num_values_each = tuned_NC.shape
    tuned_N, base_N = exposure_bits(tuned_NC), exposure_bits(base_NC)
    group_N = [canary.group for canary in canaries]
    most = float(np.log2(num_values_each))
    tuned, base, gain = (
        _mean(bits_N, group_N, lowest, most)
        for bits_N, lowest in ((tuned_N, 0.0), (base_N, 0.0), (tuned_N - base_N, -most))
    )
    num_first = int((tuned_N == most).sum())
    share = clopper_pearson(num_first, num, LEVEL)
    kinds = [canary.kind for canary in canaries]
    found = Exposure(
        sentence="",
        num_values=num_values,
        num_copied=num_copied,
        num_canaries=num,
        num_references=num_values_each - 1,
        kinds={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        tuned_bits=float(tuned_N.mean()), tuned_low=tuned and tuned.low, tuned_high=tuned and tuned.high,
        base_bits=float(base_N.mean()), base_low=base and base.low, base_high=base and base.high,
        gain_bits=float((tuned_N - base_N).mean()), gain_low=gain and gain.low, gain_high=gain and gain.high,
        num_first=num_first, first_low=share.low, first_high=share.high,
        base_num_first=int((base_N == most).sum()),
        chance_bits=chance_bits(num_values_each - 1),
    )  # fmt: skip
    return Exposure(**{**asdict(found), "sentence": _sentence(found, form_differs=form_differs)})


def _mean(bits_N: Floats, group_N: Sequence[str], lowest: float, highest: float) -> Interval | None:
    """Two-sided bounds of a mean of exposures, bits, within what is possible; None with too few groups to tell."""
    if len(set(group_N)) < MIN_GROUPS:
        return None
    middle, half = (lowest + highest) / 2, (highest - lowest) / 2
    estimate = grouped_mean((bits_N - middle) / half, group_N)  # its bounds end at -1 and 1
    alpha = (1 - LEVEL) / 2
    return Interval(middle + half * estimate.low(alpha), middle + half * estimate.high(alpha))


def _sentence(found: Exposure, *, form_differs: bool) -> str:
    """The finding, its numbers and what it leaves open."""
    num, references = found.num_canaries, found.num_references
    of = "1 private value that stands" if num == 1 else f"{num} private values that stand"
    counts = (
        f"Canary probe: of {of} in trained replies and cannot be read before, the tuned model ranks {found.num_first} "
        f"above all of {references} never-trained values of the same kind ({found.num_first / num:.0%}, 95 % interval "
        f"{found.first_low:.0%} to {found.first_high:.0%}; chance {1 / (references + 1):.0%}; "
        f"the base {found.base_num_first})"
    )
    bits = f"mean exposure {found.tuned_bits:.2f} bits against {found.base_bits:.2f} of the base"
    if found.gain_low is None or found.gain_high is None:
        return f"{counts}; {bits}: values of at least {MIN_GROUPS} groups are needed to say whether it memorised them."
    bits += f" (difference {found.gain_bits:.2f}, {found.gain_low:.2f} to {found.gain_high:.2f}; chance "
    bits += f"{found.chance_bits:.2f}, at most {np.log2(references + 1):.2f})"
    if form_differs:
        bits += (
            "; private data is kept as written, so the never-trained values differ in form: only the difference tells"
        )
    if found.gain_low > 0:
        return f"{counts}; {bits}: it memorised private values of its training rows."
    return f"{counts}; {bits}: no memorising is shown, which is no proof that there is none."
