"""What the fields of a record mean: every accepted shape turned into messages, tools and target.

    {"messages": [...]}                                             OpenAI chat, functions too; `weight` becomes `train`
    {"input": {"messages": []}, "preferred_output": [], ...}        OpenAI preference, in both spellings
    {"conversations": [{"from": "human", "value": "..."}]}          ShareGPT
    {"instruction": "", "input": "", "output": ""}                  Alpaca
    {"prompt": "", "completion": ""}                                prompt and completion, text or messages
    {"prompt": "", "chosen": "", "rejected": ""}                    TRL preference, text or messages
    {"question": "", "reply": ""} with [data] columns               any table

A shape that is not recognised raises `ShapeError`, whose text says what was found, what was expected and what to do.
A record with a `reply` or `label` target ends in the assistant message that is the gold, a `pair` in its chosen reply.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from metier.core.rows import Message, Role, Target, TargetKind
from metier.curate.turns import ShapeError, as_text, assistant, read_messages, read_share_gpt, read_tools

__all__ = [
    "FORMATS", "COLUMN_NAMES", "FIELDS", "JSON_FIELDS", "Example", "ShapeError", "detect", "field_of", "read_shape",
]  # fmt: skip

Values = Mapping[str, Any]  # Any: whatever JSON, CSV or Parquet holds
Tools = tuple[dict[str, Any], ...]  # Any: JSON values
COLUMN_NAMES = ("prompt", "reply", "system", "label", "context", "id")
JSON_FIELDS = frozenset({
    "messages", "conversations", "tools", "functions", "input", "preferred_output", "preferred_completion",
    "non_preferred_output", "non_preferred_completion", "tool_calls", "function_call", "arguments",
})  # fmt: skip
"""Fields of any shape that may stand as JSON text."""
FIELDS = JSON_FIELDS | {"instruction", "output", "system", "prompt", "completion", "chosen", "rejected"}
"""Fields of a record that the shapes read."""


class Example(NamedTuple):
    """A record's content before it has ids."""

    messages: tuple[Message, ...]
    target: Target
    tools: Tools = ()


