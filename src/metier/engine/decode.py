"""The one decoder: continuous batching over one loaded model.

    >>> for index, sample in metier.engine.sample(handle, prompts, params):  # doctest: +SKIP
    ...     replies[index] = renderer.parse(sample.tokens)

Rows that finish leave the batch and waiting ones enter; a prefix that prompts share is computed once and read
by all. Who is decoded beside whom follows from the requests and the replies alone, never from a clock.
`sample` loops on `Decoder.step`; a server drives `step` itself. No state outlives the process.

Shapes: B active rows, D model width.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metier.core.errors import ConfigError, DataError
from metier.core.seeds import derived_seed
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
from metier.engine.decode_plan import entry_order, shared_length, shared_prefixes
from metier.engine.draft import Drafts
from metier.engine.handle import Handle
from metier.engine.sampling import Request, Sample, SamplingParams, choose_tokens, request_generator

__all__ = ["Decoder", "Event", "sample"]

MAX_BATCH = 64
"""Rows at once: on a CPU products are near their top speed from here on."""
MAX_TOKENS_TOTAL = 32768
"""Positions of all slots together; 1.1 GB for SmolLM2-135M in bf16."""
PREFILL_TOKENS = 512
"""Prompt tokens read at once (a longer prompt is read alone)."""
CAPACITY_STEP = 32
"""Slots grow by this many positions."""


@dataclass(frozen=True, slots=True)
class Event:
    """One token of one request; `finished` comes with its last."""

    id: int
    token: int
    finished: Sample | None


@dataclass(slots=True, eq=False)
class _Row:
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


class Decoder:
    """Answers requests in a shared batch; the adapter is the handle's as it was when the decoder was made."""

    def __init__(
        self,
        handle: Handle,
        *,
        max_batch: int = MAX_BATCH,
        max_tokens_total: int = MAX_TOKENS_TOTAL,
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        if max_batch < 1 or prefill_tokens < 1:
            raise ConfigError(f"max_batch is {max_batch}, prefill_tokens {prefill_tokens}; expected 1 or more.")
        self.max_batch, self.max_tokens_total, self.prefill_tokens = max_batch, max_tokens_total, prefill_tokens
        self._shape, self._threads, self._next_id = handle.shape, handle.threads, 0
        self._device = handle.weights.embed_VD.device
        self._model = DecodeModel.from_weights(handle.weights, handle.adapter, dtype=handle.dtype)
        self._cache = KvCache(handle.shape, handle.dtype, self._device)
        self._waiting: deque[_Row] = deque()
        self._active: list[_Row] = []
        self._trunks: list[Trunk] = []
        self._plan: StepPlan | None = None
        self._drafts = Drafts() if max_batch == 1 else None

    @property
    def num_active(self) -> int:
        """Rows in the batch."""
        return len(self._active)

    @property
    def num_waiting(self) -> int:
        """Rows not yet in the batch."""
        return len(self._waiting)

    def share_prefix(self, tokens: Sequence[int], *, keep: bool = False) -> None:
        """Compute this prefix once for all later requests that begin with it.

        With `keep` it stays in memory when its last row is done (a server's instruction).
        """
        if tokens:
            self._trunks.append(Trunk(tuple(tokens), keep=keep))

    def add(self, request: Request) -> int:
        """Queue a request; its id is in its events.

        Raises:
            DataError: an empty prompt, a token outside the vocabulary, or no room for one more token.
        """
        prompt, params = list(request.prompt_tokens), request.params
        self._check(prompt, "this request")
        room = min(self._shape.max_positions, self.max_tokens_total) - len(prompt)
        trunk = self._trunk_of(prompt)
        start = trunk.length if trunk else 0
        if trunk:
            trunk.num_users += 1
        row = _Row(
            self._next_id, prompt[start:], params, min(params.max_tokens, room), trunk, request_generator(request)
        )
        if self.max_batch == 1:  # nobody to share with: one product over one piece of memory beats two
            row.num_copied = start
        self._next_id += 1
        self._waiting.append(row)
        return row.id

    def cancel(self, id: int) -> bool:  # noqa: A002  # the name of the contract
        """Forget a request; False when it is done or unknown. In fp32 the other rows' replies do not change."""
        for row in self._waiting:
            if row.id == id:
                self._waiting.remove(row)
                self._release(row)
                return True
        for row in self._active:
            if row.id == id:
                with torch.inference_mode():
                    self._leave(row)
                return True
        return False

    def step(self) -> list[Event]:
        """One token further for every row: the events of the step, [] when nothing is left.

        Waiting rows are read first when there is room; they get their first token in this step and
        take part in the next. A row that is decoded alone may come several tokens further.
        """
        threads = torch.get_num_threads()
        if threads != self._threads:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                entering = self._entering()
                if entering:
                    return self._enter(entering)
                return self._advance() if self._active else []
        finally:
            if threads != self._threads:
                torch.set_num_threads(threads)

    def _check(self, prompt: Sequence[int], name: str) -> None:
        """Raise `DataError` unless the prompt can be answered."""
        limit = min(self._shape.max_positions, self.max_tokens_total)
        if not prompt:
            raise DataError(f"{name} has no tokens; expected at least one.")
        if len(prompt) >= limit:
            raise DataError(
                f"{name} has {len(prompt)} tokens; at most {limit - 1} leave room for a reply "
                f"(the model reads {self._shape.max_positions} positions, the decoder holds {self.max_tokens_total}). "
                "Shorten the prompt."
            )
        low, high = min(prompt), max(prompt)
        if low < 0 or high >= self._shape.vocab:
            bad = low if low < 0 else high
            raise DataError(
                f"{name} has token {bad}; expected 0 to {self._shape.vocab - 1}. Use the tokenizer of this model."
            )

    def _trunk_of(self, prompt: list[int]) -> Trunk | None:
        """The longest registered prefix that leaves at least one token to read."""
        fits = [t for t in self._trunks if t.length < len(prompt) and tuple(prompt[: t.length]) == t.tokens]
        return max(fits, key=lambda trunk: trunk.length, default=None)

    def _entering(self) -> list[_Row]:
        """The waiting rows that enter now; [] to decode first.

        Rows are read together so that products are wide: either the batch of prompts is half full, or
        everything that waits fits, or nothing is being decoded.
        """
        chosen: list[_Row] = []
        need = max((row.need for row in self._active), default=0)
        num_tokens = 0
        for row in self._waiting:
            need = max(need, row.need)
            num_rows = len(self._active) + len(chosen) + 1
            is_room = num_rows <= self.max_batch and num_rows * _rounded(need) <= self.max_tokens_total
            is_first = num_rows == 1
            is_full = bool(chosen) and num_tokens + len(row.tail) > self.prefill_tokens
            if is_full or not (is_first or is_room):
                break
            chosen.append(row)
            num_tokens += len(row.tail)
        is_all = len(chosen) == len(self._waiting)
        is_wide = 2 * num_tokens >= self.prefill_tokens or len(chosen) * 8 >= self.max_batch
        return chosen if is_all or is_wide or not self._active else []

    def _enter(self, entering: list[_Row]) -> list[Event]:
        """Read the prompts of rows into free slots and choose their first tokens."""
        now = time.perf_counter()
        self._make_room(entering)
        for row in entering:
            self._waiting.popleft()
            row.slot, row.started_s, row.num_own = len(self._active), now, row.num_copied + len(row.tail)
            self._active.append(row)
            if row.trunk is not None and not row.trunk.is_ready:
                self._fill(row.trunk)
            if row.trunk is not None and row.num_copied:
                self._cache.copy_in(row.trunk, row.slot)
            if self._drafts is not None:
                self._drafts.begin([*(row.trunk.tokens if row.trunk else ()), *row.tail])
        self._plan = None
        new = [NewRow(row.tail, row.trunk, row.slot, row.num_copied) for row in entering]
        return self._choose(entering, prefill_rows(self._model, self._cache, new))

    def _advance(self) -> list[Event]:
        """Feed each row its last token and choose the next."""
        rows = list(self._active)
        if self._drafts is not None and rows[0].params.temperature == 0:  # alone and greedy
            guess = self._drafts.guess(rows[0].max_new - len(rows[0].tokens) - 1)
            if guess:
                return self._advance_alone(rows[0], guess)
        if self._plan is None:
            self._plan = self._new_plan()
        token_B = torch.tensor([row.tokens[-1] for row in rows], device=self._device)
        own_B = torch.tensor([row.num_own for row in rows], device=self._device)
        hidden_BD = decode_rows(self._model, self._cache, self._plan, token_B, own_B)
        for row in rows:
            row.num_own += 1
        return self._choose(rows, hidden_BD)

    def _choose(self, rows: list[_Row], hidden_BD: Tensor) -> list[Event]:
        """The next token of each row; finished rows leave."""
        logit_BV = self._model.logits(hidden_BD)
        head_VD = self._model.weights.head_VD
        temperatures, draws = [row.params.temperature for row in rows], [row.draw for row in rows]
        chosen = choose_tokens(logit_BV, hidden_BD, head_VD, temperatures, draws)
        events = [self._take(*each) for each in zip(rows, chosen.token_B, chosen.logprob_B, strict=True)]
        for row, event in zip(rows, events, strict=True):
            if event.finished is not None:
                self._leave(row)
        return events

    def _take(self, row: _Row, token: int, logprob: float) -> Event:
        """Add a chosen token to its row; it does not leave here."""
        row.tokens.append(token)
        row.logprob += logprob
        if self._drafts is not None:
            self._drafts.add(token)
        is_stop = token in row.params.stop_ids
        done = None
        if is_stop or len(row.tokens) >= row.max_new:
            seconds = time.perf_counter() - row.started_s
            done = Sample(tuple(row.tokens), row.logprob, "stop" if is_stop else "length", seconds)
        return Event(row.id, token, done)

    def _advance_alone(self, row: _Row, guess: list[int]) -> list[Event]:
        """Feed the last token and the guess; as many tokens are taken as the model itself chooses."""
        token_N = torch.tensor([row.tokens[-1], *guess], device=self._device)
        hidden_ND = decode_run(self._model, self._cache, token_N, row.num_own)
        head_VD, num = self._model.weights.head_VD, len(token_N)
        chosen = choose_tokens(self._model.logits(hidden_ND), hidden_ND, head_VD, [0.0] * num, [None] * num)
        events: list[Event] = []
        for token, logprob, guessed in zip(chosen.token_B, chosen.logprob_B, [*guess, None], strict=True):
            row.num_own += 1
            events.append(self._take(row, token, logprob))
            if events[-1].finished is not None or token != guessed:
                break
        if events[-1].finished is not None:
            self._leave(row)
        return events

    def _leave(self, row: _Row) -> None:
        """Free the row's slot; the last row moves into it."""
        last = self._active.pop()
        if last is not row:
            self._cache.move(last.slot, row.slot, last.num_own)
            last.slot = row.slot
            self._active[row.slot] = last
        self._plan = None
        self._release(row)

    def _release(self, row: _Row) -> None:
        """One user less for the row's trunk, which goes with its last."""
        if row.trunk is None:
            return
        row.trunk.num_users -= 1
        if row.trunk.num_users == 0 and not row.trunk.keep:
            row.trunk.drop()
            self._trunks.remove(row.trunk)

    def _make_room(self, entering: list[_Row]) -> None:
        """Slots long and many enough; shrunk when the rows left need half of it or less."""
        capacity = _rounded(max(row.need for row in [*self._active, *entering]))
        num_rows = len(self._active) + len(entering)
        is_small = capacity > self._cache.capacity or num_rows > self._cache.slots
        if not is_small and 2 * capacity > self._cache.capacity:
            return
        capacity = max(capacity, self._cache.capacity) if is_small and self._active else capacity
        if num_rows * capacity > self.max_tokens_total:
            capacity = _rounded(max(row.need for row in [*self._active, *entering]))
        slots = max(num_rows, min(self.max_batch, self.max_tokens_total // capacity))
        num_used = max((row.num_own for row in self._active), default=0)
        self._cache.resize(slots, capacity, num_active=len(self._active), num_used=num_used)

    def _fill(self, trunk: Trunk) -> None:
        """Compute a trunk, from the longest beginning that another one already holds."""
        ready = [(shared_length(trunk.tokens, other.tokens), other) for other in self._trunks if other.is_ready]
        num_shared, parent = max(ready, key=lambda pair: pair[0], default=(0, None))
        fill_trunk(self._model, trunk, parent, num_shared)

    def _new_plan(self) -> StepPlan:
        """Which rows read which trunk."""
        slots_by_trunk: dict[int, tuple[Trunk, list[int]]] = {}
        for row in self._active:
            if row.read_trunk is not None:
                slots_by_trunk.setdefault(id(row.trunk), (row.read_trunk, []))[1].append(row.slot)
        starts = [row.read_trunk.length if row.read_trunk else 0 for row in self._active]
        trunks = []
        for trunk, slots in slots_by_trunk.values():
            is_all = len(slots) == len(self._active)
            trunks.append(TrunkRows(trunk, None if is_all else torch.tensor(slots, device=self._device)))
        return StepPlan(trunks, torch.tensor(starts, device=self._device), max(starts))


def _rounded(num_positions: int) -> int:
    """The next multiple of the capacity step."""
    return -(-num_positions // CAPACITY_STEP) * CAPACITY_STEP


def sample(handle: Handle, prompts: Sequence[Sequence[int]], params: SamplingParams) -> Iterator[tuple[int, Sample]]:
    """Replies as they finish, each with the position of its prompt.

    The order of finishing and every reply follow from the prompts, the parameters and the model.

    Raises:
        DataError: a prompt is empty, too long, or not of this model's vocabulary; before anything is decoded.
    """
    decoder = Decoder(handle, max_batch=max(1, min(params.max_batch or MAX_BATCH, len(prompts))))
    for i, prompt in enumerate(prompts):
        decoder._check(prompt, f"prompt {i}")
    return _drain(decoder, prompts, params)


def _drain(decoder: Decoder, prompts: Sequence[Sequence[int]], params: SamplingParams) -> Iterator[tuple[int, Sample]]:
    """Add all prompts in their order of entering, then step until nothing is left."""
    groups = shared_prefixes(prompts)
    for group in groups:
        decoder.share_prefix(group.prefix)
    index_by_id: dict[int, int] = {}
    for i in entry_order(prompts, groups):
        request = Request(prompts[i], params, seed=derived_seed(params.seed, "sample", i))
        index_by_id[decoder.add(request)] = i
    while decoder.num_active or decoder.num_waiting:
        for event in decoder.step():
            if event.finished is not None:
                yield index_by_id.pop(event.id), event.finished
