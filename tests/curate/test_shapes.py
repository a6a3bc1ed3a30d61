"""Every accepted shape, its messages spelled out; every broken one, its message."""

from __future__ import annotations

from typing import Any

import pytest

from metier.core.rows import TargetKind
from metier.curate.shapes import FORMATS, ShapeError, read_shape

U, A, S, T = "user", "assistant", "system", "tool"
HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}
TOOLS = [{"type": "function", "function": {"name": "find"}}]
CALL = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"order": 7}'}}

GOOD: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    ("openai_chat", {"messages": [{"role": "system", "content": "Be kind"}, HI, HELLO]}, [(S, "Be kind"), (U, "Hi"), (A, "Hello")]),
    ("openai_chat", {"messages": [{"role": "developer", "content": "Be kind"}, HI, HELLO]}, [(S, "Be kind"), (U, "Hi"), (A, "Hello")]),
    ("openai_chat", {"messages": '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'}, [(U, "Hi"), (A, "Hello")]),
    ("openai_chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]}, HELLO]}, [(U, "Hi\nyou"), (A, "Hello")]),
    ("sharegpt", {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, [(S, "s"), (U, "Hi"), (A, "Hello")]),
    ("sharegpt", {"system": "s", "conversations": [{"from": "user", "value": "Hi"}, {"from": "chatgpt", "value": "Hello"}]}, [(S, "s"), (U, "Hi"), (A, "Hello")]),
    ("alpaca", {"instruction": "Translate", "input": "Katze", "output": "cat"}, [(U, "Translate\n\nKatze"), (A, "cat")]),
    ("alpaca", {"instruction": "Greet", "input": "", "output": "Hello"}, [(U, "Greet"), (A, "Hello")]),
    ("prompt_completion", {"prompt": "Hi", "completion": " Hello\r\nyou "}, [(U, "Hi"), (A, "Hello\nyou")]),
    ("prompt_completion", {"prompt": [HI], "completion": [HELLO]}, [(U, "Hi"), (A, "Hello")]),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "record", "messages"), GOOD)
def test_shape_is_detected_and_read(shape: str, record: dict[str, Any], messages: list[tuple[str, str]]) -> None:
    for asked in ("auto", shape):
        example = read_shape(record, asked, {})
        assert [(m.role, m.content) for m in example.messages] == messages
        assert example.target.kind is TargetKind.REPLY


