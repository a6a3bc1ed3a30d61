"""`Row`, the one example every room speaks of, version 1 of its contract.

One row, as JSON::

    {
        "origin_id": "5f0c...",
        "row_id": "91ab...",
        "messages": [
            {"role": "user", "content": "Where is order 4411?"},
            {"role": "assistant", "content": "Dear Ana, ..."},
        ],
        "target": {"kind": "reply"},
        "meta": {"source": "tickets.jsonl", "source_row": 17, "groups": {"customer": "c-204"}},
    }

A row whose target is `reply` ends in the assistant message that is the gold reply. Rows travel
between stages by column (`metier.core.table`) and encrypted (`metier.ledger.packs`); `Row` is the boundary type.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from metier.core.errors import StoreError
from metier.core.hashing import canonical_json, keyed_hash

__all__ = [
    "Message", "Meta", "Role", "Row", "Target", "TargetKind", "ToolCall", "content_of", "make_row", "row_from_bytes",
    "row_to_bytes",
]  # fmt: skip

ROW_SCHEMA_VERSION = 1


class Role(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class TargetKind(StrEnum):
    """What the row asks of a model."""

    REPLY = "reply"
    PAIR = "pair"
    ANSWER = "answer"
    LABEL = "label"


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


UtcTime = Annotated[datetime, AfterValidator(_utc)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ToolCall(_Part):
    """One call of a tool by the assistant; `arguments` is the JSON object, not its text."""

    id: str = ""
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Message(_Part):
    """One turn. `train=None` means: the default of the objective decides (assistant turns train)."""

    role: Role
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    train: bool | None = None

    @model_validator(mode="after")
    def _only_assistants_train(self) -> Self:
        if self.train and self.role is not Role.ASSISTANT:
            raise ValueError(f"a {self.role} message is marked train=true; only assistant messages can be trained")
        return self


class Target(_Part):
    """What is right for this row, beside the messages."""

    kind: TargetKind = TargetKind.REPLY
    chosen: str | None = None
    rejected: str | None = None
    answer: str | None = None
    label: str | None = None
    grader: str | None = None


class Meta(_Part):
    """Where the row comes from and what may be done with it. Never part of `row_id`."""

    source: str
    source_row: int
    subjects: tuple[str, ...] = ()
    groups: dict[str, str] = Field(default_factory=dict)
    collected_at: UtcTime | None = None
    expires_at: UtcTime | None = None
    policy_version: str | None = None
    licence: str | None = None
    consent: str | None = None
    language: str | None = None
    attributes: dict[str, str] = Field(default_factory=dict)


class Row(_Part):
    """One example: messages, target, history. Made by `make_row`, which computes the ids."""

    origin_id: str
    row_id: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    target: Target = Target()
    meta: Meta
    parents: tuple[str, ...] = ()

    @property
    def gold(self) -> str:
        """The text a perfect reply would be: the last assistant message, or the answer or label."""
        target = self.target
        if target.kind is TargetKind.LABEL and target.label is not None:
            return target.label
        if target.kind is TargetKind.ANSWER and target.answer is not None:
            return target.answer
        if target.kind is TargetKind.PAIR and target.chosen is not None:
            return target.chosen
        last = self.messages[-1]
        return last.content if last.role is Role.ASSISTANT else ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages a model is shown: all but a closing assistant message."""
        return self.messages[:-1] if self.messages[-1].role is Role.ASSISTANT else self.messages

    @property
    def prompt_text(self) -> str:
        """The user and tool text of the prompt, one message a line; system text and earlier replies are left out."""
        return "\n".join(m.content for m in self.prompt if m.role in (Role.USER, Role.TOOL))

    def as_json(self) -> dict[str, Any]:
        """The row as plain JSON values, unset fields left out."""
        return self.model_dump(mode="json", exclude_defaults=True)


_PLAIN_FIELDS = frozenset({"role", "content"})


def _message_json(message: Message) -> dict[str, Any]:
    """The message as plain JSON values, unset fields left out; most have a role and a text, which needs no pydantic."""
    if message.content and message.model_fields_set == _PLAIN_FIELDS:
        return {"role": message.role.value, "content": message.content}
    return message.model_dump(mode="json", exclude_defaults=True)


def content_of(messages: tuple[Message, ...], tools: tuple[dict[str, Any], ...], target: Target) -> dict[str, Any]:
    """What `row_id` is the keyed hash of: everything a model may see or be graded by, no metadata."""
    return {
        "messages": [_message_json(m) for m in messages],
        "tools": list(tools),
        "target": target.model_dump(mode="json", exclude_defaults=True),
    }


def make_row(
    key: bytes,
    *,
    messages: tuple[Message, ...],
    meta: Meta,
    target: Target | None = None,
    tools: tuple[dict[str, Any], ...] = (),
    parent: Row | None = None,
) -> Row:
    """Build a row with its ids; `key` is the project key.

    A changed version of a row keeps its parent's `origin_id` and links its `row_id`.

    Raises:
        pydantic.ValidationError: the messages break the contract.
    """
    target = target or Target()
    row_id = keyed_hash(key, content_of(messages, tools, target))
    if parent is None:
        origin_id = keyed_hash(key, [meta.source, meta.source_row])
    else:
        origin_id = parent.origin_id
    return Row(
        origin_id=origin_id,
        row_id=row_id,
        messages=messages,
        tools=tools,
        target=target,
        meta=meta,
        parents=(parent.row_id,) if parent is not None else (),
    )


def row_to_bytes(row: Row) -> bytes:
    """The row as canonical JSON: equal rows give equal bytes."""
    return canonical_json(row.as_json())


def row_from_bytes(data: bytes) -> Row:
    """The row written by `row_to_bytes`, equal to it.

    Raises:
        StoreError: the bytes are no row of this version.
    """
    try:
        try:
            return Row.model_validate_json(data)
        except ValidationError:  # half a character in a tool's arguments is JSON to Python only
            return Row.model_validate(json.loads(data))
    except ValueError as err:
        reason = err.errors()[0]["msg"] if isinstance(err, ValidationError) else str(err)
        raise StoreError(
            f"a stored row of {len(data)} bytes is damaged ({reason}); expected the JSON of a row. "
            "Restore the file from a copy, or delete the workspace and run again."
        ) from err
