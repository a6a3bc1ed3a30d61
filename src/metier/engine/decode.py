"""The one decoder: continuous batching over one loaded model.

    >>> for index, sample in metier.engine.sample(handle, prompts, params):  # doctest: +SKIP
    ...     replies[index] = renderer.parse(sample.tokens)

Rows that finish leave the batch and waiting ones enter; a prefix that prompts share is computed once and read
by all. Who is decoded beside whom follows from the requests and the replies alone, never from a clock.
`sample` loops on `Decoder.step`; a server drives `step` itself. No state outlives the process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from metier.core.errors import ConfigError, DataError
from metier.core.seeds import derived_seed
from metier.engine.cache import Trunk
from metier.engine.decode_plan import entry_order, shared_prefixes
from metier.engine.decode_rows import Row, Scores, rounded
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


@dataclass(frozen=True, slots=True)
class Event:
    """One token of one request; `finished` comes with its last."""

    id: int
    token: int
    finished: Sample | None


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
        self._forward = handle.backend.rows(handle.adapter, max_batch=max_batch, max_tokens_total=max_tokens_total)
        self._waiting: deque[Row] = deque()
        self._active: list[Row] = []
        self._trunks: list[Trunk] = []
        self._drafts = Drafts() if max_batch == 1 and self._forward.can_guess else None

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
        if tokens and self._forward.can_share:
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
        row = Row(
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

    def _entering(self) -> list[Row]:
        """The waiting rows that enter now; [] to decode first.

        Rows are read together so that products are wide: either the batch of prompts is half full, or
        everything that waits fits, or nothing is being decoded.
        """
        chosen: list[Row] = []
        need = max((row.need for row in self._active), default=0)
        num_tokens = 0
        for row in self._waiting:
            need = max(need, row.need)
            num_rows = len(self._active) + len(chosen) + 1
            is_room = num_rows <= self.max_batch and num_rows * rounded(need) <= self.max_tokens_total
            is_first = num_rows == 1
            is_full = bool(chosen) and num_tokens + len(row.tail) > self.prefill_tokens
            if is_full or not (is_first or is_room):
                break
            chosen.append(row)
            num_tokens += len(row.tail)
        is_all = len(chosen) == len(self._waiting)
        is_wide = 2 * num_tokens >= self.prefill_tokens or len(chosen) * 8 >= self.max_batch
        return chosen if is_all or is_wide or not self._active else []

    def _enter(self, entering: list[Row]) -> list[Event]:
        """Read the prompts of rows into free slots and choose their first tokens."""
        now = time.perf_counter()
        staying = list(self._active)
        for row in entering:
            self._waiting.popleft()
            row.slot, row.started_s, row.num_own = len(self._active), now, row.num_copied + len(row.tail)
            self._active.append(row)
            if self._drafts is not None:
                self._drafts.begin([*(row.trunk.tokens if row.trunk else ()), *row.tail])
        return self._choose(entering, self._forward.enter(staying, entering, self._trunks))

    def _advance(self) -> list[Event]:
        """Feed each row its last token and choose the next."""
        rows = list(self._active)
        if self._drafts is not None and rows[0].params.temperature == 0:  # alone and greedy
            guess = self._drafts.guess(rows[0].max_new - len(rows[0].tokens) - 1)
            if guess:
                return self._advance_alone(rows[0], guess)
        scores = self._forward.advance(rows)
        for row in rows:
            row.num_own += 1
        return self._choose(rows, scores)

    def _choose(self, rows: list[Row], scores: Scores) -> list[Event]:
        """The next token of each row; finished rows leave."""
        temperatures, draws = [row.params.temperature for row in rows], [row.draw for row in rows]
        chosen = choose_tokens(*scores, temperatures, draws)
        events = [self._take(*each) for each in zip(rows, chosen.token_B, chosen.logprob_B, strict=True)]
        for row, event in zip(rows, events, strict=True):
            if event.finished is not None:
                self._leave(row)
        return events

    def _take(self, row: Row, token: int, logprob: float) -> Event:
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

    def _advance_alone(self, row: Row, guess: list[int]) -> list[Event]:
        """Feed the last token and the guess; as many tokens are taken as the model itself chooses."""
        scores, num = self._forward.advance_alone(row, guess), 1 + len(guess)
        chosen = choose_tokens(*scores, [0.0] * num, [None] * num)
        events: list[Event] = []
        for token, logprob, guessed in zip(chosen.token_B, chosen.logprob_B, [*guess, None], strict=True):
            row.num_own += 1
            events.append(self._take(row, token, logprob))
            if events[-1].finished is not None or token != guessed:
                break
        if events[-1].finished is not None:
            self._leave(row)
        return events

    def _leave(self, row: Row) -> None:
        """Free the row's slot; the last row moves into it."""
        last = self._active.pop()
        self._forward.leave(row, last)
        if last is not row:
            last.slot = row.slot
            self._active[row.slot] = last
        self._release(row)

    def _release(self, row: Row) -> None:
        """One user less for the row's trunk, which goes with its last."""
        if row.trunk is None:
            return
        row.trunk.num_users -= 1
        if row.trunk.num_users == 0 and not row.trunk.keep:
            row.trunk.drop()
            self._trunks.remove(row.trunk)


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
