"""JSON and tool calls."""

import json

import pytest

from metier.conventions import gold_reply
from metier.core.errors import DataError
from metier.core.rows import ToolCall
from tests.conventions.builders import convention, passes, row, why

SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}}


def test_json_schema_takes_one_valid_value_and_nothing_around_it():
    args = {"schema": SCHEMA}
    assert passes("json_schema", args, ' {"n": 2}\n')
    assert passes("json_schema", args, '```json\n{"n": 2}\n```')
    for text in ("", "{}", '{"n": 0}', '{"n": 2} done', '{"n": NaN}', "[" * 100_000, '{"n": "2"}'):
        assert not passes("json_schema", args, text), text[:20]
    assert why("json_schema", args, "{}") == "The reply breaks the schema at $: \"'n' is a required property\"."
    assert why("json_schema", args, '{"n": NaN}') == "The reply is not JSON: NaN is not JSON."


def test_json_schema_takes_values_of_the_row():
    args = {"schema": {"type": "object", "properties": {"who": {"const": "{attributes.name}"}}}}
    assert passes("json_schema", args, '{"who": "Ana"}', row(attributes={"name": "Ana"}))
    assert not passes("json_schema", args, '{"who": "Bo"}', row(attributes={"name": "Ana"}))


TOOLS = (
    {"type": "function", "function": {"name": "refund", "parameters": {
        "type": "object", "required": ["order"],
        "properties": {"order": {"type": "integer"}, "full": {"type": "boolean"}}}}},
    {"name": "close"},
)  # fmt: skip
GOLD = row(gold="", tools=TOOLS, calls=(ToolCall(name="refund", arguments={"order": 4411, "full": True}),))


def call(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_the_gold_reply_shows_its_calls():
    assert gold_reply(GOLD) == '<tool_call>\n{"arguments":{"full":true,"order":4411},"name":"refund"}\n</tool_call>'
    assert passes("tool_call", {}, gold_reply(GOLD), GOLD)
    assert gold_reply(row(gold="plain")) == "plain"


def test_tool_call_reads_the_usual_spellings():
    for text in (
        call("refund", full=True, order=4411.0),
        '{"name": "refund", "parameters": {"order": 4411, "full": true}}',
        '[{"name": "refund", "arguments": "{\\"order\\": 4411, \\"full\\": true}"}]',
        '```json\n{"name": "refund", "arguments": {"order": 4411, "full": true}}\n```',
    ):
        assert passes("tool_call", {}, text, GOLD), text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The reply holds no tool call"),
        ("[]", "the list of calls is empty"),
        ('{"arguments": {}}', "a call is not an object with a name"),
        (call("delete"), "The tool 'delete' is not offered; known: close, refund."),
        (call("refund"), "The arguments of refund break its schema at $"),
        (call("refund", order="4411", full=True), "break its schema at $.order"),
        (call("refund", order=4411), "Expected the call 'refund"),
        (call("refund", order=4412, full=True), "Expected the call 'refund"),
        (call("close"), "Expected the call 'refund"),
        (call("refund", order=4411, full=True) * 2, "The call of refund is one too many."),
    ],
)
def test_tool_call_says_what_is_wrong(text, message):
    assert not passes("tool_call", {}, text, GOLD)
    assert message in why("tool_call", {}, text, GOLD)


def test_true_is_not_one():
    gold = row(gold="", tools=({"name": "f"},), calls=(ToolCall(name="f", arguments={"a": 1}),))
    assert not passes("tool_call", {}, '{"name": "f", "arguments": {"a": true}}', gold)
    assert passes("tool_call", {}, '{"name": "f", "arguments": {"a": 1.0}}', gold)


def test_a_row_without_a_gold_call_passes_nothing():
    plain = row(tools=TOOLS)
    assert why("tool_call", {}, call("close"), plain).startswith("The gold reply holds no tool call to compare with")


def test_a_broken_tool_definition_names_row_and_tool():
    for tool, fault in (({"function": {}}, "it has no name"), ({"name": "f", "parameters": {"type": 3}}, "3 is not")):
        on = row(tools=({"name": "ok"}, tool))
        with pytest.raises(DataError, match=rf"convention 'rule': t.jsonl:1 \(row {on.row_id}\), tool 2: .*{fault}"):
            convention("tool_call").check(on, "x")
