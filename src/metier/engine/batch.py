"""Batches that are planned, not padded: which rows make a step, and how a step is shared among workers.

A step is about `step_tokens` real tokens of randomly drawn rows. Inside, rows lie end to end, so the
wide products never see padding; only attention pads, within groups of rows of similar length.

Shapes: T tokens of all rows, R rows (+1 for ends), N input tokens of one micro-batch, M trained ones,
both filled up; P trained ones without the filling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metier.core.errors import DataError

__all__ = ["Batch", "MicroBatch", "check_row", "make_batch", "micro_batch", "plan_steps", "split_rows"]

ATTENTION_COST_TOKENS = 4000
"""Row length at which attention costs as much as all products of a 135M model (measured, docs/tune.md)."""


TOKEN_MULTIPLE, LENGTH_MULTIPLE = 32, 16
"""Packed tokens and attention lengths are rounded up to these: for every new shape a CPU product is compiled anew,
which takes 1-5 ms and keeps .6 MB (measured), and no two steps would share a shape."""


class TokenRow(Protocol):
    """A rendered row: what `metier.render` makes of a row."""

    @property
    def row_id(self) -> str:
        """Id of the row, for messages."""
        ...

    @property
    def tokens(self) -> Sequence[int]:
        """All tokens, prompt and reply."""
        ...

    @property
    def weight(self) -> Sequence[float]:
        """Weight of predicting each token from those before it; 0 where not trained."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows end to end, as the verbs take them."""

    tokens_T: Tensor
    """int64."""
    weight_T: Tensor
    """fp32; weight of predicting token t from the tokens of its row before it."""
    row_start_R: tuple[int, ...]
    """First token of every row, and the end of the last."""
    row_id_R: tuple[str, ...]

    @property
    def position_T(self) -> Tensor:
        """Place of every token within its row, from 0."""
        spans = zip(self.row_start_R, self.row_start_R[1:], strict=False)
        return torch.cat([torch.arange(stop - start) for start, stop in spans])

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding never counted because there is none."""
        return self.row_start_R[-1]

    @property
    def total_weight(self) -> float:
        """Sum of the trained weights, what the loss of a step is divided by."""
        return float(self.weight_T.sum(dtype=torch.float64))


def make_batch(rows: Sequence[TokenRow]) -> Batch:
    """The batch of rendered rows, in their order.

    Raises:
        DataError: no rows, or one that nothing could be learned from (`check_row`).
    """
    if not rows:
        raise DataError("batch: no rows; expected at least one rendered row.")
    starts = [0]
    for row in rows:
        check_row(row)
        starts.append(starts[-1] + len(row.tokens))
    return Batch(
        tokens_T=torch.tensor([token for row in rows for token in row.tokens], dtype=torch.int64),
        weight_T=torch.tensor([weight for row in rows for weight in row.weight], dtype=torch.float32),
        row_start_R=tuple(starts),
        row_id_R=tuple(row.row_id for row in rows),
    )


def check_row(row: TokenRow) -> None:
    """Check that something can be learned from a row.

    Raises:
        DataError: another number of weights than tokens, a weight that is negative or not finite, or no trained
            token after the first.
    """
    if len(row.tokens) != len(row.weight):
        counts = f"{len(row.tokens)} tokens but {len(row.weight)} weights"
        raise DataError(f"row {row.row_id}: {counts}; render it again.")
    wrong = next((place for place, value in enumerate(row.weight) if not 0 <= value < float("inf")), None)
    if wrong is not None:
        raise DataError(
            f"row {row.row_id}: the weight of token {wrong} is {row.weight[wrong]}; expected a finite "
            "number, 0 or more. Render the row again."
        )
    if not any(row.weight[1:]):
        raise DataError(
            f"row {row.row_id}: no trained token among {len(row.tokens)}; expected at least one. Drop the row or "
            "give it a reply."
        )


def plan_steps(lengths: Sequence[int], *, step_tokens: int, rng: np.random.Generator) -> list[list[int]]:
    """Row indices of every step of one pass: each row once, each step about `step_tokens` tokens.

    The order is drawn from `rng`; the cuts are even, so there is no short last step, and steps differ by
    at most about one row.
    """
    order = rng.permutation(len(lengths))
    if not len(order):
        return []
    length_N = np.asarray(lengths, dtype=np.int64)[order]
    num_steps = max(1, round(int(length_N.sum()) / step_tokens))
    middle_N = np.cumsum(length_N) - length_N / 2
    step_N = np.minimum((middle_N * num_steps / length_N.sum()).astype(np.int64), num_steps - 1)
    steps = [order[step_N == step].tolist() for step in range(num_steps)]
    return [step for step in steps if step]


def split_rows(
    lengths: Sequence[int], *, num_workers: int, micro_tokens: int, rows_together: int = 1
) -> list[list[int]]:
    """Share the rows of one step among micro-batches of about equal cost, each at most about `micro_tokens`.

    A multiple of `num_workers` micro-batches where there are rows enough; a pure function of the lengths. Each
    `rows_together` consecutive rows share one.
    """
    groups = [range(first, first + rows_together) for first in range(0, len(lengths), rows_together)]
    length = [sum(lengths[i] for i in group) for group in groups]
    cost = [sum(lengths[i] * (1 + lengths[i] / ATTENTION_COST_TOKENS) for i in group) for group in groups]
    rounds = max(1, -(-sum(lengths) // (num_workers * micro_tokens)))
    num_bins = min(len(groups), num_workers * rounds)
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    load = [0.0] * num_bins
    for g in sorted(range(len(groups)), key=lambda g: (-length[g], g)):
        lightest = min(range(num_bins), key=lambda b: (load[b], b))
        bins[lightest] += groups[g]
        load[lightest] += cost[g]
    return bins


class Group(NamedTuple):
    """Neighbouring rows of similar length, padded to one length for attention only."""

    start: int
    """First input token."""
    stop: int
    rows: int
    length: int
    """Longest row of the group, rounded up."""
    pad_from: Tensor | None
    """(rows * length) input token, counted from `start`, at each padded place; None without padding."""
    pads: Tensor | None
    """Padded places that are padding."""
    real: Tensor | None
    """Padded place of every input token of the group."""
    lengths: tuple[int, ...] = ()
    """Input tokens of each row; in the padded layout all of one length."""


class MicroBatch(NamedTuple):
    """What one worker computes at a time. Tokens after a row's last trained one are left out: no loss sees them."""

    rows: tuple[int, ...]
    """Indices into the batch, shortest first."""
    row_at: tuple[int, ...]
    """First input token of each."""
    lengths: tuple[int, ...]
    """Input tokens of each, padding not counted."""
    num_inputs: int
    """Tokens of the rows and their padding; `input_N` is filled up with tokens that no row has and no loss sees."""
    input_N: Tensor
    groups: tuple[Group, ...]
    select_M: Tensor
    """Input tokens whose next token is trained, filled up with the first input."""
    target_M: Tensor
    weight_M: Tensor
    """0 where filled up."""
    place_P: Tensor
    """Where each target stands in the batch; the filled-up ones are left out."""
    states_ND: Tensor | None = None
    """What enters the first adapted layer, where it is known; the layers below are not computed then."""


