"""Templates that would train or prompt something else than they seem to are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from metier.core.errors import DataError, ModelError
from metier.core.rows import Message, Role, ToolCall
from metier.render import RenderedRow, Renderer, check_invariants, show, with_instruction
from tests.render.builders import TOOL, row

MakeModel = Callable[[str], Path]

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ CONTENT }}<|im_end|>\n{% endfor %}"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PLAIN = TURNS.replace("CONTENT", "m.content") + OPEN
TWO_TURNS = row(("user", "q"), ("assistant", "first"), ("user", "r"), ("assistant", "second"))


def test_replies_that_a_template_rewrites_later_are_trained_in_renderings_of_their_own(
    with_template: MakeModel,
) -> None:
    forgets = "m.content if loop.last or m.role == 'user' else 'x'"
    renderer = Renderer(with_template(TURNS.replace("CONTENT", forgets) + OPEN))
    assert renderer.train_row(row(("user", "q"), ("assistant", "a"))).num_trained == 2
    first, second = (show(renderer, each) for each in renderer.train_rows(TWO_TURNS))
    assert first == [
        ("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", False),
        ("first<|im_end|>", True),
        ("\n", False),
    ]
    assert [text for text, trained in second if trained] == ["second<|im_end|>"]
    assert second[0][0].count("x<|im_end|>") == 1, "the earlier reply as the model is shown it"
    assert check_invariants(renderer, [TWO_TURNS]) == 1
    result = renderer.render_rows([TWO_TURNS], max_row_tokens=999)
    assert ([each.row_id for each in result.kept], result.num_read) == ([TWO_TURNS.row_id] * 2, 1)
    with pytest.raises(DataError, match=f"row {TWO_TURNS.row_id}: the chat template .* need 2 renderings"):
        renderer.train_row(TWO_TURNS)


def test_template_that_opens_replies_otherwise_is_refused(with_template: MakeModel) -> None:
    with pytest.raises(ModelError, match="writes a reply otherwise than it opens one"):
        Renderer(with_template(PLAIN.replace("assistant\n{% endif", "assistant\n<think>{% endif")))


def test_template_that_inserts_text_before_the_reply_is_refused(with_template: MakeModel) -> None:
    thinks = "'<think></think>' + m.content if m.role == 'assistant' else m.content"
    with pytest.raises(ModelError, match="expected a control token right after the reply"):
        Renderer(with_template(TURNS.replace("CONTENT", thinks) + OPEN))


def test_template_without_an_end_of_turn_is_refused(with_template: MakeModel) -> None:
    with pytest.raises(ModelError, match="expected a control token right after the reply"):
        Renderer(with_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "[:-11]))


def test_template_that_doubles_the_start_of_text_is_refused(with_template: MakeModel) -> None:
    with pytest.raises(ModelError, match="stands 2 times at the front"):
        Renderer(with_template("<|im_start|>" + PLAIN))


def test_template_with_one_start_of_text_is_held_to_it(with_template: MakeModel) -> None:
    folder = with_template("{{ bos_token }}" + PLAIN)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "<|endoftext|>"}))
    rendered = Renderer(folder).train_row(TWO_TURNS)
    assert rendered.tokens[0] == 0
    assert rendered.tokens.count(0) == 1


def test_template_that_trims_replies_is_accepted_and_trains_the_trimmed_text(with_template: MakeModel) -> None:
    renderer = Renderer(with_template(TURNS.replace("CONTENT", "m.content | trim") + OPEN))
    example = row(("user", "q"), ("assistant", " a \n"))
    assert [text for text, trained in show(renderer, renderer.train_row(example)) if trained] == ["a<|im_end|>"]
    assert check_invariants(renderer, [example]) == 1


def test_template_that_changes_a_reply_loses_that_row_only(with_template: MakeModel) -> None:
    renderer = Renderer(with_template(TURNS.replace("CONTENT", "m.content | replace('secret', '')") + OPEN))
    good, bad = row(("user", "q"), ("assistant", "a")), row(("user", "q"), ("assistant", "a secret b"), number=1)
    result = renderer.render_rows([good, bad], max_row_tokens=100)
    assert [kept.row_id for kept in result.kept] == [good.row_id]
    assert result.dropped == {bad.row_id: "reply_unreadable"}
    assert "reads back as 'a  b'" in result.sentences[bad.row_id]


def test_template_that_ignores_tools_is_refused_for_rows_with_tools(with_template: MakeModel) -> None:
    renderer = Renderer(with_template(PLAIN))
    with pytest.raises(DataError, match="leaves out the tools, so the model would never see that"):
        renderer.train_row(row(("user", "q"), ("assistant", "a"), tools=[TOOL]))
    with pytest.raises(DataError, match="leaves out the tools"):
        renderer.prompt_tokens([Message(role=Role.USER, content="q")], [TOOL])


def test_template_that_ignores_tool_calls_is_refused_for_rows_with_calls(with_template: MakeModel) -> None:
    calls = Message(role=Role.ASSISTANT, tool_calls=(ToolCall(name="track"),))
    listed = "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    renderer = Renderer(with_template(listed + PLAIN))
    with pytest.raises(DataError, match="leaves out the tool calls of message 1"):
        renderer.train_row(row(("user", "q"), calls, ("tool", "x"), ("assistant", "a"), tools=[TOOL]))


@pytest.mark.parametrize("what", ["ignores", "refuses"])
def test_system_message_a_template_does_not_take_opens_the_first_user_message(
    with_template: MakeModel, what: str
) -> None:
    deaf = PLAIN.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('No system turn here') }}{% endif %}" + PLAIN
    renderer = Renderer(with_template({"ignores": deaf, "refuses": strict}[what]))
    example = row(("user", "q"), ("assistant", "a"))
    rendered = renderer.train_row(example, "Be kind.")
    assert show(renderer, rendered)[0] == ("<|im_start|>user\nBe kind.\n\nq<|im_end|>\n<|im_start|>assistant\n", False)
    prompt = renderer.prompt_tokens(with_instruction(example.prompt, "Be kind."))
    assert rendered.tokens[: len(prompt)] == prompt
    assert check_invariants(renderer, [example], "Be kind.") == 1


def test_system_message_that_can_stand_nowhere_is_refused_by_row(with_template: MakeModel) -> None:
    deaf = PLAIN.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    late = row(("user", "q"), ("system", "Be kind."), ("user", "r"), ("assistant", "a"))
    with pytest.raises(DataError, match=r"leaves out the text of message 1 \(system\)"):
        Renderer(with_template(deaf)).train_row(late)


def test_templates_own_refusal_names_the_row(with_template: MakeModel) -> None:
    strict = "{% for m in messages if m.role == 'tool' %}{{ raise_exception('No tool turn here') }}{% endfor %}"
    renderer = Renderer(with_template(strict + PLAIN))
    example = row(("user", "q"), ("tool", "t"), ("assistant", "a"))
    with pytest.raises(DataError, match=f"row {example.row_id}: the chat template refuses.*No tool turn here"):
        renderer.train_row(example)


def test_missing_template_and_missing_tokenizer_are_named(with_template: MakeModel) -> None:
    folder = with_template(PLAIN)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="the tokenizer has no chat template"):
        Renderer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="there is no tokenizer.json"):
        Renderer(folder)


class TestSlowRoadCatches:
    """`check_invariants` must fail when the fast road is wrong: each test is a mutant."""

    def broken(self, tiny: Renderer, monkeypatch: pytest.MonkeyPatch, change: Callable[[RenderedRow], None]) -> None:
        honest = Renderer.train_rows

        def mutant(self: Renderer, given, instruction=None):
            (rendered,) = honest(self, given, instruction)
            change(rendered)
            return [rendered]

        monkeypatch.setattr(Renderer, "train_rows", mutant)
        check_invariants(tiny, [TWO_TURNS])

    def test_untrained_end_of_turn(self, tiny: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
        def change(rendered: RenderedRow) -> None:
            last = max(place for place, value in enumerate(rendered.weight) if value)
            rendered.weight[last] = 0.0

        with pytest.raises(ModelError, match=f"row {TWO_TURNS.row_id}: its mask does not cover exactly"):
            self.broken(tiny, monkeypatch, change)

    def test_trained_user_text(self, tiny: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ModelError, match="its mask does not cover exactly"):
            self.broken(tiny, monkeypatch, lambda rendered: rendered.weight.__setitem__(3, 1.0))

    def test_every_token_masked(self, tiny: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ModelError, match="its mask does not cover exactly"):
            self.broken(tiny, monkeypatch, lambda r: r.weight.__setitem__(slice(None), [0.0] * len(r.weight)))

    def test_changed_token(self, tiny: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ModelError, match="its tokens are not the template's own"):
            self.broken(tiny, monkeypatch, lambda rendered: rendered.tokens.__setitem__(3, rendered.tokens[3] + 1))

    def test_honest_rows_pass(self, tiny: Renderer) -> None:
        assert check_invariants(tiny, [TWO_TURNS, row(("user", "<|im_end|>"), ("assistant", "a"))], "Be kind.") == 2
