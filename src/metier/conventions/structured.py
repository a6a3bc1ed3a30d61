"""Checks of replies that are data: JSON by a schema, tool calls by the tools of the row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metier.conventions.placeholders import fill
from metier.conventions.registry import PASSED, Check, CheckResult, register
from metier.conventions.text import gold_reply, row_name, shown
from metier.core.errors import ConfigError, DataError
from metier.core.rows import Row

__all__ = ["JsonSchema", "ToolCallCheck", "read_calls"]

_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def _no_constant(name: str) -> Any:  # Any: the signature json asks for
    raise ValueError(f"{name} is not JSON")


def _unfenced(text: str) -> str:
    """The text without the ```json fence around all of it."""
    found = _FENCE.match(text.strip())
    return found[1] if found else text


def _load(text: str) -> Any:  # Any: a JSON value
    """A JSON value; NaN and infinity are refused.

    Raises:
        ValueError: not JSON, or nested too deeply to read.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as err:
        raise ValueError("nested too deeply") from err


def _schema_fault(value: Any, schema: Mapping[str, Any]) -> str:  # Any: JSON values
    """The first thing wrong with a value by a JSON Schema, as a sentence's end; empty when nothing is."""
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships without types
    from jsonschema.exceptions import best_match  # type: ignore[import-untyped]  # ships without types

    fault = best_match(Draft202012Validator(schema).iter_errors(value))
    return "" if fault is None else f"{fault.json_path}: {shown(fault.message, limit=160)}"


def _schema_mistake(schema: Any) -> str:  # Any: a JSON value that should be a schema
    """What is wrong with a JSON Schema itself; empty when nothing is. References to other files are refused."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as err:
        return f"{err.json_path}: {err.message}"
    outside = [ref for ref in _references(schema) if not ref.startswith("#")]
    return f"$ref {outside[0]!r} points outside the schema" if outside else ""


def _references(value: Any) -> Iterator[str]:  # Any: a JSON value, walked
    """Every `$ref` of a schema."""
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _references(item)


def _filled(value: Any, row: Row) -> Any:  # Any: a JSON value, walked
    """The value with the placeholders of its texts filled."""
    if isinstance(value, str):
        return fill(value, row)
    if isinstance(value, Mapping):
        return {key: _filled(item, row) for key, item in value.items()}
    return [_filled(item, row) for item in value] if isinstance(value, list | tuple) else value


@register("json_schema")
@dataclass(frozen=True, kw_only=True, slots=True)
class JsonSchema(Check):
    """The whole reply is one JSON value (a ```json fence around it aside) that obeys a JSON Schema (2020-12)."""

    schema: Mapping[str, Any]
    """The schema."""

    def __post_init__(self) -> None:
        if not self.schema:
            raise ConfigError("schema is empty: every JSON value would pass. Give at least a type.")
        if mistake := _schema_mistake(self.schema):
            raise ConfigError(f"schema is not a JSON Schema: {mistake}.")

    def result(self, row: Row, text: str) -> CheckResult:
        """0 when it is not JSON or breaks the schema."""
        try:
            value = _load(_unfenced(text))
        except ValueError as err:
            return CheckResult(0.0, f"The reply is not JSON: {err}.")
        fault = _schema_fault(value, _filled(self.schema, row))
        return CheckResult(0.0, f"The reply breaks the schema at {fault}.") if fault else PASSED

    def guideline(self) -> str:
        """The schema itself."""
        return f"Answer with one JSON value and nothing else; it must obey this JSON Schema: {json.dumps(self.schema)}"


def read_calls(text: str) -> list[tuple[str, Any]]:  # Any: the arguments as JSON
    """Name and arguments of every tool call in a reply.

    Read are `<tool_call>JSON</tool_call>` blocks, or a reply that is JSON as a whole: one call or a list,
    each `{"name": ..., "arguments": {...}}` (also "parameters", and arguments as JSON text).

    Raises:
        ValueError: no call is found, or one is not of that form.
    """
    blocks = _CALL.findall(text) or [_unfenced(text)]
    calls = []
    for block in blocks:
        value = _load(block.strip())
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, dict) or not isinstance(item.get("name"), str):
                raise ValueError("a call is not an object with a name")
            arguments = item.get("arguments", item.get("parameters", {}))
            calls.append((item["name"], _load(arguments) if isinstance(arguments, str) else arguments))
    if not calls:
        raise ValueError("the list of calls is empty")
    return calls


def _same(first: Any, second: Any) -> bool:  # Any: JSON values
    """JSON equality: 1 equals 1.0, true does not equal 1, the order of keys does not matter."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second)


@register("tool_call")
@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCallCheck(Check):
    """The reply calls the gold's tools with the gold's arguments, names and arguments valid by the row's tools.

    Calls of one turn are compared without their order, and text around `<tool_call>` blocks is not looked at.
    """

    @property
    def needs_gold(self) -> bool:
        """Always."""
        return True

    def result(self, row: Row, text: str) -> CheckResult:
        """1 only when every call is known, valid and as in the gold reply."""
        schemas = _tool_schemas(row)
        try:
            gold = read_calls(gold_reply(row))
        except ValueError as err:
            return CheckResult(0.0, f"The gold reply holds no tool call to compare with ({err}).")
        try:
            calls = read_calls(text)
        except ValueError as err:
            return CheckResult(0.0, f"The reply holds no tool call: {err}.")
        for name, arguments in calls:
            if name not in schemas:
                return CheckResult(0.0, f"The tool {shown(name)} is not offered; known: {', '.join(sorted(schemas))}.")
            if fault := _schema_fault(arguments, schemas[name]):
                return CheckResult(0.0, f"The arguments of {name} break its schema at {fault}.")
        for wanted_name, wanted in gold:
            same = next((call for call in calls if call[0] == wanted_name and _same(call[1], wanted)), None)
            if same is None:
                found = ", ".join(f"{name}({json.dumps(arguments)})" for name, arguments in calls)
                expected = f"{wanted_name}({json.dumps(wanted)})"
                return CheckResult(0.0, f"Expected the call {shown(expected, 120)}; found {shown(found, 120)}.")
            calls.remove(same)
        return CheckResult(0.0, f"The call of {calls[0][0]} is one too many.") if calls else PASSED

    def guideline(self) -> str:
        """The form of a call."""
        return (
            "Answer with a call of the right tool and nothing else, as <tool_call>"
            '{"name": ..., "arguments": {...}}</tool_call>.'
        )


def _tool_schemas(row: Row) -> dict[str, Mapping[str, Any]]:
    """Argument schemas of the row's tools by name, in either spelling (with or without a "function" object).

    Raises:
        DataError: a tool without a name, or whose parameters are no JSON Schema.
    """
    schemas: dict[str, Mapping[str, Any]] = {}
    for i, tool in enumerate(row.tools):
        function = tool.get("function", tool)
        name = function.get("name") if isinstance(function, Mapping) else None
        schema = (function.get("parameters") or {"type": "object"}) if isinstance(function, Mapping) else {}
        mistake = _schema_mistake(schema) if isinstance(name, str) else "it has no name"
        if mistake:
            raise DataError(f"{row_name(row)}, tool {i + 1}: {mistake}. Correct the tool's definition in the data.")
        schemas[str(name)] = schema
    return schemas
