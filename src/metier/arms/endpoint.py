"""A model behind an OpenAI-compatible endpoint, asked with the guidelines: what buying instead of tuning would give.

    >>> replier = EndpointReplier(config, calls, max_reply_tokens=80)  # doctest: +SKIP
    >>> replier.reply(rows, conversations)[0].tokens_out  # doctest: +SKIP
    23

Every answer is kept before it is used: what was answered is never asked again, in a rerun or after a kill. A request is
written down before it goes out, with the most it can cost by its own length; one that has no answer when a run ends may
have been billed, and counts in full. Requests that brought no whole answer are sent again after a pause, a few times.

A row that the endpoint does not take gets an empty reply that ends in "refused"; where it takes hardly any, the run
stops, because then it is not the rows. How one request goes is in `metier.arms.asking`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from metier.arms.asking import GRACE_S, Line, LostError, RefusedError
from metier.arms.replier import Conversation, text_fingerprint
from metier.core.arm_config import EndpointConfig
from metier.core.errors import GateClosed, MetierError, ModelError, counted
from metier.core.hashing import value_hash
from metier.core.rows import Role, Row
from metier.core.trials import Reply, SkipReason

__all__ = ["Calls", "EndpointReplier"]

TRIES = 5
"""Times one request is sent before the run stops."""
PAUSES_S = (1.0, 4.0, 15.0, 30.0)
MAX_PAUSE_S = 120.0
"""Longest wait an endpoint may ask for."""
OVERHEAD_TOKENS = 16
"""Most tokens a chat format puts around one message."""
ENOUGH = 8
"""Rows after which it is judged whether the endpoint takes rows at all; as many refused in a row stop the run too."""
MILLION = 1e6
REFUSED = "refused"
FILTERED = "content_filter"
"""How an endpoint says that it broke an answer off for what stands in it."""


class Calls(Protocol):
    """Where answers are kept, and what they cost; `metier.road` keeps them encrypted in the project."""

    @property
    def spent(self) -> float:
        """Money spent so far, lost answers at the most they can have cost."""
        ...

    @property
    def pending(self) -> float:
        """The most that requests on their way can cost."""
        ...

    def find(self, key: str) -> dict[str, Any] | None:  # Any: JSON values
        """The kept answer to a request."""
        ...

    def begin(self, worst: float, *, origin_id: str, url: str) -> int:
        """Write down that a row is sent to an address, and the most it can cost; on the disk when this returns."""
        ...

    def keep(self, key: str, call: Mapping[str, Any], *, cost: float, begun: int | None) -> None:  # Any: JSON values
        """Keep an answer and book its cost; on the disk when this returns."""
        ...

    def lose(self, begun: int, cost: float) -> None:
        """Book a request that brought no answer; 0 where it was not billed."""
        ...

    def note(self, *, origin_id: str, url: str) -> None:
        """Write down that the prompt of another row was sent: it is the same prompt."""
        ...


class StoppedError(Exception):
    """The request was not sent, because another one stopped the run."""


@dataclass(slots=True)
class EndpointReplier:
    """Stands where a `Replier` does: conversations in, replies out; the model is somebody else's."""

    config: EndpointConfig
    calls: Calls
    max_reply_tokens: int
    tell: Callable[[str], None] = field(default=lambda _: None)
    """What a person is told."""
    outcomes: dict[str, str] = field(default_factory=dict)
    """Of every request so far by its key: empty when it was answered, else why there is no reply or no whole one."""
    in_a_row: int = 0
    """Refusals since the last answer."""
    refusals: dict[str, dict[str, Any]] = field(default_factory=dict)  # Any: JSON values
    """Not on the disk yet: a wrong setting refuses every row, and is not to be remembered when it is mended."""
    num_told: int = 0

    @property
    def fingerprint(self) -> str:
        """Hash of address and model name: what is behind them is not ours to know."""
        return text_fingerprint("endpoint", self.config.url, self.config.model)

    def fits(self, conversation: Conversation, row: Row) -> bool:  # noqa: ARG002  # as a Replier
        """The endpoint says itself what is too long."""
        return True

    def needs(self, rows: Sequence[Row]) -> SkipReason | None:
        """Why the endpoint cannot be asked about such rows, or None."""
        return None if all(map(_is_plain, rows)) else SkipReason.ROWS_USE_TOOLS

    def num_known(self, conversations: Sequence[Conversation]) -> int:
        """How many of these would not be sent, because the answer is kept."""
        keys = (self._request(talk)[0] for talk in conversations)
        return sum(self.calls.find(key) is not None for key in keys)

    def reply_each(self, rows: Sequence[Row], conversations: Sequence[Conversation]) -> Iterator[Reply]:
        """Replies one request at a time."""
        with Line(self.config) as line:
            for row, talk in zip(rows, conversations, strict=True):
                yield line.run(self._reply(line, row, talk))
        self._end_batch()

    def reply(self, rows: Sequence[Row], conversations: Sequence[Conversation]) -> list[Reply]:
        """One reply per conversation, in order; `Reply.seconds` is that of its own request.

        Raises:
            GateClosed: the cap of money would be passed; what was answered is kept.
            ModelError: the endpoint does not answer, refuses most rows, or says nothing usable about its tokens.
            StoreError: the disk is full.
        """
        with Line(self.config) as line:
            replies = line.run(self._reply_all(line, list(zip(rows, conversations, strict=True))))
        self._end_batch()
        return replies

    async def _reply_all(self, line: Line, asked: Sequence[tuple[Row, Conversation]]) -> list[Reply]:
        """All at once, as many on their way as the settings say; after a failure nothing more is sent."""
        if not asked:
            return []
        tasks = [asyncio.create_task(self._reply(line, row, talk)) for row, talk in asked]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            line.stopped.set()
            _, late = await asyncio.wait(tasks, timeout=GRACE_S)  # those on their way are paid for: keep them
            for task in late:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [each for each in found if isinstance(each, BaseException)]
        if errors:
            raise next((err for err in errors if not isinstance(err, StoppedError)), errors[0])
        return [each for each in found if isinstance(each, Reply)]

    async def _reply(self, line: Line, row: Row, conversation: Conversation) -> Reply:
        if not _is_plain(row):  # a hold-out row: those that can be seen before are looked at in `needs`
            self.outcomes[row.row_id] = "it uses tools, which are not passed on"
            return Reply(text="", tokens_in=0, tokens_out=0, seconds=0.0, finish=REFUSED)
        key, body = self._request(conversation)
        async with line.turn(key):  # a second row with the same prompt waits for the answer to the first
            call = self.calls.find(key) or self.refusals.get(key)
            if call is None:
                async with line.slots:
                    try:
                        call = await self._ask(line, row, key, body)
                    except BaseException:
                        line.stopped.set()  # before the next request has the slot
                        raise
            else:
                self.calls.note(origin_id=row.origin_id, url=self.config.url)
        self.outcomes[key] = call.get("refused") or ("a filter broke it off" if call.get("finish") == FILTERED else "")
        if "refused" in call:
            return Reply(text="", tokens_in=0, tokens_out=0, seconds=call["seconds"], finish=REFUSED)
        tokens_in, tokens_out = self._usage(row, call)
        finish = {"length": "length", FILTERED: REFUSED}.get(call["finish"], "stop")
        return Reply(
            text=call["text"], tokens_in=tokens_in, tokens_out=tokens_out, seconds=call["seconds"], finish=finish
        )

    def _request(self, conversation: Conversation) -> tuple[str, dict[str, Any]]:  # Any: JSON values
        """What is sent, and the key its answer is kept under."""
        body = {
            "model": self.config.model,
            "messages": [{"role": message.role.value, "content": message.content} for message in conversation],
            "max_tokens": self.max_reply_tokens,
            "temperature": self.config.temperature,
        }
        return value_hash({"url": self.config.url, **body}), body

    async def _ask(self, line: Line, row: Row, key: str, body: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON values
        """Ask until there is an answer or a refusal, and keep it."""
        worst, why = self._most(body), ""
        line.client()  # without a key nothing is begun
        for attempt in range(TRIES):
            if line.stopped.is_set():
                raise StoppedError
            begun = self._begin(worst, row)
            try:
                call = await line.send(body, hidden=" ".join(message.content for message in row.messages))
            except RefusedError as no:
                self.calls.lose(begun, 0.0)
                return self._refused(key, str(no))
            except LostError as lost:
                why = str(lost)
                self.calls.lose(begun, worst if lost.may_be_billed else 0.0)
                if attempt + 1 < TRIES:
                    pause_s = PAUSES_S[attempt] if lost.pause_s is None else lost.pause_s
                    await line.pause(min(MAX_PAUSE_S, pause_s))
            except BaseException as err:  # told by the endpoint before it computed, or broken off by us
                self.calls.lose(begun, 0.0 if isinstance(err, MetierError) else worst)
                raise
            else:
                call["most_in"], self.in_a_row = _most_in(body), 0
                self.calls.keep(key, call, cost=self._cost(call, worst), begun=begun)
                return call
        raise ModelError(
            f"{self.config.url}: no answer to row {row.row_id} after {TRIES} tries; the last one: {why}. What was "
            "answered is kept: the same command goes on from there."
        )

    def _begin(self, worst: float, row: Row) -> int:
        """Write a request down, or stop before it is sent."""
        spent, pending, cap = self.calls.spent, self.calls.pending, self.config.max_money
        if spent + pending + worst > cap:
            raise GateClosed(
                f"{self.config.url}: {spent:.4f} spent, requests on their way may cost {pending:.4f} and the "
                f"next one {worst:.4f}; [arm.endpoint] max_money is {cap:g}. What was answered is kept: raise "
                "max_money and run the same command again."
            )
        return self.calls.begin(worst, origin_id=row.origin_id, url=self.config.url)

    def _refused(self, key: str, why: str) -> dict[str, Any]:  # Any: JSON values
        """A refusal in place of an answer.

        Raises:
            ModelError: it is not the rows: most are refused, or one after the other.
        """
        self.outcomes[key], self.in_a_row = why, self.in_a_row + 1
        self.refusals[key] = {"refused": why, "seconds": 0.0}
        if self.in_a_row >= ENOUGH or (len(self.outcomes) >= ENOUGH and self._refuses_most):
            self._stop(why)
        return self.refusals[key]

    @property
    def _refuses_most(self) -> bool:
        return sum(map(bool, self.outcomes.values())) > len(self.outcomes) / 2

    def _stop(self, why: str) -> NoReturn:
        raise ModelError(
            f"{self.config.url}: {sum(map(bool, self.outcomes.values()))} of {counted(len(self.outcomes), 'request')} "
            f"refused, the last one with: {why}. It is not single rows. What was answered is kept: correct "
            "[arm.endpoint] and run again, or drop the arm."
        )

    def _end_batch(self) -> None:
        """Keep the refusals, now that they are known to be those of single rows, and tell how many there are."""
        if self.refusals and self._refuses_most:
            self._stop(next(reversed(self.refusals.values()))["refused"])
        for key, call in self.refusals.items():
            self.calls.keep(key, call, cost=0.0, begun=None)
        self.refusals.clear()
        told = [why for why in self.outcomes.values() if why]
        if len(told) > self.num_told:
            self.num_told = len(told)
            self.tell(
                f"{self.config.model}: {len(told)} of {counted(len(self.outcomes), 'request')} so far without a whole "
                f"reply, the last one: {told[-1]}. They count as what came, mostly nothing."
            )

    def _most(self, body: Mapping[str, Any]) -> float:  # Any: JSON values
        """The most one request can cost: no tokenizer makes more tokens of a text than it has bytes."""
        return (_most_in(body) * self.config.token_in + self.max_reply_tokens * self.config.token_out) / MILLION

    def _cost(self, call: Mapping[str, Any], worst: float) -> float:  # Any: JSON values
        """What an answer costs by its usage; the most it can, where the usage cannot be true."""
        usage = call["usage"]
        if _wrong_usage(usage, call["text"], self.max_reply_tokens, call["most_in"]):
            return worst
        cost = usage["prompt_tokens"] * self.config.token_in + usage["completion_tokens"] * self.config.token_out
        return float(cost) / MILLION

    def _usage(self, row: Row, call: Mapping[str, Any]) -> tuple[int, int]:  # Any: JSON values
        """Tokens in and out as the endpoint counts them."""
        wrong = _wrong_usage(call["usage"], call["text"], self.max_reply_tokens, call["most_in"])
        if wrong:
            raise ModelError(
                f"{self.config.url}: {wrong} in the answer to row {row.row_id}; without it nobody knows what a request "
                "costs. The answer is kept and not asked for again. Use a server that counts tokens, or drop the arm."
            )
        return int(call["usage"]["prompt_tokens"]), int(call["usage"]["completion_tokens"])


def _is_plain(row: Row) -> bool:
    """Whether role and text of its messages are all of a prompt: no tools offered, none used."""
    talks = (message.role is not Role.TOOL and not message.tool_calls for message in row.prompt)
    return not row.tools and all(talks)


def _most_in(body: Mapping[str, Any]) -> int:  # Any: JSON values
    """The most tokens a prompt can have."""
    return sum(len(message["content"].encode()) + OVERHEAD_TOKENS for message in body["messages"])


def _wrong_usage(
    usage: Mapping[str, Any] | None, text: str, max_reply_tokens: int, most_in: int
) -> str:  # Any: JSON values
    """What is wrong with an endpoint's count of tokens; empty where nothing is."""
    if usage is None:
        return "no usage"
    tokens_in, tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(tokens_in, int) or not isinstance(tokens_out, int):
        return f"usage with prompt_tokens {tokens_in!r} and completion_tokens {tokens_out!r}, expected whole numbers,"
    if tokens_in < 1 or tokens_out < (1 if text else 0):
        return f"a usage of {tokens_in} prompt tokens and {tokens_out} reply tokens for {len(text)} characters"
    if tokens_in > most_in:
        return f"a usage of {tokens_in} prompt tokens, where the prompt cannot have more than {most_in},"
    if tokens_out > max_reply_tokens:
        return f"a usage of {tokens_out} reply tokens, where at most {max_reply_tokens} were asked for,"
    return ""
