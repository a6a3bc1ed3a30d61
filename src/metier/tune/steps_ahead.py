"""What a run's batches will look like, before it starts: the steps, cut as the run cuts them, counted not computed.

>>> ahead = look_ahead([40, 60, 700], [50], config=TuneConfig(step_tokens=512), threads=2)  # doctest: +SKIP
>>> ahead.num_steps, ahead.workers, ahead.micro_tokens  # doctest: +SKIP
(4, 2, 704)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metier.core.tune_config import TuneConfig
from metier.engine.batch import LENGTH_MULTIPLE, TOKEN_MULTIPLE, group_sizes, split_rows
from metier.engine.compact import GPU_MICRO_TOKENS, MICRO_TOKENS
from metier.engine.loop import MIN_WORKER_TOKENS
from metier.tune.schedule import DEFAULT_PASSES, mean_reads, run_steps, step_tokens_of

__all__ = ["Lengths", "StepsAhead", "look_ahead"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepsAhead:
    """The sizes that fix what a run takes."""

    num_steps: int
    num_tokens: int
    """Real tokens over all passes."""
    dev_tokens: int
    row_tokens: int
    """Tokens of all train and dev rows, each once."""
    mean_reads: float
    """How often a train row is read."""
    workers: int
    """Most micro-batches that are trained at once."""
    scoring_workers: int
    """Most micro-batches that are only scored at once."""
    micro_tokens: int
    """Most tokens of one trained micro-batch, filled up."""
    scored_tokens: int
    """Most tokens of one micro-batch that is only scored, filled up."""
    longest_row: int
    widths: frozenset[int]
    """Sizes of trained micro-batches: products are compiled for each."""
    scored_widths: frozenset[int]
    """Sizes of micro-batches that are only scored; a trained one may have the same."""
    stored_lengths: frozenset[int]
    """Padded lengths of all rows: for stored states, attention computes one at a time."""
    groups: frozenset[tuple[int, int]]
    """(rows, padded length) of what attention computes at once in training."""
    scored_groups: frozenset[tuple[int, int]]
    """The same in scoring."""


Lengths = Sequence[int] | Sequence[tuple[int, int]]
"""Tokens of every example: of a row, or of both rows of a pair."""


def look_ahead(
    train: Lengths, dev: Lengths, *, config: TuneConfig, threads: int, seed: int = 0, has_reference: bool = False
) -> StepsAhead:
    """Cut examples of these lengths into the steps of a run; those over the limit are left out, as the run does.

    `has_reference`: the train rows go forward alone as well, once.
    """
    kept, kept_dev = (_within(lengths, config.max_row_tokens) for lengths in (train, dev))
    passes = config.passes or DEFAULT_PASSES
    sums = [sum(example) for example in kept]
    step_tokens = step_tokens_of(config, round(passes * sum(sums)))
    steps = run_steps(sums, passes=passes, step_tokens=step_tokens, seed=seed)
    # A device takes one batch at a time, and wide ones.
    cut = (config.processes, GPU_MICRO_TOKENS) if config.device == "cuda" else (threads, MICRO_TOKENS)
    shares = [_share([kept[i] for i in examples], cut) for examples in steps]
    scored_shares = [_share(part, cut) for part in (kept_dev, kept if has_reference else []) if part]
    scored = [micro for share in scored_shares for micro in share]
    trained = [micro for share in shares for micro in share]
    all_lengths = {length for example in (*kept, *kept_dev) for length in example}
    widths, scored_widths = (frozenset(map(_width, micros)) for micros in (trained, scored))
    return StepsAhead(
        num_steps=len(steps),
        num_tokens=sum(sums[i] for examples in steps for i in examples),
        dev_tokens=sum(map(sum, kept_dev)),
        row_tokens=sum(map(sum, (*kept, *kept_dev))),
        mean_reads=mean_reads(sums, steps, has_reference=has_reference),
        stored_lengths=frozenset(_filled(max(1, length - 1), LENGTH_MULTIPLE) for length in all_lengths),
        workers=max([1, *(min(cut[0], len(share)) for share in shares)]),
        scoring_workers=max([1, *(min(cut[0], len(share)) for share in scored_shares)]),
        micro_tokens=max(widths, default=0),
        scored_tokens=max(scored_widths, default=0),
        longest_row=_filled(max([0, *map(max, (*kept, *kept_dev))]), LENGTH_MULTIPLE),
        widths=widths,
        scored_widths=scored_widths,
        groups=frozenset(group for micro in trained for group in _groups(micro)),
        scored_groups=frozenset(group for micro in scored for group in _groups(micro)),
    )


def _within(examples: Lengths, limit: int) -> list[tuple[int, ...]]:
    """Examples none of whose rows is longer than the limit, as tuples of their rows' tokens."""
    as_rows = [(example,) if isinstance(example, int) else example for example in examples]
    return [rows for rows in as_rows if max(rows) <= limit]


def _share(examples: Sequence[tuple[int, ...]], cut: tuple[int, int]) -> list[list[int]]:
    """Read tokens of every row of every micro-batch of one step, shortest first: a row's last token is not read."""
    lengths = [length for example in examples for length in example]
    workers = max(1, min(cut[0], sum(lengths) // MIN_WORKER_TOKENS))
    together = len(examples[0])
    parts = split_rows(lengths, num_workers=workers, micro_tokens=cut[1], rows_together=together)
    return [sorted(max(1, lengths[row] - 1) for row in part) for part in parts]


def _width(micro: Sequence[int]) -> int:
    """Tokens of a micro-batch, filled up."""
    return _filled(sum(micro), TOKEN_MULTIPLE)


def _groups(micro: Sequence[int]) -> list[tuple[int, int]]:
    """(rows, padded length) of its attention groups; the last row of each is its longest."""
    found, end = [], 0
    for num_rows in group_sizes(micro):
        end += num_rows
        found.append((num_rows, _filled(micro[end - 1], LENGTH_MULTIPLE)))
    return found


def _filled(count: int, multiple: int) -> int:
    return count + -count % multiple
