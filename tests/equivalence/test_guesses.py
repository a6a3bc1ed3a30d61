"""In fp32 a row decoded alone, with guesses, gets what a decoder without guesses gives: at every way a reply can end.

The other decoder holds two rows and gets the same requests one by one, so it never guesses.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from metier.engine import Decoder, Request, Sample, SamplingParams
from metier.engine.draft import Drafts
from tests.engine.decode_builders import STOPS, drain, handle, prompts

LONG = SamplingParams(max_tokens=40, stop_ids=frozenset())
STOPPED = replace(LONG, stop_ids=STOPS)
SHARED = 70


def one_by_one(decoder: Decoder, requests: list[Request]) -> list[Sample]:
    return [drain(decoder, [request])[0] for request in requests]


def assert_same(found: list[Sample], expected: list[Sample]) -> None:
    assert [(one.tokens, one.finish) for one in found] == [(one.tokens, one.finish) for one in expected]
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in expected], abs=2e-4)


def watch_guesses(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Every guess that is made from now on."""
    guesses: list[list[int]] = []
    real = Drafts.guess

    def watched(self: Drafts, max_tokens: int) -> list[int]:
        guesses.append(real(self, max_tokens))
        return guesses[-1]

    monkeypatch.setattr(Drafts, "guess", watched)
    return guesses


@pytest.mark.parametrize("first_asked", [LONG, STOPPED], ids=["read past the stop", "ended by the stop"])
def test_a_stop_inside_an_accepted_guess_ends_the_reply_there(
    monkeypatch: pytest.MonkeyPatch, first_asked: SamplingParams
) -> None:
    rows = prompts(6, shared=SHARED)[1:]  # their replies end after 2 to 19 tokens, two of them where a guess ends
    requests = [Request(row, params) for row in rows for params in (first_asked, STOPPED, LONG)]
    guesses = watch_guesses(monkeypatch)
    found = one_by_one(Decoder(handle(), max_batch=1), requests)
    assert_same(found, one_by_one(Decoder(handle(), max_batch=2), requests))
    ended = [one.tokens for one in found[1::3] if one.finish == "stop"]
    inside = [guess[: at + 1] for guess in guesses for at, token in enumerate(guess) if token in STOPS]
    accepted = [reply for reply in ended if any(reply[-len(part) :] == tuple(part) for part in inside)]
    assert len(accepted) >= 2, "no reply of this test ended inside a guess"


@pytest.mark.parametrize("max_tokens", range(1, 10))
def test_a_limit_inside_a_guess_ends_the_reply_there(max_tokens: int) -> None:
    rows = prompts(2, shared=SHARED)
    short = replace(LONG, max_tokens=max_tokens)
    requests = [Request(row, params) for row in rows for params in (LONG, short, short, LONG)]
    found = one_by_one(Decoder(handle(), max_batch=1), requests)
    assert_same(found, one_by_one(Decoder(handle(), max_batch=2), requests))
    assert {(len(one.tokens), one.finish) for one in found[1::4] + found[2::4]} == {(max_tokens, "length")}


def cancelled_midway(decoder: Decoder, asked: list[int], min_tokens: int) -> int:
    """Give up a request once it has at least so many tokens; returns how many it had."""
    number = decoder.add(Request(asked, LONG))
    num = 0
    while num < min_tokens:
        num += len(decoder.step())
    assert decoder.cancel(number) and not decoder.cancel(number)
    assert (decoder.num_active, decoder.num_waiting) == (0, 0)
    return num


@pytest.mark.parametrize("min_tokens", [1, 2, 9, 20])
@pytest.mark.parametrize("keep", [False, True])
def test_a_request_cancelled_midway_changes_no_later_reply(min_tokens: int, keep: bool) -> None:
    rows = prompts(3, shared=SHARED)
    replies = []
    for max_batch in (1, 2):
        decoder = Decoder(handle(), max_batch=max_batch)
        if keep:
            decoder.share_prefix(rows[0][:SHARED], keep=True)
        found = one_by_one(decoder, [Request(rows[0], LONG)])
        num = cancelled_midway(decoder, rows[0], min_tokens)
        assert min_tokens <= num < LONG.max_tokens
        replies.append(found + one_by_one(decoder, [Request(rows[i], LONG) for i in (1, 0, 2, 1)]))
    assert_same(*replies)


@pytest.mark.parametrize("params", [LONG, STOPPED])
def test_a_kept_prefix_serves_every_request_after_it(monkeypatch: pytest.MonkeyPatch, params: SamplingParams) -> None:
    rows = prompts(7, shared=SHARED)[5:]
    requests = [Request(rows[i], params) for i in (0, 1, 0, 1)]
    guesses = watch_guesses(monkeypatch)
    replies = []
    for max_batch, keep in ((1, True), (2, True), (2, False)):
        decoder = Decoder(handle(), max_batch=max_batch)
        decoder.share_prefix(rows[0][:SHARED], keep=keep)
        replies.append(one_by_one(decoder, requests))
        assert len(decoder._trunks) == keep
    assert sum(map(bool, guesses)) >= 5
    assert_same(replies[0], replies[1])
    assert_same(replies[0], replies[2])


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "total"),
    [
        (74, 22, 96),  # three whole steps of capacity: one position more would be another head's
        (71, 26, 97),
        (71, 12, 83),
        (214, 42, 256),  # the end of the model's context
    ],
)
def test_a_request_that_needs_every_position_there_is_gets_its_whole_reply(
    monkeypatch: pytest.MonkeyPatch, num_prompt: int, max_tokens: int, total: int
) -> None:
    row = prompts(1, shared=num_prompt)[0][:num_prompt]
    asked = Request(row, replace(LONG, max_tokens=1000))
    (reply,) = one_by_one(Decoder(handle(), max_batch=2, max_tokens_total=total), [asked])
    # Seen before with more behind it, so that a guess would go on where there is no position left.
    longer = Request([*row[-20:], *reply.tokens, *range(100, 110)], replace(LONG, max_tokens=1))
    guesses = watch_guesses(monkeypatch)
    _, *found = one_by_one(Decoder(handle(), max_batch=1, max_tokens_total=total), [longer, asked, asked])
    assert_same(found, [reply, reply])
    assert (len(reply.tokens), reply.finish) == (max_tokens, "length")
    assert sum(map(bool, guesses)) >= 2
