"""The default base's own tokenizer: golden tokens, invariants on mixed text, and speed."""

import time

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from metier.core.errors import DataError
from metier.core.rows import Message
from metier.core.seeds import generator
from metier.models import resolve
from metier.render import Renderer, check_invariants, show
from tests.render.builders import TOOL, row

pytestmark = pytest.mark.real_base


@pytest.fixture(scope="module")
def smol() -> Renderer:
    return Renderer(resolve("smollm2-135m-instruct").dir)


def test_row_without_system_message_gets_the_templates_own(smol: Renderer) -> None:
    rendered = smol.train_row(row(("user", "Hi 12"), ("assistant", "Hello.")))
    assert show(smol, rendered) == [
        (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nHi 12<|im_end|>\n<|im_start|>assistant\n",
            False,
        ),
        ("Hello.<|im_end|>", True),
        ("\n", False),
    ]


def test_tokens_of_a_short_row_are_these(smol: Renderer) -> None:
    rendered = smol.train_row(row(("system", "Be kind."), ("user", "Hi 12"), ("assistant", "Hello.")))
    words = smol.template.tokenizer.convert_ids_to_tokens(rendered.tokens)
    prompt = "<|im_start|> system \u010a Be \u0120kind . <|im_end|> \u010a <|im_start|> user \u010a Hi \u0120 1 2 <|im_end|> \u010a"
    reply = "<|im_start|> ass istant \u010a Hello . <|im_end|> \u010a"
    assert words == [*prompt.split(), *reply.split()]
    assert rendered.weight == [0.0] * 21 + [1.0] * 3 + [0.0]


def test_rows_with_tools_are_refused_as_this_template_ignores_them(smol: Renderer) -> None:
    with pytest.raises(DataError, match="leaves out the tools"):
        smol.train_row(row(("user", "q"), ("assistant", "a"), tools=[TOOL]))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    question=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    reply=st.text(st.characters(exclude_categories=["Cs", "Cn", "Cc"]), max_size=40)
    | st.sampled_from(["<|im_end|>", "<|im_start|>user\n", "a\n\n1. b", " <|im_end|>  ", "<|im_<|im_end|>end|>"]),
)
def test_any_text_renders_reads_back_and_injects_nothing(smol: Renderer, question: str, reply: str) -> None:
    example = row(("user", question), ("assistant", reply))
    assume(not reply[:1].isspace() or smol.render_rows([example], max_row_tokens=999).kept)
    rendered = smol.train_row(example)
    prompt = smol.prompt_tokens(example.prompt)
    assert rendered.tokens[: len(prompt)] == prompt
    assert smol.parse(rendered.tokens[len(prompt) :]) == reply
    assert (rendered.tokens.count(1), rendered.tokens.count(2)) == (3, 3)
    assert check_invariants(smol, [example]) == 1


def test_reply_whose_first_white_space_merges_with_the_prompt_is_dropped(smol: Renderer) -> None:
    # The prompt ends in a newline; before a digit this tokenizer makes one token of all three.
    example = row(("user", "q"), ("assistant", "\n\n1. a"))
    result = smol.render_rows([example], max_row_tokens=99)
    assert result.dropped == {example.row_id: "reply_unreadable"}
    assert "merges with the prompt" in result.sentences[example.row_id]


def test_reply_with_a_character_the_tokenizer_lacks_is_dropped(smol: Renderer) -> None:
    # This vocabulary has no byte F1, which opens U+40000, and would drop it without a word.
    example = row(("user", "q"), ("assistant", "a\U00040000"))
    assert smol.render_rows([example], max_row_tokens=99).dropped == {example.row_id: "reply_unreadable"}


def test_a_thousand_rows_render_in_seconds(smol: Renderer) -> None:
    rng = generator(0, "words")
    words = ["order", "parcel", "4411", "Monday,", "refund", "the", "is", "49.90", "EUR", "please\n"]
    rows = [
        row(("user", " ".join(rng.choice(words, 150))), ("assistant", " ".join(rng.choice(words, 60))), number=number)
        for number in range(1000)
    ]
    start = time.process_time()
    result = smol.render_rows(rows, max_row_tokens=2048)
    assert len(result.kept) == 1000
    # Measured 1.5 s of processor time; the bound allows for a slow machine and catches a quadratic road.
    assert time.process_time() - start < 10


def test_unasked_second_reply_is_trained_as_it_stands(smol: Renderer) -> None:
    example = row(("user", "q"), ("assistant", "one"), Message(role="assistant", content="two"))
    assert [text for text, trained in show(smol, smol.train_row(example)) if trained] == [
        "one<|im_end|>",
        "two<|im_end|>",
    ]
    assert check_invariants(smol, [example]) == 1
