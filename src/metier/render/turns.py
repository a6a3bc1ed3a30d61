"""How a chat template opens, ends and stops: learnt once from a probe conversation, then held to.

The probe is rendered with and without its reply; what differs is how a reply ends. Templates that
ignore tools, or write the start of text twice, are found here too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metier.core.errors import DataError, ModelError
from metier.core.rows import Message, Role
from metier.render.template import ChatTemplate, Conversation

__all__ = ["Turns", "probe_turns"]

_USER = Message(role=Role.USER, content="probe question")
_REPLY = Message(role=Role.ASSISTANT, content="probe reply")
_THOUGHT = Message(role=Role.ASSISTANT, content="<think>\nprobe thought\n</think>\n\nprobe reply")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """What a template's turns look like in tokens."""

    end_id: int
    """The control token that ends a reply."""
    end_word: str
    """Its spelling."""
    stop_ids: frozenset[int]
    """`end_id` and the model's own end-of-text tokens."""
    start_id: int | None
    """The start-of-text token where the template writes one, once; None where it writes none."""
    turn_starts_with_bos: bool
    """Whether the start-of-text token also opens every turn, as in ChatML, so that it may occur again."""

    def require_one_start(self, tokens: Sequence[int], *, where: str) -> None:
        """Check that the start of text stands exactly once, at the front.

        Raises:
            ModelError: it is missing or doubled.
        """
        if self.start_id is None:
            return
        found = tokens.count(self.start_id)
        leading = next((i for i, token in enumerate(tokens) if token != self.start_id), len(tokens))
        if leading != 1 or (found != 1 and not self.turn_starts_with_bos):
            raise ModelError(
                f"{where}: the start-of-text token {self.start_id} stands {leading} times at the front and {found} "
                "times in all; expected once. Remove it from the message or the template."
            )

    def require_shown(self, template: ChatTemplate, conversation: Conversation, text: str) -> None:
        """Check that everything of a conversation reached its text; templates leave things out silently.

        Raises:
            DataError: the template leaves out a system or user message, the tools, or a tool call.
        """
        messages = conversation.messages
        for place, message in enumerate(messages):
            if message.role in (Role.SYSTEM, Role.USER) and not template.shows(text, message.content):
                raise DataError(_IGNORED.format(what=f"text of message {place} ({message.role.value})"))
            if message.tool_calls:
                silent = message.model_copy(update={"tool_calls": ()})
                without = conversation._replace(messages=[*messages[:place], silent, *messages[place + 1 :]])
                if _writes(template, without, text):
                    raise DataError(_IGNORED.format(what=f"tool calls of message {place}"))
        if conversation.tools and _writes(template, conversation._replace(tools=()), text):
            raise DataError(_IGNORED.format(what="tools"))


def _writes(template: ChatTemplate, conversation: Conversation, text: str) -> bool:
    """Whether the template makes this text of a conversation; one it refuses without its calls is not the same."""
    try:
        return template.text(conversation) == text
    except DataError:
        return False


_IGNORED = (
    "the chat template leaves out the {what}, so the model would never see that; use a base model whose template "
    "writes it, or put it into another message."
)


def probe_turns(template: ChatTemplate, model_dir: Path) -> Turns:
    """Learn a template's turns from a probe of one question and one reply.

    Raises:
        ModelError: the opened prompt is not the start of the whole, or no control token ends the reply.
    """
    name = model_dir.name
    prompt = template.text(Conversation([_USER], (), True))
    reply = _THOUGHT if template.switches["enable_thinking"] else _REPLY
    whole = template.text(Conversation([_USER, reply]))
    if not whole.startswith(prompt):
        raise ModelError(
            f"{name}: its chat template writes a reply otherwise than it opens one, so trained tokens would not "
            "follow the prompt. Templates that always open with reasoning are of this kind: use the plain instruct "
            "model."
        )
    head, _, tail = whole[len(prompt) :].partition(reply.content)
    tail_ids = template.encode([tail])[0] if tail else []
    end_id = next((token for token in tail_ids if token in template.control_ids), None)
    if head.strip() or end_id is None or template.decode(tail_ids[: tail_ids.index(end_id)]).strip():
        raise ModelError(
            f"{name}: its chat template ends a reply with {tail[:40]!r}; expected a control token right after the "
            "reply, as nothing else tells a finished reply from a cut one."
        )
    ids = template.encode([prompt])[0]
    bos = template.tokenizer.bos_token_id
    again = template.encode([template.text(Conversation([_USER, _REPLY, _USER]))])[0].count(bos) > 1
    turns = Turns(
        end_id=end_id,
        end_word=template.decode([end_id]),
        stop_ids=frozenset({end_id}) | _end_of_text_ids(template, model_dir),
        start_id=bos if bos is not None and ids[:1] == [bos] else None,
        turn_starts_with_bos=again,
    )
    turns.require_one_start(ids, where=name)
    return turns


def _end_of_text_ids(template: ChatTemplate, model_dir: Path) -> frozenset[int]:
    """End-of-text ids the tokenizer and the model's own files name."""
    found: set[int] = set()
    if template.tokenizer.eos_token_id is not None:
        found.add(template.tokenizer.eos_token_id)
    for file_name in ("config.json", "generation_config.json"):
        path = model_dir / file_name
        if path.is_file():
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))  # Any: whatever the file holds
            eos = values.get("eos_token_id")
            found.update([eos] if isinstance(eos, int) else eos or [])
    return frozenset(found)
