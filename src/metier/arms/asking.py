"""One request to an OpenAI-compatible endpoint: sent once, read to its end, what went wrong told in one of three ways.

    >>> with Line(config) as line:  # doctest: +SKIP
    ...     line.run(line.send(client, body, hidden="Where is order 7?"))
    {'text': 'At dock 7.', 'finish': 'stop', ...}

A request that brought no whole answer raises `LostError`: it may be sent again, and may have been billed. A row that
the endpoint does not take raises `RefusedError`. A key, a model or an address that is wrong raises `ModelError`.
Nothing that is raised repeats a word of the row or a part of the key: endpoints like to quote both.

The client's own retries are off: they would send a request anew without anybody counting it.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Coroutine, Mapping
from threading import Thread
from typing import TYPE_CHECKING, Any, Self, TypeVar

from metier.core.arm_config import EndpointConfig
from metier.core.errors import ConfigError, ModelError
from metier.core.extras import require

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["GRACE_S", "Line", "LostError", "RefusedError"]

Result = TypeVar("Result")

ROW_STATUS = (400, 413, 422)
"""The endpoint does not take this row: too long for its context, stopped by its filter."""
MAYBE_BILLED = (408, 504, 524)
"""Somebody on the way stopped waiting; the model may have answered all the same."""
LATER = (409, 429)
"""Not now; nothing was computed."""
GRACE_S = 5.0
"""Longest wait for answers on their way when a run stops; what they cost is spent, so they are kept if they come."""
SHORTEST = 3
"""Shorter words of the row are not looked for in the endpoint's words, unless they hold a digit."""
KEY_PART = 4
"""A word with this many characters of the key in a row is hidden."""
LONGEST_WORD = 40
"""Longer words are encodings of something."""


class LostError(Exception):
    """No whole answer came: why, whether it may have been billed, and how long to wait, where the endpoint said so."""

    def __init__(self, why: str, *, may_be_billed: bool, pause_s: float | None = None) -> None:
        super().__init__(why)
        self.may_be_billed, self.pause_s = may_be_billed, pause_s


class RefusedError(Exception):
    """The endpoint does not take this row; another one it may. The text is the status with its words."""


