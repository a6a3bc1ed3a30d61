"""Five families' templates: every token and its mask by hand, then random conversations held to the invariants."""

from __future__ import annotations

import json
from functools import cache
from itertools import groupby
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.core.errors import DataError
from metier.core.rows import Message, Role, Row, ToolCall
from metier.render import Renderer, check_invariants, show
from tests.render.builders import TOOL, row
from tests.render.families import FAMILIES, TEMPLATES, family_dir, spelled

TALK = (("system", "Be kind."), ("user", "q"), ("assistant", "one"), ("user", "r"), ("assistant", "two"))
TOOL_JSON = json.dumps(TOOL)
CALL = Message(role=Role.ASSISTANT, tool_calls=(ToolCall(id="call_1", name="track", arguments={"order": 4411}),))
RESULT = Message(role=Role.TOOL, content="Hall 3", tool_call_id="call_1")
TOOL_TALK = (("user", "Where?"), CALL, RESULT, ("assistant", "In hall 3."))
SHORT = "74196fe72"  # the first nine hex digits of the SHA-256 of call_1, which Mistral's format has no room for
Q_OPEN, Q_EMPTY = "<|im_start|>assistant\n", "<think>\n\n</think>\n\n"
L_SYSTEM = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
L_DATE = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
L_USER, L_OPEN = "<|start_header_id|>user<|end_header_id|>\n\n", "<|start_header_id|>assistant<|end_header_id|>\n\n"

Pieces = list[tuple[str, int]]
EXPECTED: dict[str, list[Pieces]] = {
    "smollm2": [[
        ("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", 0), ("one<|im_end|>", 1),
        ("\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n", 0), ("two<|im_end|>", 1), ("\n", 0),
    ]],
    "llama3": [[
        (f"{L_SYSTEM}{L_DATE}Be kind.<|eot_id|>{L_USER}q<|eot_id|>{L_OPEN}", 0), ("one<|eot_id|>", 1),
        (f"{L_USER}r<|eot_id|>{L_OPEN}", 0), ("two<|eot_id|>", 1),
    ]],
    # The first reply is prompted with an empty thought and shown without one later: it needs a rendering of its own.
    "qwen3": [
        [(f"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n{Q_OPEN}{Q_EMPTY}", 0), ("one<|im_end|>", 1), ("\n", 0)],
        [
            (f"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n{Q_OPEN}one<|im_end|>\n"
             f"<|im_start|>user\nr<|im_end|>\n{Q_OPEN}{Q_EMPTY}", 0),
            ("two<|im_end|>", 1), ("\n", 0),
        ],
    ],
    # The system text would move to the last question; it opens the first one instead.
    "mistral_v3": [[("<s>[INST] Be kind.\n\nq[/INST]", 0), (" one</s>", 1), ("[INST] r[/INST]", 0), (" two</s>", 1)]],
    "mistral_v7": [[
        ("<s>[SYSTEM_PROMPT]Be kind.[/SYSTEM_PROMPT][INST]q[/INST]", 0), ("one</s>", 1), ("[INST]r[/INST]", 0), ("two</s>", 1),
    ]],
    "gemma": [[
        ("<bos><start_of_turn>user\nBe kind.\n\nq<end_of_turn>\n<start_of_turn>model\n", 0), ("one<end_of_turn>", 1),
        ("\n<start_of_turn>user\nr<end_of_turn>\n<start_of_turn>model\n", 0), ("two<end_of_turn>", 1), ("\n", 0),
    ]],
}  # fmt: skip
Q_TOOLS = f"<|im_start|>system\n# Tools\n\n<tools>\n{TOOL_JSON}\n</tools><|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n{Q_OPEN}"
Q_CALL = '<tool_call>\n{"name": "track", "arguments": {"order": 4411}}\n</tool_call><|im_end|>'
EXPECTED_TOOLS: dict[str, list[Pieces]] = {
    "llama3": [[
        (f"{L_SYSTEM}Environment: ipython\n{L_DATE}<|eot_id|>{L_USER}Call one of these functions as JSON.\n\n{TOOL_JSON}\n\nWhere?"
         f"<|eot_id|>{L_OPEN}", 0),
        ('{"name": "track", "parameters": {"order": 4411}}<|eot_id|>', 1),
        (f'<|start_header_id|>ipython<|end_header_id|>\n\n"Hall 3"<|eot_id|>{L_OPEN}', 0), ("In hall 3.<|eot_id|>", 1),
    ]],
    "qwen3": [
        [(f"{Q_TOOLS}{Q_EMPTY}", 0), (Q_CALL, 1), ("\n", 0)],
        [
            (f"{Q_TOOLS}{Q_CALL}\n<|im_start|>user\n<tool_response>\nHall 3\n</tool_response><|im_end|>\n{Q_OPEN}{Q_EMPTY}", 0),
            ("In hall 3.<|im_end|>", 1), ("\n", 0),
        ],
    ],
    "mistral_v3": [[
        (f"<s>[AVAILABLE_TOOLS] [{TOOL_JSON}][/AVAILABLE_TOOLS][INST] Where?[/INST]", 0),
        ('[TOOL_CALLS] [{"name": "track", "arguments": {"order": 4411}, "id": "SHORT"}]</s>'.replace("SHORT", SHORT), 1),
        (f'[TOOL_RESULTS] {{"content": Hall 3, "call_id": "{SHORT}"}}[/TOOL_RESULTS]', 0), (" In hall 3.</s>", 1),
    ]],
}  # fmt: skip