def field_of(values: Values, column: str) -> Any:  # Any: a field's value
    """A field by its name, or by a dotted path into nested records; None where there is none.

    On the way, JSON text is opened; the field itself is given as it stands, so that a reply in JSON stays text.
    """
    if column in values:
        return values[column]
    found: Any = values  # Any: walks nested JSON
    for part in column.split("."):
        found = _loaded(found)
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _loaded(value: Any) -> Any:  # Any: a field's value
    """JSON text of a list or object (how tables hold nested fields) as that list or object."""
    if isinstance(value, str) and value[:1] in ("[", "{") and value[-1:] in ("]", "}"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _tools(values: Values) -> Tools:
    """What a record offers to call, in either spelling of OpenAI."""
    tools, functions = values.get("tools"), values.get("functions")
    return () if tools is None and functions is None else read_tools(_loaded(tools), _loaded(functions))


def _chat(values: Values) -> Example:
    messages = read_messages(_loaded(values["messages"]), "messages")
    _check_conversation(messages)
    return Example(messages, Target(), _tools(values))


def _share_gpt(values: Values) -> Example:
    messages = read_share_gpt(_loaded(values["conversations"]))
    if values.get("system") and messages[0].role is not Role.SYSTEM:
        messages = (Message(role=Role.SYSTEM, content=as_text(values["system"], "system")), *messages)
    _check_conversation(messages)
    return Example(messages, Target(), _tools(values))


def _alpaca(values: Values) -> Example:
    instruction = as_text(values["instruction"], "instruction")
    extra = as_text(values.get("input"), "input")
    prompt = f"{instruction}\n\n{extra}" if extra else instruction
    messages: tuple[Message, ...] = (
        Message(role=Role.USER, content=prompt),
        assistant(as_text(values["output"], "output")),
    )
    if system := as_text(values.get("system"), "system"):
        messages = (Message(role=Role.SYSTEM, content=system), *messages)
    _check_conversation(messages)
    return Example(messages, Target())


def _as_messages(value: Any, field: str, role: Role) -> tuple[Message, ...]:  # Any: text or a list of messages
    found = _loaded(value)
    if isinstance(found, list) and (found is value or _are_messages(found)):
        return read_messages(found, field)
    return (Message(role=role, content=as_text(value, field)),)


def _are_messages(values: list[Any]) -> bool:  # Any: JSON values
    """Whether JSON text is a list of messages: a reply may be JSON of its own."""
    return bool(values) and all(isinstance(value, Mapping) and "role" in value for value in values)


def _prompt_completion(values: Values) -> Example:
    if values.get("label") is False:
        raise ShapeError(
            "an undesired completion (label false); expected desired ones, as a row is learned from. "
            "Remove it, or pair it with a desired one as prompt, chosen, rejected."
        )
    messages = _as_messages(values["prompt"], "prompt", Role.USER)
    messages += _as_messages(values["completion"], "completion", Role.ASSISTANT)
    _check_conversation(messages)
    return Example(messages, Target(), _tools(values))


def _openai_preference(values: Values) -> Example:
    given = _loaded(values["input"])
    if not isinstance(given, Mapping) or "messages" not in given:
        raise ShapeError("input without messages; expected {'messages': [...]}. Put the prompt's messages there.")
    ending = "completion" if "preferred_completion" in values else "output"
    chosen = read_messages(_loaded(values[f"preferred_{ending}"]), f"preferred_{ending}")
    rejected = read_messages(_loaded(values.get(f"non_preferred_{ending}")), f"non_preferred_{ending}")
    return _pair(read_messages(given["messages"], "input.messages"), chosen, rejected, _tools(given))


def _trl_preference(values: Values) -> Example:
    chosen = _as_messages(values["chosen"], "chosen", Role.ASSISTANT)
    rejected = _as_messages(values["rejected"], "rejected", Role.ASSISTANT)
    if values.get("prompt") is not None:
        prompt = _as_messages(values["prompt"], "prompt", Role.USER)
    else:
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    return _pair(prompt, chosen, rejected, _tools(values))


def _pair(
    prompt: tuple[Message, ...], chosen: tuple[Message, ...], rejected: tuple[Message, ...], tools: Tools
) -> Example:
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        if len(messages) != 1 or messages[0].role is not Role.ASSISTANT or not messages[0].content:
            roles = ", ".join(message.role for message in messages) or "nothing"
            raise ShapeError(
                f"the {name} side is {roles}; expected one assistant message with text after the shared prompt. "
                "Move earlier turns into the prompt."
            )
    if chosen[0].content == rejected[0].content:
        raise ShapeError("chosen and rejected are the same text; expected two replies that differ. Remove the row.")
    messages = (*prompt, chosen[0])
    _check_conversation(messages)
    target = Target(kind=TargetKind.PAIR, chosen=chosen[0].content, rejected=rejected[0].content)
    return Example(messages, target, tools)


def _table(values: Values, columns: Mapping[str, str]) -> Example:
    text = {name: as_text(field_of(values, column), column) for name, column in columns.items() if name != "id"}
    if not text["prompt"]:
        raise ShapeError(f"column {columns['prompt']!r} is empty; expected the prompt. Fill it or remove the row.")
    if "label" in text and not text["label"]:
        raise ShapeError(f"column {columns['label']!r} is empty; expected a label. Fill it or remove the row.")
    prompt = f"{text['context']}\n\n{text['prompt']}" if text.get("context") else text["prompt"]
    messages: tuple[Message, ...] = (Message(role=Role.USER, content=prompt),)
    if text.get("system"):
        messages = (Message(role=Role.SYSTEM, content=text["system"]), *messages)
    if "reply" in text:
        return Example((*messages, assistant(text["reply"])), Target())
    target = Target(kind=TargetKind.LABEL, label=text["label"])
    return Example((*messages, assistant(text["label"])), target)


_SHAPES: dict[str, tuple[tuple[str, ...], Callable[[Values], Example]]] = {
    "openai_chat": (("messages",), _chat),
    "openai_preference": (("input", "preferred_output"), _openai_preference),
    "sharegpt": (("conversations",), _share_gpt),
    "trl_preference": (("chosen", "rejected"), _trl_preference),
    "prompt_completion": (("prompt", "completion"), _prompt_completion),
    "alpaca": (("instruction", "output"), _alpaca),
}
FORMATS = ("auto", *_SHAPES, "table")


def detect(values: Values) -> str:
    """The shape of a record, by the fields it has.

    Raises:
        ShapeError: none fits.
    """
    if "input" in values and "preferred_completion" in values:
        return "openai_preference"
    for name, (needed, _) in _SHAPES.items():
        if values.keys() >= set(needed):
            return name
    found = ", ".join(repr(str(key)) for key in list(values)[:8]) or "no fields"
    raise ShapeError(
        f"a record with {found}; expected messages, conversations, instruction and output, prompt and completion, "
        'or chosen and rejected. Say what the fields mean: [data] columns = {prompt = "...", reply = "..."}.'
    )


def read_shape(values: Values, shape: str, columns: Mapping[str, str]) -> Example:
    """The content of a record.

    Raises:
        ShapeError: the record does not have this shape, or breaks it.
    """
    if shape == "auto":
        shape = "table" if "prompt" in columns else detect(values)
    if shape == "table":
        example = _table(values, columns)
    else:
        needed, reader = _SHAPES[shape]
        if shape == "openai_preference" and "preferred_completion" in values:
            needed = ("input",)
        if missing := [field for field in needed if field not in values]:
            raise ShapeError(
                f"no field {missing[0]!r}; expected it in format = {shape!r}. Correct [data] format or the record."
            )
        example = reader(values)
    if "label" in columns:
        label = as_text(field_of(values, columns["label"]), columns["label"])
        example = example._replace(target=example.target.model_copy(update={"label": label or None}))
    return example


def _check_conversation(messages: tuple[Message, ...]) -> None:
    """Refuse a conversation that has nothing to learn from."""
    if not any(message.role is Role.USER and message.content for message in messages):
        raise ShapeError("no user message with text; expected a prompt. Add it or remove the row.")
    if messages[-1].role is not Role.ASSISTANT:
        raise ShapeError(
            f"the last message is from {messages[-1].role}; expected the assistant's reply. "
            "Cut the conversation after a reply."
        )
    if messages[-1].train is False and all(m.train is False for m in messages if m.role is Role.ASSISTANT):
        raise ShapeError("every assistant message has weight 0; expected one that is trained. Set one weight to 1.")
