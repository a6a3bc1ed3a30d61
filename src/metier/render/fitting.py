r"""Messages in the form a chat template takes them, learnt from probes: no system turn, call ids of nine letters.

    >>> fit = probe_fit(template)  # doctest: +SKIP
    >>> fit.messages([system, user])  # doctest: +SKIP
    (Message(role=user, content="Be kind.\n\nWhere is 4411?"),)

Gemma refuses a system message, and Mistral's third format moves it from turn to turn; both are given it
as the beginning of the first user message instead, when prompting and when training alike. Nothing else
of a message changes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from metier.core.errors import DataError
from metier.core.rows import Message, Role, ToolCall
from metier.render.template import ChatTemplate, Conversation

__all__ = ["Fit", "probe_fit"]

_SYSTEM = Message(role=Role.SYSTEM, content="probe rule")
_USER = Message(role=Role.USER, content="probe question")
_REPLY = Message(role=Role.ASSISTANT, content="probe reply")
_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """What a template asks of messages."""

    folds_system: bool
    """Whether a leading system message is written as the beginning of the first user message."""
    short_call_ids: bool
    """Whether ids of tool calls must be nine letters or digits (Mistral)."""

    def messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages as the template takes them."""
        fitted = _folded(messages) if self.folds_system else tuple(messages)
        return _with_short_ids(fitted) if self.short_call_ids else fitted


def probe_fit(template: ChatTemplate) -> Fit:
    """Learn what a template asks of messages."""
    return Fit(
        folds_system=not _keeps_system(template),
        short_call_ids=not _takes_id(template, "call_1") and _takes_id(template, "abcdef123"),
    )


def _keeps_system(template: ChatTemplate) -> bool:
    """Whether a system message stands in the prompt and stays there when the reply follows."""
    try:
        prompt = template.text(Conversation([_SYSTEM, _USER], (), True))
        whole = template.text(Conversation([_SYSTEM, _USER, _REPLY]))
    except DataError:
        return False
    return all(template.shows(text, _SYSTEM.content) for text in (prompt, whole))


def _takes_id(template: ChatTemplate, call_id: str) -> bool:
    call = Message(role=Role.ASSISTANT, tool_calls=(ToolCall(id=call_id, name="probe"),))
    result = Message(role=Role.TOOL, content="probe result", tool_call_id=call_id)
    try:
        template.text(Conversation([_USER, call, result]))
    except DataError:
        return False
    return True


def _folded(messages: Sequence[Message]) -> tuple[Message, ...]:
    if len(messages) < 2 or (messages[0].role, messages[1].role) != (Role.SYSTEM, Role.USER):
        return tuple(messages)  # the template says what it thinks of it
    text = "\n\n".join(message.content for message in messages[:2])
    return (messages[1].model_copy(update={"content": text}), *messages[2:])


def _with_short_ids(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Every id that is not nine letters or digits becomes nine of its hash; results without one get their call's."""
    fitted, waiting, num_calls = [], list[str](), 0
    for message in messages:
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                num_calls += 1
                calls.append(call.model_copy(update={"id": _short_id(call.id or f"call {num_calls}")}))
            waiting = [call.id for call in calls]
            message = message.model_copy(update={"tool_calls": tuple(calls)})
        elif message.role is Role.TOOL:
            if message.tool_call_id:
                call_id = _short_id(message.tool_call_id)
            else:
                call_id = waiting[0] if waiting else _short_id("call 0")
            waiting = [other for other in waiting if other != call_id]
            message = message.model_copy(update={"tool_call_id": call_id})
        fitted.append(message)
    return tuple(fitted)


def _short_id(call_id: str) -> str:
    return call_id if _SHORT_ID.fullmatch(call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]
