"""A language model that answers conversations: renderer, engine and reply limit in one place.

The arms differ in the messages they put before the model; how those become replies stands only here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metier.core.rows import Message, Role, Row
from metier.core.trials import Reply, SkipReason

if TYPE_CHECKING:
    from metier.engine import Decoder, Handle, Request, Sample
    from metier.render import Renderer

__all__ = ["Conversation", "Replier"]

MIN_KEPT_PREFIX = 32
"""Shorter shared prefixes are not worth a place of their own."""

Conversation = tuple[Message, ...]
"""The messages put before the model, up to and including the last user message."""


@dataclass(frozen=True, slots=True)
class Replier:
    """Base or tuned model with its renderer; greedy, so the same conversations give the same replies."""

    handle: Handle
    renderer: Renderer
    max_reply_tokens: int
    max_batch: int | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of base and adapter bytes, as the engine reports it."""
        return self.handle.fingerprint

    def num_tokens(self, conversation: Conversation, row: Row) -> int:
        """Prompt tokens of a conversation, the generation prompt included."""
        return len(self.renderer.prompt_tokens(conversation, row.tools))

    def fits(self, conversation: Conversation, row: Row) -> bool:
        """Whether prompt and longest reply fit into the context of the model."""
        return self.num_tokens(conversation, row) + self.max_reply_tokens <= self.handle.shape.max_positions

    def reply_each(self, rows: Sequence[Row], conversations: Sequence[Conversation]) -> Iterator[Reply]:
        """Replies one request at a time from a decoder of one slot; `Reply.seconds` is the latency at concurrency 1.

        The prefix all conversations share stays in memory, as a server keeps an instruction; it is computed before
        the first request is timed, by asking for one token.
        """
        from metier.engine import Decoder, Request, SamplingParams
        from metier.render import Conversation as PromptParts

        parts = (PromptParts(talk, row.tools) for row, talk in zip(rows, conversations, strict=True))
        prompts = self.renderer.prompt_tokens_batch(parts)
        decoder = Decoder(self.handle, max_batch=1)
        prefix = commonprefix_of(prompts)
        if len(prefix) >= MIN_KEPT_PREFIX:
            decoder.share_prefix(prefix, keep=True)
        params = SamplingParams(max_tokens=self.max_reply_tokens, stop_ids=self.renderer.stop_ids)
        room = self.handle.shape.max_positions - self.max_reply_tokens
        for prompt in [prompt for prompt in prompts if len(prompt) <= room][:1]:
            # One token only: a whole reply would be known to the decoder's guesses when it is asked for again.
            _answer(decoder, Request(prompt, SamplingParams(max_tokens=1, stop_ids=self.renderer.stop_ids)))
        for prompt in prompts:
            if len(prompt) > room:
                yield Reply(text="", tokens_in=len(prompt), tokens_out=0, seconds=0.0, finish="length")
                continue
            started = time.perf_counter()
            found = _answer(decoder, Request(prompt, params))
            seconds = time.perf_counter() - started
            yield Reply(
                text=self.renderer.parse(found.tokens),
                tokens_in=len(prompt),
                tokens_out=len(found.tokens),
                seconds=seconds,
                logprob=found.logprob,
                finish=found.finish,
            )

    def reply(self, rows: Sequence[Row], conversations: Sequence[Conversation]) -> list[Reply]:
        """One greedy reply per conversation, in order; a prompt beyond the context gets an empty reply.

        `Reply.seconds` counts from the call to the reply's last token.
        """
        from metier.engine import SamplingParams, sample
        from metier.render import Conversation as PromptParts

        start = time.perf_counter()
        prompts = self.renderer.prompt_tokens_batch(
            PromptParts(talk, row.tools) for row, talk in zip(rows, conversations, strict=True)
        )
        room = self.handle.shape.max_positions - self.max_reply_tokens
        open_indices = [i for i, tokens in enumerate(prompts) if len(tokens) <= room]
        replies = [Reply(text="", tokens_in=len(t), tokens_out=0, seconds=0.0, finish="length") for t in prompts]
        params = SamplingParams(
            max_tokens=self.max_reply_tokens, stop_ids=self.renderer.stop_ids, max_batch=self.max_batch
        )
        for position, found in sample(self.handle, [prompts[i] for i in open_indices], params):
            index = open_indices[position]
            replies[index] = Reply(
                text=self.renderer.parse(found.tokens),
                tokens_in=len(prompts[index]),
                tokens_out=len(found.tokens),
                seconds=time.perf_counter() - start,
                logprob=found.logprob,
                finish=found.finish,
            )
        return replies


def with_instruction(row: Row, instruction: str | None, examples: Iterable[Row] = ()) -> Conversation:
    """The row's prompt behind an instruction (a system message) and worked examples (user, assistant turns)."""
    from metier.render import with_instruction as put_in_front

    own = [m for m in row.prompt if m.role is Role.SYSTEM]
    shots: list[Message] = []
    for example in examples:
        shots += [m for m in example.prompt if m.role is not Role.SYSTEM]
        shots.append(Message(role=Role.ASSISTANT, content=example.gold))
    asked = [m for m in row.prompt if m.role is not Role.SYSTEM]
    return put_in_front((*own, *shots, *asked), instruction)


def shortest_example(train: Sequence[Row]) -> Row:
    """The train row with the fewest characters in prompt and gold."""
    return min(train, key=lambda row: len(row.prompt_text) + len(row.gold))


def needs_of_examples(
    replier: Replier, instruction: str, train: Sequence[Row], dev: Sequence[Row]
) -> SkipReason | None:
    """Why worked examples cannot be shown: no train rows, or no room for the shortest before some dev prompt."""
    if not train:
        return SkipReason.NO_TRAIN_ROWS
    shown = [shortest_example(train)]
    fits = all(replier.fits(with_instruction(row, instruction, shown), row) for row in dev)
    return None if fits else SkipReason.PROMPT_TOO_LONG


def without_model(answer: Callable[[Sequence[Row]], Sequence[str]], rows: Sequence[Row]) -> list[Reply]:
    """Replies of an arm without a language model: no tokens, and the seconds all of the rows took together."""
    start = time.perf_counter()
    texts = answer(rows)
    seconds = time.perf_counter() - start
    return [Reply(text=text, tokens_in=0, tokens_out=0, seconds=seconds) for text in texts]


def text_fingerprint(*parts: str) -> str:
    """SHA-256 over texts, 64 hex digits: what an arm is identified by beside its model."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part.encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _answer(decoder: Decoder, request: Request) -> Sample:
    """The reply to the only request in the decoder."""
    decoder.add(request)
    while True:
        for event in decoder.step():
            if event.finished is not None:
                return event.finished


def commonprefix_of(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Tokens all prompts begin with, at least one token of each left out; empty for fewer than two prompts."""
    if len(prompts) < 2:
        return []
    shortest = min(len(prompt) for prompt in prompts) - 1
    same = 0
    while same < shortest and len({prompt[same] for prompt in prompts}) == 1:
        same += 1
    return list(prompts[0][:same])
