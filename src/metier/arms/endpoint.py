"""A model behind an OpenAI-compatible endpoint, asked with the guidelines: what buying instead of tuning would give.

    >>> replier = EndpointReplier(config, calls, max_reply_tokens=80)  # doctest: +SKIP
    >>> replier.reply(rows, conversations)[0].tokens_out  # doctest: +SKIP
    23

Every answer is kept before it is used: what was answered is never asked again, in a rerun or after a kill. What was
spent is counted before a request is sent, at the most it can cost by its own length; only requests that were on their
way when a run was killed are not counted, though they may be billed. A request whose answer was lost on the way counts
as answered in full, because it may have been. Refused requests (429) and failures of the server (5xx) are asked again
after a pause, a few times.

The client's own retries are off: they would send a request anew without anybody counting it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from metier.arms.replier import Conversation, text_fingerprint
from metier.core.arm_config import EndpointConfig
from metier.core.errors import ConfigError, GateClosed, ModelError
from metier.core.extras import require
from metier.core.hashing import value_hash
from metier.core.rows import Row
from metier.core.trials import Reply

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["Calls", "EndpointReplier"]

TRIES = 5
"""Times one request is sent before the run stops."""
PAUSES_S = (1.0, 4.0, 15.0, 30.0)
MAX_PAUSE_S = 120.0
"""Longest wait an endpoint may ask for."""
OVERHEAD_TOKENS = 16
"""Most tokens a chat format puts around one message."""
MILLION = 1e6


class Calls(Protocol):
    """Where answers are kept, and what they cost; `metier.road` keeps them encrypted in the project."""

    @property
    def spent(self) -> float:
        """Money spent so far, lost answers at the most they can have cost."""
        ...

    def find(self, key: str) -> dict[str, Any] | None:  # Any: JSON values
        """The kept answer to a request."""
        ...

    def keep(self, key: str, call: Mapping[str, Any], *, cost: float) -> None:  # Any: JSON values
        """Keep an answer and book its cost; on the disk when this returns."""
        ...

    def lose(self, cost: float) -> None:
        """Book a request whose answer was lost on the way."""
        ...


class _LostError(Exception):
    """No whole answer came: why, whether it may have been billed, and how long to wait, where the endpoint said so."""

    def __init__(self, why: str, *, may_be_billed: bool, pause_s: float | None = None) -> None:
        super().__init__(why)
        self.may_be_billed, self.pause_s = may_be_billed, pause_s


@dataclass(slots=True)
class EndpointReplier:
    """Stands where a `Replier` does: conversations in, replies out; the model is somebody else's."""

    config: EndpointConfig
    calls: Calls
    max_reply_tokens: int
    reserved: float = 0.0
    """The most that requests on their way can cost."""
    lock: Lock = field(default_factory=Lock)
    turns: dict[str, Lock] = field(default_factory=dict)
    """One for every request, so that none is sent twice at once."""
    client: OpenAI | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of address and model name: what is behind them is not ours to know."""
        return text_fingerprint("endpoint", self.config.url, self.config.model)

    def fits(self, conversation: Conversation, row: Row) -> bool:  # noqa: ARG002  # as a Replier
        """The endpoint says itself what is too long."""
        return True

    def reply_each(self, rows: Sequence[Row], conversations: Sequence[Conversation]) -> Iterator[Reply]:
        """Replies one request at a time."""
        for row, talk in zip(rows, conversations, strict=True):
            yield self._reply(row, talk)

    def reply(self, rows: Sequence[Row], conversations: Sequence[Conversation]) -> list[Reply]:
        """One reply per conversation, in order; `Reply.seconds` is that of its own request.

        Raises:
            GateClosed: the cap of money would be passed; what was answered is kept.
            ModelError: the endpoint does not answer, or says nothing usable about its tokens.
        """
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            futures = [pool.submit(self._reply, row, talk) for row, talk in zip(rows, conversations, strict=True)]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()  # those on their way end and are kept
                raise

    def _reply(self, row: Row, conversation: Conversation) -> Reply:
        if row.tools:
            raise ModelError(
                f"row {row.row_id}: it offers tools, which an arm of kind 'endpoint' does not pass on; drop the arm."
            )
        messages = [{"role": message.role.value, "content": message.content} for message in conversation]
        body = {
            "model": self.config.model,
            "messages": messages,
            "max_tokens": self.max_reply_tokens,
            "temperature": self.config.temperature,
        }
        key = value_hash({"url": self.config.url, **body})
        with self.lock:
            turn = self.turns.setdefault(key, Lock())
        with turn:  # a second row with the same prompt waits for the answer to the first
            call = self.calls.find(key) or self._ask(row, key, body)
        tokens_in, tokens_out = self._usage(row, call)
        return Reply(
            text=call["text"],
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            seconds=call["seconds"],
            finish="length" if call["finish"] == "length" else "stop",
        )

    def _ask(self, row: Row, key: str, body: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON values
        """Ask until there is an answer, and keep it."""
        worst, why = self._most(body), ""
        for attempt in range(TRIES):
            self._reserve(worst)
            try:
                call = self._send(body)
            except _LostError as lost:
                why = str(lost)
                self._release(worst, lost=worst if lost.may_be_billed else 0.0)
                if attempt + 1 < TRIES:
                    time.sleep(min(MAX_PAUSE_S, lost.pause_s if lost.pause_s is not None else PAUSES_S[attempt]))
            except BaseException:
                self._release(worst)
                raise
            else:
                with self.lock:
                    self.reserved -= worst
                    self.calls.keep(key, call, cost=self._cost(call, worst))
                return call
        raise ModelError(
            f"{self.config.url}: no answer to row {row.row_id} after {TRIES} tries; the last one: {why}. What was "
            "answered is kept: the same command goes on from there."
        )

    def _send(self, body: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON values
        """One request, its answer read as it comes: only a finished one with its usage is whole."""
        openai = require("openai", extra="endpoint", why="an arm of kind 'endpoint'")
        client = self._client(openai)
        start, text, finish, usage = time.perf_counter(), "", None, None
        try:
            stream = client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
            for part in stream:
                if part.choices and part.choices[0].delta.content:
                    text += part.choices[0].delta.content
                if part.choices and part.choices[0].finish_reason:
                    finish = part.choices[0].finish_reason
                usage = part.usage if part.usage is not None else usage
        except openai.APITimeoutError as err:
            raise _LostError(f"no answer within {self.config.timeout_s:g} s", may_be_billed=True) from err
        except openai.RateLimitError as err:
            raise _LostError(f"429, {_told(err)}", may_be_billed=False, pause_s=_retry_after(err)) from err
        except openai.InternalServerError as err:
            raise _LostError(
                f"{err.status_code}, {_told(err)}", may_be_billed=False, pause_s=_retry_after(err)
            ) from err
        except openai.APIStatusError as err:
            raise ModelError(self._refused(err)) from err
        except openai.APIConnectionError as err:
            raise _LostError(f"the connection failed ({_cause(err)})", may_be_billed=True) from err
        except openai.APIError as err:  # told inside the stream
            raise _LostError(f"the answer broke off ({_told(err)})", may_be_billed=True) from err
        except OSError as err:
            raise _LostError(f"the connection broke ({err})", may_be_billed=True) from err
        except ValueError as err:  # a line that is no JSON, or is cut inside a character
            raise _LostError(f"the answer is not readable ({type(err).__name__})", may_be_billed=True) from err
        except Exception as err:
            if type(err).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2"):
                raise
            raise _LostError(f"the answer broke off ({type(err).__name__})", may_be_billed=True) from err
        if finish is None:
            raise _LostError(f"the answer broke off after {len(text)} characters", may_be_billed=True)
        return {
            "text": text,
            "finish": finish,
            "seconds": time.perf_counter() - start,
            "most_in": _most_in(body),
            "usage": None if usage is None else usage.model_dump(),
        }

    def _client(self, openai: Any) -> OpenAI:  # Any: a module
        with self.lock:
            if self.client is None:
                key = os.environ.get(self.config.key, "")
                if not key:
                    raise ConfigError(
                        f"[[arm]] endpoint: the environment variable {self.config.key} is empty; expected the key of "
                        f"{self.config.url}. Set it, or name another variable in key."
                    )
                self.client = openai.OpenAI(
                    base_url=self.config.url, api_key=key, timeout=self.config.timeout_s, max_retries=0
                )
            return self.client

    def _most(self, body: Mapping[str, Any]) -> float:  # Any: JSON values
        """The most one request can cost: no tokenizer makes more tokens of a text than it has bytes."""
        return (_most_in(body) * self.config.token_in + self.max_reply_tokens * self.config.token_out) / MILLION

    def _reserve(self, worst: float) -> None:
        """Set the most a request can cost aside, or stop before it is sent."""
        with self.lock:
            spent, cap = self.calls.spent, self.config.max_money
            if spent + self.reserved + worst > cap:
                raise GateClosed(
                    f"{self.config.url}: {spent:.4f} spent, requests on their way may cost {self.reserved:.4f} and the "
                    f"next one {worst:.4f}; [arm.endpoint] max_money is {cap:g}. What was answered is kept: raise "
                    "max_money and run the same command again."
                )
            self.reserved += worst

    def _release(self, worst: float, *, lost: float = 0.0) -> None:
        with self.lock:
            self.reserved -= worst
            if lost:
                self.calls.lose(lost)

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

    def _refused(self, err: Any) -> str:  # Any: an error of the client
        what = {
            401: f"the key in {self.config.key} is not accepted",
            403: f"the key in {self.config.key} may not use this model",
            404: f"no model {self.config.model!r} there, or no chat completions under this address",
        }.get(err.status_code, "the request is not accepted")
        return f"{self.config.url}: {what} ({err.status_code}, {_told(err)}). Correct [arm.endpoint] and run again."


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


def _told(err: Any) -> str:  # Any: an error of the client
    """The endpoint's own words, on one line."""
    body = getattr(err, "body", None)  # getattr: not every error has one
    said = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(said or err).split())[:200]


def _cause(err: BaseException) -> str:
    return str(err.__cause__ or err)[:200]


def _retry_after(err: Any) -> float | None:  # Any: an error of the client
    """Seconds the endpoint asks to wait."""
    value = err.response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        return None
