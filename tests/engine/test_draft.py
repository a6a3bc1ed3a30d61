"""Guesses save steps and, in fp32, never change a reply."""

from __future__ import annotations

import random

import pytest

from metier.engine import Decoder, Request, SamplingParams
from metier.engine.draft import KEPT_TEXTS, LENGTHS, Drafts
from tests.engine.decode_builders import STOPS, VOCAB, drain, handle, prompts

LONG = SamplingParams(max_tokens=40, stop_ids=frozenset())


def test_a_guess_is_what_followed_the_last_three_tokens_when_they_last_stood_there() -> None:
    drafts = Drafts()
    drafts.begin([1, 2, 3, 40, 41, 42, 1, 2, 3, 50, 51, 52, 53, 1, 2])
    assert drafts.guess(7) == []  # 53, 1, 2 is new
    drafts.add(3)
    assert drafts.guess(7) == [50, 51, 52, 53, 1, 2, 3]
    assert drafts.guess(6) == [50, 51, 52] and drafts.guess(2) == []  # lengths are 7 and 3
    drafts.begin([9, 1, 2, 3])
    assert drafts.guess(7) == [50, 51, 52, 53, 1, 2, 3]


def test_old_requests_are_forgotten() -> None:
    drafts = Drafts()
    drafts.begin([1, 2, 3, 4, 5, 6, 7])
    for i in range(KEPT_TEXTS):
        drafts.begin([100 + i, 200 + i])
    drafts.begin([1, 2, 3])
    assert drafts.guess(7) == []
    assert len(drafts._texts) == KEPT_TEXTS and not drafts._next_by_gram


def num_steps(decoder: Decoder, rows: list[list[int]]) -> tuple[list[tuple[int, ...]], int]:
    replies, steps = [], 0
    for row in rows:
        decoder.add(Request(row, LONG))
        while decoder.num_active or decoder.num_waiting:
            steps += 1
            replies += [event.finished.tokens for event in decoder.step() if event.finished is not None]
    return replies, steps


def test_a_request_asked_again_takes_a_third_of_the_steps_and_gets_the_same_reply() -> None:
    row = prompts(1, shared=70)[0]
    decoder = Decoder(handle(), max_batch=1)
    first, _ = num_steps(decoder, [row])
    again, steps = num_steps(decoder, [row])
    assert again == first
    assert steps <= 1 + 40 // 3


@pytest.mark.parametrize("kind", ["none", "wrong"])
def test_guesses_that_are_missing_or_wrong_change_no_reply(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    rows = prompts(5, shared=70)
    expected, _ = num_steps(Decoder(handle(), max_batch=1), rows + rows)
    draw = random.Random(0)

    def bad(self: Drafts, max_tokens: int) -> list[int]:
        is_room = kind == "wrong" and max_tokens >= LENGTHS[0]
        return [draw.randrange(VOCAB) for _ in range(LENGTHS[0])] if is_room else []

    monkeypatch.setattr(Drafts, "guess", bad)
    assert num_steps(Decoder(handle(), max_batch=1), rows + rows)[0] == expected


def test_rows_that_are_drawn_are_not_guessed_at() -> None:
    params = SamplingParams(max_tokens=24, stop_ids=STOPS, temperature=1.3)
    rows = prompts(3, shared=70)
    one = drain(Decoder(handle(), max_batch=1), [Request(row, params, seed=i) for i, row in enumerate(rows)])
    many = drain(Decoder(handle(), max_batch=3), [Request(row, params, seed=i) for i, row in enumerate(rows)])
    assert [each.tokens for each in one] == [each.tokens for each in many]