def micro_batch(
    batch: Batch,
    rows: Sequence[int],
    *,
    device: str | torch.device = "cpu",
    skip: int = 0,
    padded: bool = False,
    grouped: bool = True,
    fill_to: int = TOKEN_MULTIPLE,
) -> MicroBatch:
    """Lay some rows of a batch out for one worker, each without its first `skip` tokens.

    Packed, rows lie end to end; padded, those of a group have one length, so that attention gathers nothing. Not
    `grouped`, every row is a group of its own. The input tokens are filled up to a multiple of `fill_to`.
    """
    start_R, weight_T = batch.row_start_R, batch.weight_T.numpy()
    last = {r: last_input(weight_T[start_R[r] : start_R[r + 1]]) for r in rows}
    order = sorted(rows, key=lambda r: (last[r], r))
    lengths = [last[r] - skip for r in order]
    groups = _groups(lengths, device, padded, sizes=group_sizes(lengths) if grouped else [1] * len(lengths))
    row_at = _row_starts(lengths, groups, padded)
    num_inputs = groups[-1].stop
    place_N = np.full(num_inputs, -1)
    for r, at, length in zip(order, row_at, lengths, strict=True):
        place_N[at : at + length] = np.arange(start_R[r] + skip, start_R[r] + last[r])
    select_P = np.flatnonzero((place_N >= 0) & (weight_T[place_N + 1] != 0))
    place_P = torch.from_numpy(place_N[select_P] + 1)
    return MicroBatch(
        rows=tuple(order),
        row_at=row_at,
        lengths=tuple(lengths),
        num_inputs=num_inputs,
        input_N=_filled(batch.tokens_T[torch.from_numpy(place_N.clip(0))], fill_to).to(device),
        groups=groups,
        select_M=_filled(torch.from_numpy(select_P)).to(device),
        target_M=_filled(batch.tokens_T[place_P]).to(device),
        weight_M=_filled(batch.weight_T[place_P]).to(device),
        place_P=place_P,
    )


