"""Single messages: OpenAI and ShareGPT turns, tool calls and tool lists turned into `Message`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from metier.core.rows import Message, Role, ToolCall

__all__ = ["ShapeError", "as_text", "assistant", "read_messages", "read_share_gpt", "read_tools"]


class ShapeError(ValueError):
    """A record is not what its shape promises; the text says what was found, expected and to do."""


_SHARE_GPT_ROLES = {
    "human": Role.USER, "user": Role.USER, "gpt": Role.ASSISTANT, "assistant": Role.ASSISTANT,
    "chatgpt": Role.ASSISTANT, "bing": Role.ASSISTANT, "bard": Role.ASSISTANT, "model": Role.ASSISTANT,
    "system": Role.SYSTEM, "tool": Role.TOOL, "function": Role.TOOL, "observation": Role.TOOL,
    "function_call": Role.ASSISTANT,
}  # fmt: skip
# function, function_call and functions are OpenAI's older spelling of tool, tool_calls and tools.
_ROLES = {role.value: role for role in Role} | {"developer": Role.SYSTEM, "function": Role.TOOL}
_MESSAGE_KEYS = frozenset({
    "role", "content", "name", "tool_calls", "tool_call_id", "function_call", "weight", "train", "refusal", "audio",
    "annotations",
})  # fmt: skip
_PLAIN_KEYS = frozenset({"role", "content"})


def assistant(text: str) -> Message:
    """An assistant message."""
    return Message(role=Role.ASSISTANT, content=text)


def as_text(value: Any, field: str) -> str:  # Any: a field's value
    """A field as text, line ends as LF, outer white space dropped; None is empty.

    Raises:
        ShapeError: not text (nor a number or truth value), or text no file can hold.
    """
    if value.__class__ is not str:  # numbers and times; everything below is on the path of every field of every row
        if value is None or (isinstance(value, float) and value != value):
            return ""
        if isinstance(value, Mapping | list | bytes):
            raise ShapeError(f"{field} is a {type(value).__name__}; expected text. Map a field that holds text.")
        value = str(value)
    text: str = value.replace("\r\n", "\n").strip()
    if "\0" in text:
        raise ShapeError(f"{field} holds a NUL character at {text.index(chr(0)) + 1}; expected text. Remove it.")
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as err:
        raise ShapeError(
            f"{field} holds half a character (a lone surrogate) at {err.start + 1}; "
            "expected whole characters. Export it again."
        ) from err
    return text


def _content(value: Any, where: str) -> str:  # Any: text or a list of content parts
    if not isinstance(value, list):
        return as_text(value, f"{where} content")
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind not in ("text", "output_text", "input_text"):
            raise ShapeError(
                f"{where} has a content part of type {kind!r}; expected text. Rows of text only can be tuned on."
            )
        texts.append(as_text(part.get("text"), f"{where} content"))
    return "\n".join(texts)


def read_messages(values: Any, field: str) -> tuple[Message, ...]:  # Any: a JSON value
    """Messages in OpenAI form.

    Raises:
        ShapeError: not a list of messages, an unknown role or key, a broken tool call or weight.
    """
    if isinstance(values, Mapping):
        values = [values]
    if not isinstance(values, list) or not values:
        raise ShapeError(f"{field} is {_kind(values)}; expected a list of messages. Correct the record.")
    return tuple(_message(value, f"message {i}") for i, value in enumerate(values, start=1))


def _kind(value: Any) -> str:  # Any: a JSON value
    return "an empty list" if value == [] else "missing" if value is None else f"a {type(value).__name__}"


def _message(value: Any, where: str) -> Message:  # Any: a JSON value
    if not isinstance(value, Mapping):
        raise ShapeError(f"{where} is {_kind(value)}; expected an object with role and content. Correct the record.")
    role = _ROLES.get(str(value.get("role")))
    if role is None:
        raise ShapeError(
            f"{where} has role {value.get('role')!r}; expected system, user, assistant or tool. "
            "Rename the role in the file."
        )
    # A table gives every message the keys of all of them, the absent ones as None.
    is_plain = _PLAIN_KEYS.issuperset(value)
    if not is_plain and (unknown := [str(k) for k in value if k not in _MESSAGE_KEYS and value[k] is not None]):
        name = min(unknown)
        raise ShapeError(f"{where} has a field {name!r}; expected role, content, tool_calls, weight. Remove it.")
    calls = () if is_plain else _calls(value, where)
    content = _content(value.get("content"), where)
    if not content and not calls and role in (Role.USER, Role.SYSTEM):
        raise ShapeError(f"{where} ({role}) has no content; expected text. Fill it or remove it.")
    if is_plain:
        return Message(role=role, content=content)
    return Message(
        role=role,
        content=content,
        name=value.get("name") or None,
        tool_calls=calls,
        tool_call_id=value.get("tool_call_id") or None,
        train=_train(value, role, where),
    )


def _train(value: Mapping[str, Any], role: Role, where: str) -> bool | None:  # Any: JSON values
    """OpenAI's `weight` (0 or 1) or our `train` as whether the turn is trained."""
    given = value.get("weight", value.get("train"))
    if given is None:
        return None
    if given not in (0, 1):
        raise ShapeError(f"{where} has weight {given!r}; expected 0 or 1. Correct the weight.")
    if role is not Role.ASSISTANT:
        if given:
            raise ShapeError(f"{where} ({role}) has weight 1; expected weights on assistant messages. Remove it.")
        return None
    return bool(given)


