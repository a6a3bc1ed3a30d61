"""Rows in one line."""

from typing import Any

from metier.core.rows import Message, Meta, Row, Target, make_row


def row(*turns: tuple[str, str] | Message, number: int = 0, target: Target | None = None, tools: Any = ()) -> Row:
    messages = tuple(turn if isinstance(turn, Message) else Message(role=turn[0], content=turn[1]) for turn in turns)
    return make_row(b"key", messages=messages, meta=Meta(source="t", source_row=number), target=target, tools=tools)


TOOL = {"type": "function", "function": {"name": "track", "description": "Where a parcel is."}}