def prefix_batch(tokens: Sequence[int], *, device: str | torch.device = "cpu") -> MicroBatch:
    """Tokens that are only read: one row without a trained place."""
    none = torch.zeros(0, dtype=torch.int64)
    return MicroBatch(
        rows=(0,),
        row_at=(0,),
        lengths=(len(tokens),),
        num_inputs=len(tokens),
        input_N=_filled(torch.tensor(tokens, dtype=torch.int64)).to(device),
        groups=_groups([len(tokens)], device, padded=False, sizes=[1]),
        select_M=none,
        target_M=none,
        weight_M=none.float(),
        place_P=none,
    )


def last_input(weight_T: Sequence[float] | npt.NDArray[np.float32]) -> int:
    """How many tokens of a row are read: those before its last trained one."""
    return int(np.flatnonzero(np.asarray(weight_T)[1:])[-1]) + 1


def _row_starts(lengths: Sequence[int], groups: Sequence[Group], padded: bool) -> tuple[int, ...]:
    """First input token of every row."""
    if not padded:
        return tuple(np.cumsum([0, *lengths[:-1]]).tolist())
    return tuple(group.start + i * group.length for group in groups for i in range(group.rows))


def _filled(tensor: Tensor, multiple: int = TOKEN_MULTIPLE) -> Tensor:
    """The tensor with zeros at its end, up to a multiple."""
    return torch.nn.functional.pad(tensor, (0, -len(tensor) % multiple))


def _groups(
    lengths: Sequence[int], device: str | torch.device, padded: bool, *, sizes: Sequence[int]
) -> tuple[Group, ...]:
    """Attention groups of so many rows each."""
    groups: list[Group] = []
    at, first = 0, 0
    for num_rows in sizes:
        groups.append(_group(at, lengths[first : first + num_rows], device, padded))
        at, first = groups[-1].stop, first + num_rows
    return tuple(groups)


def group_sizes(lengths: Sequence[int]) -> list[int]:
    """How many of rows sorted by length each attention group takes: it ends where padding would pass a fifth."""
    sizes: list[int] = []
    first = 0
    while first < len(lengths):
        end = first + 1
        while end < len(lengths) and lengths[end] * (end + 1 - first) * 0.8 <= sum(lengths[first : end + 1]):
            end += 1
        sizes.append(end - first)
        first = end
    return sizes


def _group(start: int, lengths: Sequence[int], device: str | torch.device, padded: bool) -> Group:
    length, total = max(lengths) + -max(lengths) % LENGTH_MULTIPLE, sum(lengths)
    stop = start + (length * len(lengths) if padded else total)
    place_of = (start, stop, len(lengths), length)
    if stop - start == length * len(lengths):
        return Group(*place_of, None, None, None, (length,) * len(lengths))
    offsets = np.cumsum([0, *lengths[:-1]])
    place = np.arange(length)[None, :]
    length_B1 = np.asarray(lengths)[:, None]
    is_real = (place < length_B1).ravel()
    pad_from = (offsets[:, None] + np.minimum(place, length_B1 - 1)).ravel()
    places = (pad_from, np.flatnonzero(~is_real), np.flatnonzero(is_real))
    padded_from, pads, real = (torch.from_numpy(place).to(device) for place in places)
    return Group(*place_of, padded_from, pads, real, tuple(lengths))