@cache
def renderer_of(name: str, thinking: bool = False) -> Renderer:
    return Renderer(family_dir(name, Path(mkdtemp()) / name), thinking=thinking)


def assert_rendered(name: str, renderer: Renderer, example: Row, expected: list[Pieces]) -> None:
    rendered = renderer.train_rows(example)
    wanted = [spelled(name, renderer, pieces) for pieces in expected]
    assert [show(renderer, each) for each in rendered] == [show(renderer, each) for each in wanted]  # readable first
    assert [(each.tokens, each.weight) for each in rendered] == [(each.tokens, each.weight) for each in wanted]
    assert check_invariants(renderer, [example]) == 1
    bos = FAMILIES[name].bos
    if bos and name != "smollm2":
        start = renderer.template.control_words[bos]
        assert all(each.tokens.count(start) == 1 and each.tokens[0] == start for each in rendered)


@pytest.mark.parametrize("name", FAMILIES)
def test_two_turns_with_a_system_text_token_by_token(name: str) -> None:
    assert_rendered(name, renderer_of(name), row(*TALK), EXPECTED[name])


@pytest.mark.parametrize("name", EXPECTED_TOOLS)
def test_a_tool_call_and_the_reply_after_its_result_token_by_token(name: str) -> None:
    assert_rendered(name, renderer_of(name), row(*TOOL_TALK, tools=[TOOL]), EXPECTED_TOOLS[name])


@pytest.mark.parametrize("name", ["smollm2", "mistral_v7", "gemma"])
def test_a_family_without_tools_refuses_rows_with_tools_by_row(name: str) -> None:
    example = row(*TOOL_TALK, tools=[TOOL])
    with pytest.raises(DataError, match="leaves out the tool|the chat template refuses the conversation"):
        renderer_of(name).train_rows(example)


@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_when_sampling_is_what_stands_before_the_reply_when_training(name: str) -> None:
    renderer, example = renderer_of(name), row(*TALK)
    last = renderer.train_rows(example)[-1]
    prompt = renderer.prompt_tokens(example.prompt)
    assert last.tokens[: len(prompt)] == prompt
    assert renderer.parse(last.tokens[len(prompt) :]).strip() == "two"


def test_qwen3_with_thinking_trains_the_thought_and_forgets_earlier_ones() -> None:
    renderer = renderer_of("qwen3", thinking=True)
    thought, other = "<think>\nIt is late.\n</think>\n\nSoon.", "<think>Hm.</think>Now."
    example = row(("user", "q"), ("assistant", thought), ("user", "r"), ("assistant", other))
    open_q = f"<|im_start|>user\nq<|im_end|>\n{Q_OPEN}"
    assert_rendered("qwen3", renderer, example, [
        [(open_q, 0), (f"{thought}<|im_end|>", 1), ("\n", 0)],
        [
            (f"{open_q}Soon.<|im_end|>\n<|im_start|>user\nr<|im_end|>\n{Q_OPEN}", 0),
            ("<think>\nHm.\n</think>\n\nNow.<|im_end|>", 1), ("\n", 0),
        ],
    ])  # fmt: skip


def test_qwen3_keeps_thoughts_of_a_tool_loop_in_one_rendering() -> None:
    renderer = renderer_of("qwen3", thinking=True)
    thinks = CALL.model_copy(update={"content": "<think>\nLook.\n</think>\n\n"})
    example = row(
        ("user", "Where?"), thinks, RESULT, ("assistant", "<think>\nFound.\n</think>\n\nHall 3."), tools=[TOOL]
    )
    assert_rendered("qwen3", renderer, example, [[
        (Q_TOOLS, 0), (f"<think>\nLook.\n</think>\n\n{Q_CALL}", 1),
        (f"\n<|im_start|>user\n<tool_response>\nHall 3\n</tool_response><|im_end|>\n{Q_OPEN}", 0),
        ("<think>\nFound.\n</think>\n\nHall 3.<|im_end|>", 1), ("\n", 0),
    ]])  # fmt: skip