PAIRS: list[tuple[str, dict[str, Any]]] = [
    ("openai_preference", {"input": {"messages": [HI]}, "preferred_output": [HELLO], "non_preferred_output": [{"role": "assistant", "content": "What"}]}),
    ("openai_preference", {"input": {"messages": [HI]}, "preferred_completion": [HELLO], "non_preferred_completion": [{"role": "assistant", "content": "What"}]}),
    ("trl_preference", {"prompt": "Hi", "chosen": "Hello", "rejected": "What"}),
    ("trl_preference", {"prompt": [HI], "chosen": [HELLO], "rejected": [{"role": "assistant", "content": "What"}]}),
    ("trl_preference", {"chosen": [HI, HELLO], "rejected": [HI, {"role": "assistant", "content": "What"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "record"), PAIRS)
def test_preference_is_a_pair_that_ends_in_the_chosen_reply(shape: str, record: dict[str, Any]) -> None:
    for asked in ("auto", shape):
        example = read_shape(record, asked, {})
        assert [(m.role, m.content) for m in example.messages] == [(U, "Hi"), (A, "Hello")]
        assert (example.target.kind, example.target.chosen, example.target.rejected) == (
            TargetKind.PAIR,
            "Hello",
            "What",
        )


def test_weight_says_which_assistant_turn_is_trained() -> None:
    record = {"messages": [HI, {**HELLO, "weight": 0}, HI, {**HELLO, "weight": 1}, HI, HELLO]}
    assert [m.train for m in read_shape(record, "auto", {}).messages] == [None, False, None, True, None, None]


def test_tool_calls_and_tools_are_kept() -> None:
    record = {
        "messages": [
            HI,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "here", "tool_call_id": "1"},
            HELLO,
        ],
        "tools": TOOLS,
    }
    example = read_shape(record, "auto", {})
    call = example.messages[1].tool_calls[0]
    assert (call.id, call.name, call.arguments) == ("1", "find", {"order": 7})
    assert example.messages[2].tool_call_id == "1"
    assert list(example.tools) == TOOLS


def test_older_functions_are_read_as_the_tools_and_calls_they_are() -> None:
    find = {"name": "find", "description": "An order", "parameters": {"type": "object"}}
    record = {
        "messages": [
            HI,
            {"role": "assistant", "content": None, "function_call": {"name": "find", "arguments": '{"order": 7}'}},
            {"role": "function", "name": "find", "content": "here"},
            HELLO,
        ],
        "functions": [find],
    }
    example = read_shape(record, "auto", {})
    (call,) = example.messages[1].tool_calls
    assert (call.id, call.name, call.arguments) == ("", "find", {"order": 7})
    assert (example.messages[2].role, example.messages[2].name, example.messages[2].content) == (T, "find", "here")
    assert example.tools == ({"type": "function", "function": find},)


WITH_FUNCTIONS: list[dict[str, Any]] = [
    {"messages": [HI, HELLO]},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    {"prompt": "Hi", "completion": "Hello"},
    {"prompt": "Hi", "chosen": "Hello", "rejected": "What"},
]


@pytest.mark.parametrize("record", WITH_FUNCTIONS, ids=lambda record: next(iter(record)))
def test_older_functions_reach_the_row_in_every_shape_that_carries_tools(record: dict[str, Any]) -> None:
    assert read_shape({**record, "functions": [{"name": "find"}]}, "auto", {}).tools == tuple(TOOLS)


def test_older_functions_of_a_preference_stand_in_its_input() -> None:
    given = {"messages": [HI], "functions": [{"name": "find"}]}
    other = {"role": "assistant", "content": "What"}
    record = {"input": given, "preferred_output": [HELLO], "non_preferred_output": [other]}
    assert read_shape(record, "auto", {}).tools == tuple(TOOLS)


def test_share_gpt_function_call_is_a_tool_call() -> None:
    turns = [
        {"from": "human", "value": "Hi"},
        {"from": "function_call", "value": '{"name": "find", "arguments": {"order": 7}}'},
        {"from": "observation", "value": "here"},
        {"from": "gpt", "value": "Hello"},
    ]
    messages = read_shape({"conversations": turns}, "auto", {}).messages
    assert messages[1].tool_calls[0].arguments == {"order": 7}
    assert messages[2].role == T


def test_table_columns_say_what_is_what() -> None:
    record = {
        "q": "When?",
        "a": "Soon",
        "sys": "Be brief",
        "doc": "The parcel left.",
        "topic": "delivery",
        "more": {"lang": "en"},
    }
    columns = {"prompt": "q", "reply": "a", "system": "sys", "context": "doc", "label": "topic"}
    example = read_shape(record, "auto", columns)
    assert [(m.role, m.content) for m in example.messages] == [
        (S, "Be brief"),
        (U, "The parcel left.\n\nWhen?"),
        (A, "Soon"),
    ]
    assert (example.target.kind, example.target.label) == (TargetKind.REPLY, "delivery")
    nested = read_shape(record, "table", {"prompt": "q", "label": "more.lang"})
    assert [(m.role, m.content) for m in nested.messages] == [(U, "When?"), (A, "en")]
    assert (nested.target.kind, nested.target.label) == (TargetKind.LABEL, "en")


def test_label_column_stands_beside_any_shape() -> None:
    example = read_shape({"messages": [HI, HELLO], "topic": 3}, "auto", {"label": "topic"})
    assert (example.target.kind, example.target.label) == (TargetKind.REPLY, "3")


BAD: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"question": "Hi", "answer": "Hello"}, {}, "a record with 'question', 'answer'; expected messages, conversations, instruction and output, prompt and completion, or chosen and rejected. Say what the fields mean: [data] columns"),
    ({}, {}, "a record with no fields; expected messages"),
    ({"messages": []}, {}, "messages is an empty list; expected a list of messages"),
    ({"messages": None}, {}, "messages is missing; expected a list"),
    ({"messages": ["Hi"]}, {}, "message 1 is a str; expected an object with role and content"),
    ({"messages": [HI, {"role": "bot", "content": "x"}]}, {}, "message 2 has role 'bot'; expected system, user, assistant or tool. Rename the role in the file."),
    ({"messages": [HI]}, {}, "the last message is from user; expected the assistant's reply"),
    ({"messages": [HELLO]}, {}, "no user message with text; expected a prompt"),
    ({"messages": [{"role": "user", "content": "  "}, HELLO]}, {}, "message 1 (user) has no content; expected text"),
    ({"messages": [HI, {**HELLO, "weight": 2}]}, {}, "message 2 has weight 2; expected 0 or 1"),
    ({"messages": [{**HI, "weight": 1}, HELLO]}, {}, "message 1 (user) has weight 1; expected weights on assistant messages"),
    ({"messages": [HI, {**HELLO, "weight": 0}]}, {}, "every assistant message has weight 0; expected one that is trained"),
    ({"messages": [HI, {**HELLO, "mood": "kind"}]}, {}, "message 2 has a field 'mood'; expected role, content, tool_calls, weight"),
    ({"messages": [HI, {**HELLO, "function_call": {}}]}, {}, "message 2 has a tool call without a name or an arguments object; expected both"),
    ({"messages": [HI, {**HELLO, "function_call": {"name": "f", "arguments": "{"}}]}, {}, "message 2 has a tool call in broken JSON"),
    ({"messages": [HI, {**HELLO, "function_call": {"name": "f"}, "tool_calls": [CALL]}]}, {}, "message 2 has tool_calls and function_call; expected one of them. Remove function_call."),
    ({"messages": [HI, HELLO], "functions": {"name": "f"}}, {}, "functions is a dict; expected a list of function definitions"),
    ({"messages": [HI, HELLO], "functions": [{"name": "f"}, {"parameters": {}}]}, {}, "function 2 has no name; expected name, description, parameters"),
    ({"messages": [HI, HELLO], "functions": [{"name": "f"}], "tools": TOOLS}, {}, "a record with tools and functions; expected one of them. Remove functions."),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, HELLO]}, {}, "message 1 has a content part of type 'image_url'; expected text"),
    ({"messages": [HI, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}, {}, "message 2 has a tool call in broken JSON"),
    ({"messages": [HI, {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]}, {}, "a tool call without a name or an arguments object"),
    ({"messages": [HI, {"role": "assistant", "tool_calls": 5}]}, {}, "message 2: tool_calls is a int; expected a list of calls. Correct the record."),
    ({"messages": [HI, {"role": "assistant", "tool_calls": [{"function": "find"}]}]}, {}, "a tool call without a name or an arguments object"),
    ({"messages": [HI, HELLO], "tools": {"a": 1}}, {}, "tools is a dict; expected a list of tool definitions"),
    ({"messages": [{"role": "user", "content": "a\0b"}, HELLO]}, {}, "message 1 content holds a NUL character at 2; expected text"),
    ({"messages": [{"role": "user", "content": "a\ud800"}, HELLO]}, {}, "message 1 content holds half a character (a lone surrogate) at 2"),
    ({"conversations": [{"from": "alien", "value": "x"}]}, {}, "turn 1 is from 'alien'; expected human, gpt, system, tool or function_call"),
    ({"prompt": "Hi", "completion": "No", "label": False}, {}, "an undesired completion (label false); expected desired ones"),
    ({"prompt": "Hi", "chosen": "Same", "rejected": "Same"}, {}, "chosen and rejected are the same text"),
    ({"prompt": "Hi", "chosen": "", "rejected": "x"}, {}, "the chosen side is assistant; expected one assistant message with text"),
    ({"input": "Hi", "preferred_output": [HELLO], "non_preferred_output": [HELLO]}, {}, "input without messages; expected"),
    ({"q": "", "a": "x"}, {"prompt": "q", "reply": "a"}, "column 'q' is empty; expected the prompt"),
    ({"q": "x", "l": ""}, {"prompt": "q", "label": "l"}, "column 'l' is empty; expected a label"),
    ({"q": {"text": "x"}, "a": "y"}, {"prompt": "q", "reply": "a"}, "q is a dict; expected text"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "columns", "message"), BAD)
def test_broken_record_says_what_was_found_and_expected(
    record: dict[str, Any], columns: dict[str, str], message: str
) -> None:
    with pytest.raises(ShapeError) as caught:
        read_shape(record, "auto", columns)
    assert message in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("shape", [f for f in FORMATS if f not in ("auto", "table")])
def test_asked_format_is_enforced(shape: str) -> None:
    with pytest.raises(ShapeError, match=f"expected it in format = '{shape}'"):
        read_shape({"nothing": 1}, shape, {})