def _calls(value: Mapping[str, Any], where: str) -> tuple[ToolCall, ...]:  # Any: JSON values
    """The calls of a message; `function_call`, one call without an id, becomes a tool call without an id."""
    calls, older = value.get("tool_calls") or [], value.get("function_call")
    if not isinstance(calls, list):
        raise ShapeError(f"{where}: tool_calls is {_kind(calls)}; expected a list of calls. Correct the record.")
    if older is None:
        return tuple(_tool_call(call, where) for call in calls)
    if calls:
        raise ShapeError(f"{where} has tool_calls and function_call; expected one of them. Remove function_call.")
    return (_tool_call(older, where),)


def _tool_call(value: Any, where: str) -> ToolCall:  # Any: a JSON value
    function = value.get("function", value) if isinstance(value, Mapping) else {}
    if not isinstance(function, Mapping):
        function = {}
    name, arguments = function.get("name"), function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(arguments or "{}", where)
    if not name or not isinstance(arguments, dict):
        raise ShapeError(
            f"{where} has a tool call without a name or an arguments object; expected both. Correct the call."
        )
    return ToolCall(id=str(value.get("id") or ""), name=str(name), arguments=arguments)


def _json(text: str, where: str) -> Any:  # Any: a JSON value, checked by the caller
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise ShapeError(f"{where} has a tool call in broken JSON ({err}); expected an object. Repair it.") from err


def read_share_gpt(values: Any) -> tuple[Message, ...]:  # Any: a JSON value
    """Messages in ShareGPT form: from and value (or role and content).

    Raises:
        ShapeError: not a list of turns, or an unknown speaker.
    """
    if not isinstance(values, list) or not values:
        raise ShapeError(f"conversations is {_kind(values)}; expected a list of turns. Correct the record.")
    messages = []
    for i, turn in enumerate(values, start=1):
        if isinstance(turn, Mapping) and "from" not in turn and "role" in turn:
            messages.append(_message(turn, f"turn {i}"))
            continue
        speaker = str(turn.get("from")) if isinstance(turn, Mapping) else _kind(turn)
        if not isinstance(turn, Mapping) or speaker not in _SHARE_GPT_ROLES:
            raise ShapeError(
                f"turn {i} is from {speaker!r}; expected human, gpt, system, tool or function_call. Rename the speaker."
            )
        value = as_text(turn.get("value"), f"turn {i}")
        if speaker == "function_call":
            messages.append(
                Message(role=Role.ASSISTANT, tool_calls=(_tool_call(_json(value, f"turn {i}"), f"turn {i}"),))
            )
        else:
            messages.append(Message(role=_SHARE_GPT_ROLES[speaker], content=value))
    return tuple(messages)


def read_tools(values: Any, functions: Any = None) -> tuple[dict[str, Any], ...]:  # Any: JSON values
    """The tools a row offers, as they stand in the record; each of `functions` becomes the tool it is.

    Raises:
        ShapeError: not a list of objects, a function without a name, or tools and functions in one record.
    """
    tools, older = _objects(values, "tools", "tool"), _objects(functions, "functions", "function")
    if tools and older:
        raise ShapeError("a record with tools and functions; expected one of them. Remove functions.")
    for i, function in enumerate(older, start=1):
        if not function.get("name"):
            raise ShapeError(f"function {i} has no name; expected name, description, parameters. Correct the record.")
    return tools or tuple({"type": "function", "function": function} for function in older)


def _objects(values: Any, field: str, what: str) -> tuple[dict[str, Any], ...]:  # Any: a JSON value
    if values is None or values == "":
        return ()
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ShapeError(f"{field} is {_kind(values)}; expected a list of {what} definitions. Correct the record.")
    return tuple(values)