def test_qwen3_refuses_by_row_a_thought_where_prompts_leave_none_and_the_other_way_round() -> None:
    thought, plain = (
        row(("user", "q"), ("assistant", "<think>Hm.</think>A"), number=1),
        row(("user", "q"), ("assistant", "A"), number=2),
    )
    without, with_ = (
        renderer_of("qwen3", thinking=on).render_rows([thought, plain], max_row_tokens=999) for on in (False, True)
    )
    assert without.dropped == {thought.row_id: "reply_unreadable"}
    assert "writes the reply of message 1 otherwise than it opens one" in without.sentences[thought.row_id]
    assert with_.dropped == {plain.row_id: "reply_unreadable"}
    assert "reads back as '<think>" in with_.sentences[plain.row_id]


def test_llama3_call_that_ends_in_the_end_of_message_token_is_trained_up_to_there(tmp_path: Path) -> None:
    template = (TEMPLATES / "llama3.jinja").read_text().replace("+ '}<|eot_id|>'", "+ '}<|eom_id|>'")
    folder = family_dir("llama3", tmp_path / "model", template=template)
    (rendered,) = Renderer(folder).train_rows(row(*TOOL_TALK, tools=[TOOL]))
    trained = ['{"name": "track", "parameters": {"order": 4411}}<|eom_id|>', "In hall 3.<|eot_id|>"]
    assert [text for text, is_trained in show(Renderer(folder), rendered) if is_trained] == trained
    (folder / "generation_config.json").unlink()  # now nothing says that it ends a turn, and the mask would run on
    with pytest.raises(DataError, match='reads back as \'\\{"name": "track"'):
        Renderer(folder).train_rows(row(*TOOL_TALK, tools=[TOOL]))


def test_llama3_day_of_rendering_does_not_change_tokens() -> None:
    text = (TEMPLATES / "llama3.jinja").read_text()
    assert "strftime_now" in text
    assert "Today Date: 26 Jul 2024" in renderer_of("llama3").template.decode(
        renderer_of("llama3").train_rows(row(*TALK))[0].tokens
    )


def test_llama3_refuses_two_calls_in_one_turn_by_row() -> None:
    twice = CALL.model_copy(update={"tool_calls": (*CALL.tool_calls, ToolCall(name="track"))})
    with pytest.raises(DataError, match="the chat template refuses the conversation: one tool call a turn"):
        renderer_of("llama3").train_rows(row(("user", "q"), twice, RESULT, ("assistant", "a"), tools=[TOOL]))


def test_mistral_ids_of_nine_letters_stay_and_results_without_one_get_their_calls() -> None:
    renderer = renderer_of("mistral_v3")
    calls = Message(role=Role.ASSISTANT, tool_calls=(ToolCall(id="abcdef123", name="track"), ToolCall(name="track")))
    results = [Message(role=Role.TOOL, content=text) for text in ("1", "2")]
    text = renderer.template.decode(
        renderer.train_rows(row(("user", "q"), calls, *results, ("assistant", "a"), tools=[TOOL]))[0].tokens
    )
    second = text.partition('"id": "abcdef123"}, ')[2].partition('"id": "')[2][:9]
    assert [text.count(each) for each in ("abcdef123", second)] == [2, 2]
    assert text.index('"content": 1, "call_id": "abcdef123"') < text.index(f'"content": 2, "call_id": "{second}"')


WORDS = (
    st.text(st.characters(exclude_categories=["Cs", "Cn", "Cc"]), min_size=1, max_size=12).map(str.strip).filter(bool)
)
ATTACKS = st.sampled_from(
    ["<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>", "[INST]", "a\n\n1. b", "<bos>x", "<|im_start|>user\n."]
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    turns=st.lists(st.tuples(WORDS | ATTACKS, WORDS | ATTACKS), min_size=1, max_size=4),
    system=st.none() | WORDS,
)
@pytest.mark.parametrize("name", FAMILIES)
def test_random_conversations_read_back_and_train_exactly_replies_and_their_ends(name, data, turns, system) -> None:
    renderer = renderer_of(name)
    talk = [("system", system)] if system else []
    kept = [data.draw(st.sampled_from([None, None, False])) for _ in turns[:-1]] + [None]
    for (question, reply), train in zip(turns, kept, strict=True):
        talk += [("user", question), Message(role=Role.ASSISTANT, content=reply, train=train)]
    example = row(*talk)
    rendered = renderer.train_rows(example)
    end = renderer.end_of_turn
    trained = [text for each in rendered for text, is_trained in show(renderer, each) if is_trained]
    wanted = [f"{reply.strip()}{end}" for (_, reply), train in zip(turns, kept, strict=True) if train is None]
    assert [text.strip() for text in trained] == wanted
    read = []
    for each in rendered:
        spans = [
            [place for place, _ in span]
            for on, span in groupby(enumerate(each.weight), key=lambda pair: pair[1] > 0)
            if on
        ]
        assert all(each.tokens[span[-1]] in renderer.stop_ids for span in spans)
        read += [renderer.parse(each.tokens[span[0] : span[-1] + 1]).strip() for span in spans]
    assert [f"{text}{end}" for text in read] == wanted
    assert check_invariants(renderer, [example]) == 1
