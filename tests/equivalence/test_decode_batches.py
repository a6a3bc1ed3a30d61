"""A reply does not depend on who is decoded beside it, on the order of prompts, or on prefix sharing."""

from __future__ import annotations

import pytest

from metier.engine import Decoder, Request, Sample, SamplingParams, logprobs, make_batch, sample
from metier.render import RenderedRow
from tests.engine.decode_builders import STOPS, drain, handle, prompts


def params(max_batch: int | None = None, *, temperature: float = 0.0, seed: int = 0) -> SamplingParams:
    return SamplingParams(max_tokens=24, stop_ids=STOPS, max_batch=max_batch, temperature=temperature, seed=seed)


def close(one: Sample, two: Sample) -> bool:
    return one.tokens == two.tokens and one.logprob == pytest.approx(two.logprob, abs=2e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_batch_of_one_and_of_many_agree(temperature: float) -> None:
    loaded, rows = handle(), prompts(13, shared=70)
    alone = dict(sample(loaded, rows, params(1, temperature=temperature)))
    for max_batch in (2, 5, 13):
        found = dict(sample(loaded, rows, params(max_batch, temperature=temperature)))
        assert all(close(found[i], alone[i]) for i in range(13))


def test_bf16_batches_differ_by_rounding_alone() -> None:
    """Sums over another width round differently in bf16: where two tokens are nearly as likely, either may be chosen."""
    loaded, rows = handle("bf16"), prompts(13, shared=70)
    alone, many = dict(sample(loaded, rows, params(1))), dict(sample(loaded, rows, params(13)))
    same = [i for i in range(13) if alone[i].tokens == many[i].tokens]
    assert len(same) >= 9
    assert all(alone[i].logprob == pytest.approx(many[i].logprob, abs=0.3) for i in same)
    for i in set(range(13)) - set(same):
        at = next(t for t, pair in enumerate(zip(alone[i].tokens, many[i].tokens, strict=False)) if len(set(pair)) > 1)
        before = [*rows[i], *alone[i].tokens[:at]]
        one, two = (next_logp(before, reply.tokens[at]) for reply in (alone[i], many[i]))
        assert abs(one - two) < 0.15  # nats, by the fp32 model; bf16 logits of 16 to 32 lie 0.125 apart


def next_logp(before: list[int], token: int) -> float:
    """Log-probability of a token after others, by the fp32 model."""
    tokens = [*before, token]
    row = RenderedRow(row_id="r", tokens=tokens, weight=[0.0] * len(before) + [1.0])
    return float(logprobs(handle(), make_batch([row])).result()[-1])


def test_shared_prefix_changes_nothing() -> None:
    loaded, rows = handle(), prompts(9, shared=70)
    shared = dict(sample(loaded, rows, params()))
    apart = drain(Decoder(loaded, max_batch=4), [Request(row, params()) for row in rows])
    assert all(close(shared[i], one) for i, one in enumerate(apart))


def test_groups_with_prefixes_of_their_own_change_nothing() -> None:
    loaded = handle()
    head = prompts(1, shared=69, longest=1)[0]
    rows = [head + tail for seed in range(3) for tail in prompts(5, shared=40, seed=seed, longest=12)] + prompts(
        3, seed=9
    )
    shared = dict(sample(loaded, rows, params(7)))
    apart = drain(Decoder(loaded, max_batch=4), [Request(row, params()) for row in rows])
    assert all(close(shared[i], one) for i, one in enumerate(apart))


def test_order_of_prompts_changes_nothing() -> None:
    loaded, rows = handle(), prompts(11, shared=70)
    forward = dict(sample(loaded, rows, params(4)))
    backward = dict(sample(loaded, rows[::-1], params(4)))
    assert all(close(forward[i], backward[10 - i]) for i in range(11))


def test_a_second_call_repeats_the_first_in_order_and_value() -> None:
    loaded, rows = handle(), prompts(11, shared=70)
    assert list(sample(loaded, rows, params(4, temperature=1.0))) == list(
        sample(loaded, rows, params(4, temperature=1.0))
    )


def test_seed_changes_draws_and_equal_prompts_draw_apart() -> None:
    loaded, rows = handle(), [prompts(1)[0]] * 6
    first = dict(sample(loaded, rows, params(temperature=1.5, seed=0)))
    second = dict(sample(loaded, rows, params(temperature=1.5, seed=1)))
    assert first != second
    assert len({one.tokens for one in first.values()}) > 1


def test_cancelling_a_row_leaves_the_others_as_they_were() -> None:
    loaded, rows = handle(), prompts(8, shared=70)
    decoder = Decoder(loaded, max_batch=4)
    ids = [decoder.add(Request(row, params())) for row in rows]
    expected = drain(Decoder(loaded, max_batch=4), [Request(row, params()) for row in rows])
    done: dict[int, Sample] = {}
    for step in range(1000):
        if step == 3:
            assert decoder.cancel(ids[0]) and decoder.cancel(ids[7])
        done.update({event.id: event.finished for event in decoder.step() if event.finished is not None})
        if not decoder.num_active and not decoder.num_waiting:
            break
    assert all(close(done[ids[i]], expected[i]) for i in range(1, 7))
    assert set(done) == set(ids[1:7])