class Line:
    """A client of one address with its loop, in a thread of its own: the caller may have a loop (a notebook has)."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self.loop = asyncio.new_event_loop()
        self.slots = asyncio.Semaphore(config.concurrency)
        self.turns: dict[str, asyncio.Lock] = {}
        self.stopped = asyncio.Event()
        self.known: AsyncOpenAI | None = None
        self.thread = Thread(target=self.loop.run_forever, name="endpoint", daemon=True)
        self.thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:  # Any: what a coroutine yields does not matter
        """The result of `work`; an interrupt here stops it there, and leaving the line waits until it has ended."""
        found = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return found.result()
        except BaseException:
            found.cancel()
            raise

    def turn(self, key: str) -> asyncio.Lock:
        """One for every request, so that none is sent twice at once."""
        return self.turns.setdefault(key, asyncio.Lock())

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until the line is stopped."""
        try:
            await asyncio.wait_for(self.stopped.wait(), seconds)
        except TimeoutError:
            return

    def client(self) -> AsyncOpenAI:
        """The client, made when the first request is to be sent.

        Raises:
            ConfigError: there is no key, or none that can be sent.
            MissingExtra: no client is installed.
        """
        if self.known is None:
            openai = require("openai", extra="endpoint", why="an arm of kind 'endpoint'")
            self.known = openai.AsyncOpenAI(
                base_url=self.config.url, api_key=self._key(), timeout=self.config.timeout_s, max_retries=0
            )
        return self.known

    async def send(self, body: Mapping[str, Any], *, hidden: str) -> dict[str, Any]:  # Any: JSON values
        """One request, its answer read as it comes: only a finished one is whole. `hidden` stands in no message.

        Raises:
            LostError: no whole answer came within `timeout_s`.
            RefusedError: the endpoint does not take the row.
            ModelError: asking again would not help.
        """
        openai, client = require("openai", extra="endpoint", why="an arm of kind 'endpoint'"), self.client()
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self.config.timeout_s):
                text, finish, usage = await _read(client, body)
        except (TimeoutError, openai.APITimeoutError):
            why = f"no whole answer within timeout_s, {self.config.timeout_s:g} s"
            raise LostError(why, may_be_billed=True) from None
        except openai.APIStatusError as err:
            raise self._of_status(err, hidden) from None
        except openai.APIConnectionError as err:
            raise LostError(f"the connection failed ({_cause(err)})", may_be_billed=True) from None
        except openai.APIError as err:  # told inside the stream
            raise LostError(f"the answer broke off ({self._told(err, hidden)})", may_be_billed=True) from None
        except OSError as err:
            raise LostError(f"the connection broke ({_cause(err)})", may_be_billed=True) from None
        except ValueError as err:  # a line that is no JSON, or is cut inside a character
            raise LostError(f"the answer is not readable ({type(err).__name__})", may_be_billed=True) from None
        if finish is None:
            raise LostError(f"the answer broke off after {len(text)} characters", may_be_billed=True)
        return {"text": text, "finish": finish, "seconds": time.perf_counter() - start, "usage": usage}

    def _key(self) -> str:
        key = os.environ.get(self.config.key, "")
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            what = "holds a blank, a line break or a letter outside ASCII" if key else "is empty"
            raise ConfigError(
                f"[[arm]] endpoint: the environment variable {self.config.key} {what}; expected the key of "
                f"{self.config.url}. Set it, or name another variable in key."
            )
        return key

    def _of_status(self, err: Any, hidden: str) -> Exception:  # Any: an error of the client
        """What a status means for the request, the row and the run."""
        code, told = err.status_code, f"{err.status_code}, {self._told(err, hidden)}"
        if code in ROW_STATUS:
            return RefusedError(told)
        if code in LATER or code in MAYBE_BILLED or code >= 500:
            return LostError(told, may_be_billed=code in MAYBE_BILLED, pause_s=_retry_after(err))
        what = {
            401: f"the key in {self.config.key} is not accepted",
            402: "the account has no money left",
            403: f"the key in {self.config.key} may not use this model",
            404: f"no model {self.config.model!r} there, or no chat completions under this address",
        }.get(code, "the request is not accepted")
        return ModelError(f"{self.config.url}: {what} ({told}). Correct [arm.endpoint] and run again.")

    def _told(self, err: Any, hidden: str) -> str:  # Any: an error of the client
        """The endpoint's own words on one line, without those that are the row's or the key's."""
        body = getattr(err, "body", None)  # getattr: not every error has one
        said = body.get("message") if isinstance(body, dict) else None
        if not isinstance(said, str):
            return type(err).__name__
        return _without(said, hidden, os.environ.get(self.config.key, ""))

    async def _end(self) -> None:
        """Wait for what was stopped, then close the connections."""
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*rest, return_exceptions=True)
        if self.known is not None:
            await self.known.close()
        await self.loop.shutdown_asyncgens()


async def _read(client: AsyncOpenAI, body: Mapping[str, Any]) -> tuple[str, str | None, dict[str, Any] | None]:
    """Text, reason for the end and usage of one streamed answer."""  # Any: JSON values
    text, finish, usage = "", None, None
    create: Any = client.chat.completions.create  # Any: its overloads want each field by name
    async with await create(**body, stream=True, stream_options={"include_usage": True}) as stream:
        async for part in stream:
            if part.choices and part.choices[0].delta.content:
                text += part.choices[0].delta.content
            if part.choices and part.choices[0].finish_reason:
                finish = part.choices[0].finish_reason
            usage = part.usage.model_dump() if part.usage is not None else usage
    return text, finish, usage


def _without(said: str, hidden: str, key: str) -> str:
    """A text on one line, every word left out that stands in `hidden`, holds a part of a key or is an encoding."""
    low, shown = hidden.casefold(), list[str]()
    parts = {key[i : i + KEY_PART] for i in range(len(key) - KEY_PART + 1)}
    for word in said.split():
        bare = re.sub(r"^\W+|\W+$", "", word)
        pieces = [piece for piece in re.split(r"\W+", bare.casefold()) if piece]
        quoted = any(
            piece in low for piece in pieces if len(piece) >= SHORTEST or any(sign.isdigit() for sign in piece)
        )
        coded = len(word) > LONGEST_WORD or "\\" in word or "*" in word
        if quoted or coded or any(part in word for part in parts):
            if shown[-1:] != ["..."]:
                shown.append("...")
        else:
            shown.append(word)
    return " ".join(shown)[:200]


def _cause(err: BaseException) -> str:
    """What the network said: its own words may quote a header, so only kind and number are told."""
    while err.__cause__ is not None:
        err = err.__cause__
    told = os.strerror(err.errno) if isinstance(err, OSError) and err.errno and err.errno > 0 else ""
    return f"{type(err).__name__}{': ' if told else ''}{told}"


def _retry_after(err: Any) -> float | None:  # Any: an error of the client
    """Seconds the endpoint asks to wait."""
    value = err.response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        return None
