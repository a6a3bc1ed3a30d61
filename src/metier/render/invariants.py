"""The rendering invariants by a second, slower road, and a row as the model sees it.

`Renderer` finds trained turns by prefixes of text; here every turn is rendered again through the
tokenizer's own `apply_chat_template` and read token by token. Disagreement stops the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from metier.core.errors import ModelError
from metier.core.rows import Message, Role, Row
from metier.render.learned import trained_turns, training_messages, with_instruction
from metier.render.renderer import RenderedRow, Renderer, says_the_same
from metier.render.template import Conversation, template_message

__all__ = ["check_invariants", "show"]


def check_invariants(renderer: Renderer, rows: Iterable[Row], instruction: str | None = None) -> int:
    """Check rendering and mask of every row against the tokenizer's own template call; returns rows checked.

    Rows whose messages hold control words are checked by `Renderer` alone: the plain call would turn
    those words into control tokens, which is the very thing that must not happen.

    Raises:
        ModelError: a row's tokens, prompt, mask or parsed reply differ.
        DataError: a row cannot be trained on at all.
    """
    num_checked = 0
    for row in rows:
        rendered = renderer.train_rows(row, instruction)
        messages = renderer.fitted(with_instruction(training_messages(row), instruction))
        if not renderer.template.holds_control_words(Conversation(messages, row.tools)):
            _check_row(renderer, row, rendered, messages)
        num_checked += 1
    return num_checked


def _check_row(renderer: Renderer, row: Row, rendered: list[RenderedRow], messages: Sequence[Message]) -> None:
    """Every reply must be trained once, in a rendering whose tokens before it are its prompt."""
    turns = trained_turns(row.row_id, messages)
    expected: list[RenderedRow] = []
    part = messages
    while turns:
        expected.append(_slow_rendering(renderer, row, part, turns))
        if turns and len(part) == turns[-1] + 1:
            raise _broken(row, f"what stands before message {turns[-1]} is not its generation prompt")
        part = messages[: turns[-1] + 1] if turns else ()
    wanted = [each for each in reversed(expected) if each.num_trained]
    if [each.tokens for each in wanted] != [each.tokens for each in rendered]:
        raise _broken(row, "its tokens are not the template's own")
    if [each.weight for each in wanted] != [each.weight for each in rendered]:
        raise _broken(row, "its mask does not cover exactly the trained replies and their end-of-turn tokens")
    if not rendered or any(not each.num_trained or each.weight[0] for each in rendered):
        raise _broken(row, "it has no trained token, or its first token is trained")


def _slow_rendering(renderer: Renderer, row: Row, messages: Sequence[Message], turns: list[int]) -> RenderedRow:
    """The conversation by the tokenizer's own call; the turns that stand in it as prompted leave `turns`."""
    plain = [template_message(message) for message in messages]
    tools = [dict(tool) for tool in row.tools] or None

    def call(end: int, *, opened: bool = False) -> list[int]:
        options = {"tools": tools, "tokenize": True, "return_dict": False, "add_generation_prompt": opened}
        tokens: list[int] = renderer.template.tokenizer.apply_chat_template(
            plain[:end], **options, **renderer.template.switches
        )
        return tokens

    own = call(len(plain))
    weight = [0.0] * len(own)
    for turn in list(turns):
        prompt, up_to = call(turn, opened=True), call(turn + 1)
        if own[: len(up_to)] != up_to or up_to[: len(prompt)] != prompt:
            continue
        continues = messages[turn - 1].role is Role.ASSISTANT  # a second reply in a row is never prompted for
        if not continues and prompt != renderer.prompt_tokens(messages[:turn], row.tools):
            raise _broken(row, f"the prompt of message {turn} differs from the one used when sampling")
        size = next((i for i, token in enumerate(own[len(prompt) :]) if token in renderer.stop_ids), len(own))
        reply = own[len(prompt) : len(prompt) + size + 1]
        if len(prompt) + size >= len(up_to):
            raise _broken(row, f"message {turn} has no end-of-turn token")
        weight[len(prompt) : len(prompt) + len(reply)] = [1.0] * len(reply)
        if not messages[turn].tool_calls and not says_the_same(renderer.parse(reply), messages[turn].content):
            raise _broken(row, f"message {turn} does not read back as itself")
        turns.remove(turn)
    return RenderedRow(row.row_id, own, weight)


def _broken(row: Row, what: str) -> ModelError:
    return ModelError(
        f"row {row.row_id}: {what}. Nothing was trained; report the row and the chat template, and do not tune "
        "this base model until they agree."
    )


def show(renderer: Renderer, rendered: RenderedRow) -> list[tuple[str, bool]]:
    """The row as the model sees it: pieces of text, each with whether it is trained."""
    marked = zip(rendered.tokens, (value > 0 for value in rendered.weight), strict=True)
    groups = groupby(marked, key=lambda pair: pair[1])
    return [(renderer.template.decode([token for token, _ in group]), trained) for trained, group in groups]
