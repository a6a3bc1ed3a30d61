"""The rows being decoded as the compact block keeps them: slots, shared prefixes, and one forward a step.

`Rows` is what the decoder asks of any forward; `metier.engine.module_rows` answers with transformers' own modules.

Shapes: B active rows, N tokens of one row, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from metier.engine.cache import KvCache, Trunk
from metier.engine.decode_forward import (
    NewRow,
    StepPlan,
    TrunkRows,
    decode_rows,
    decode_run,
    fill_trunk,
    prefill_rows,
)
from metier.engine.decode_model import DecodeModel
from metier.engine.decode_plan import shared_length
from metier.engine.sampling import SamplingParams

__all__ = ["CompactRows", "Row", "Rows", "Scores", "rounded"]

CAPACITY_STEP = 32
"""Slots grow by this many positions."""


@dataclass(slots=True, eq=False)
class Row:
    """One request on its way."""

    id: int
    tail: list[int]
    """Prompt tokens after the trunk."""
    params: SamplingParams
    max_new: int
    trunk: Trunk | None
    draw: np.random.Generator | None
    num_copied: int = 0
    """Positions of the trunk that are copied in front of its own; 0 where the trunk is read in place."""
    slot: int = -1
    num_own: int = 0
    """Positions written in its slot."""
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    started_s: float = 0.0

    @property
    def need(self) -> int:
        """Positions its slot must hold."""
        return self.num_copied + len(self.tail) + self.max_new

    @property
    def read_trunk(self) -> Trunk | None:
        """The trunk a decode step reads beside the row's slot."""
        return None if self.num_copied else self.trunk


class Scores(NamedTuple):
    """What a token is chosen from, a line for each row."""

    logit_BV: Tensor
    hidden_BD: Tensor
    head_VD: Tensor
    """Logits are hidden states times this; read where bf16 logits do not tell the best tokens apart."""


class Rows(Protocol):
    """The active rows in the memory of one forward; row i of the batch has slot i."""

    @property
    def can_share(self) -> bool:
        """Whether a prefix is computed once for several rows."""
        ...

    @property
    def can_guess(self) -> bool:
        """Whether several tokens of a row that is alone are read in one step."""
        ...

    def enter(self, staying: Sequence[Row], entering: Sequence[Row], trunks: Sequence[Trunk]) -> Scores:
        """Read the prompts of rows that come behind the active ones; scores of their first tokens."""
        ...

    def advance(self, rows: Sequence[Row]) -> Scores:
        """Feed every row its last token."""
        ...

    def advance_alone(self, row: Row, guess: Sequence[int]) -> Scores:
        """Feed the only row its last token and a guess of those after it: a line for each."""
        ...

    def leave(self, row: Row, last: Row) -> None:
        """Free a row's slot; the last active row moves into it."""
        ...


class CompactRows:
    """Rows of the compact block."""

    can_share = True
    can_guess = True

    def __init__(self, model: DecodeModel, *, max_batch: int, max_tokens_total: int) -> None:
        self.model, self.device = model, model.weights.embed_VD.device
        self.max_batch, self.max_tokens_total = max_batch, max_tokens_total
        self.cache = KvCache(model.weights.shape, model.dtype, self.device)
        self.plan: StepPlan | None = None

    def enter(self, staying: Sequence[Row], entering: Sequence[Row], trunks: Sequence[Trunk]) -> Scores:
        """Find room, compute what is shared, and read the prompts."""
        self._make_room(staying, entering)
        for row in entering:
            if row.trunk is not None and not row.trunk.is_ready:
                self._fill(row.trunk, trunks)
            if row.trunk is not None and row.num_copied:
                self.cache.copy_in(row.trunk, row.slot)
        self.plan = None
        new = [NewRow(row.tail, row.trunk, row.slot, row.num_copied) for row in entering]
        return self._scores(prefill_rows(self.model, self.cache, new))

    def advance(self, rows: Sequence[Row]) -> Scores:
        """One token further for all rows."""
        if self.plan is None:
            self.plan = self._new_plan(rows)
        token_B = torch.tensor([row.tokens[-1] for row in rows], device=self.device)
        own_B = torch.tensor([row.num_own for row in rows], device=self.device)
        return self._scores(decode_rows(self.model, self.cache, self.plan, token_B, own_B))

    def advance_alone(self, row: Row, guess: Sequence[int]) -> Scores:
        """Several tokens of the only row."""
        token_N = torch.tensor([row.tokens[-1], *guess], device=self.device)
        return self._scores(decode_run(self.model, self.cache, token_N, row.num_own))

    def leave(self, row: Row, last: Row) -> None:
        """Move the last row's keys and values."""
        if last is not row:
            self.cache.move(last.slot, row.slot, last.num_own)
        self.plan = None

    def _scores(self, hidden_BD: Tensor) -> Scores:
        return Scores(self.model.logits(hidden_BD), hidden_BD, self.model.weights.head_VD)

    def _make_room(self, staying: Sequence[Row], entering: Sequence[Row]) -> None:
        """Slots long and many enough; shrunk when the rows left need half of it or less."""
        capacity = rounded(max(row.need for row in [*staying, *entering]))
        num_rows = len(staying) + len(entering)
        is_small = capacity > self.cache.capacity or num_rows > self.cache.slots
        if not is_small and 2 * capacity > self.cache.capacity:
            return
        capacity = max(capacity, self.cache.capacity) if is_small and staying else capacity
        if num_rows * capacity > self.max_tokens_total:
            capacity = rounded(max(row.need for row in [*staying, *entering]))
        slots = max(num_rows, min(self.max_batch, self.max_tokens_total // capacity))
        num_used = max((row.num_own for row in staying), default=0)
        self.cache.resize(slots, capacity, num_active=len(staying), num_used=num_used)

    def _fill(self, trunk: Trunk, trunks: Sequence[Trunk]) -> None:
        """Compute a trunk, from the longest beginning that another one already holds."""
        ready = [(shared_length(trunk.tokens, other.tokens), other) for other in trunks if other.is_ready]
        num_shared, parent = max(ready, key=lambda pair: pair[0], default=(0, None))
        fill_trunk(self.model, trunk, parent, num_shared)

    def _new_plan(self, rows: Sequence[Row]) -> StepPlan:
        """Which rows read which trunk."""
        slots_by_trunk: dict[int, tuple[Trunk, list[int]]] = {}
        for row in rows:
            if row.read_trunk is not None:
                slots_by_trunk.setdefault(id(row.trunk), (row.read_trunk, []))[1].append(row.slot)
        starts = [row.read_trunk.length if row.read_trunk else 0 for row in rows]
        trunks = []
        for trunk, slots in slots_by_trunk.values():
            is_all = len(slots) == len(rows)
            trunks.append(TrunkRows(trunk, None if is_all else torch.tensor(slots, device=self.device)))
        return StepPlan(trunks, torch.tensor(starts, device=self.device), max(starts))


def rounded(num_positions: int) -> int:
    """The next multiple of the capacity step."""
    return -(-num_positions // CAPACITY_STEP) * CAPACITY_STEP
