"""Replies one request at a time: the first request is measured like every other, and none from its own earlier reply."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metier.arms import Replier
from metier.arms.replier import with_instruction
from metier.core.rows import Row
from metier.core.trials import Reply
from metier.engine import Decoder
from tests.arms.builders import rows

ASKED = rows([(f"Where is my order {i}? It was a {thing}.", "?") for i, thing in enumerate(("lamp", "tent", "mug"))])
INSTRUCTION = "Answer in one sentence, kindly, and say what happens next."


@pytest.fixture(scope="module")
def replier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replier]:
    from metier.engine import close, load
    from metier.models import make_tiny_model
    from metier.render import Renderer

    texts = [row.prompt_text for row in ASKED]
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"), texts=texts, width=32, num_layers=2)
    handle = load(folder, dtype="fp32", threads=1)
    yield Replier(handle, Renderer(folder), max_reply_tokens=30)
    close(handle)


class Counted:
    """Steps of every decoder since the last look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_steps = 0
        real = Decoder.step

        def step(decoder: Decoder) -> object:
            self.num_steps += 1
            return real(decoder)

        monkeypatch.setattr(Decoder, "step", step)

    def taken(self) -> int:
        num, self.num_steps = self.num_steps, 0
        return num


def asked_in_turn(replier: Replier, asked: list[Row], counted: Counted) -> list[tuple[Reply, int]]:
    """Every reply with the steps it took; the first one's hold the step that reads the shared prefix."""
    counted.taken()
    talks = [with_instruction(row, INSTRUCTION) for row in asked]
    return [(reply, counted.taken()) for reply in replier.reply_each(asked, talks)]


def fresh_steps(replier: Replier, row: Row, counted: Counted) -> int:
    """Steps of a decoder that has read nothing before."""
    from metier.engine import Request, SamplingParams
    from metier.render import Conversation

    (prompt,) = replier.renderer.prompt_tokens_batch([Conversation(with_instruction(row, INSTRUCTION), row.tools)])
    decoder = Decoder(replier.handle, max_batch=1)
    decoder.add(
        Request(prompt, SamplingParams(max_tokens=replier.max_reply_tokens, stop_ids=replier.renderer.stop_ids))
    )
    counted.taken()
    while decoder.num_active or decoder.num_waiting:
        decoder.step()
    return counted.taken()


def told(reply: Reply) -> tuple[str, int, int, str]:
    return reply.text, reply.tokens_in, reply.tokens_out, reply.finish


def test_the_order_of_asking_changes_no_reply(replier: Replier, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    at_once = replier.reply(ASKED, [with_instruction(row, INSTRUCTION) for row in ASKED])
    expected = {row.row_id: told(reply) for row, reply in zip(ASKED, at_once, strict=True)}
    for order in (ASKED, ASKED[::-1], ASKED[1:] + ASKED[:1]):
        found = asked_in_turn(replier, order, counted)
        assert {row.row_id: told(reply) for row, (reply, _) in zip(order, found, strict=True)} == expected


@pytest.mark.parametrize("first", range(len(ASKED)))
def test_the_first_request_takes_as_many_steps_as_a_fresh_decoder_takes_for_it(
    replier: Replier, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    counted = Counted(monkeypatch)
    order = [ASKED[first], *(row for row in ASKED if row is not ASKED[first])]
    (_, steps), *_ = asked_in_turn(replier, order, counted)
    assert steps - 1 == fresh_steps(replier, order[0], counted)
    assert steps > 2, "a reply of one step shows nothing"


def test_a_request_that_is_asked_again_would_take_fewer_steps(
    replier: Replier, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the test above would miss if the first request were asked whole before it is measured.
    (_, first), (_, again) = asked_in_turn(replier, [ASKED[0], ASKED[0]], Counted(monkeypatch))
    assert again < first - 1
