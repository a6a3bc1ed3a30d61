"""Events, limits, cancelling and memory of the decoder."""

from __future__ import annotations

import pytest
import torch

from metier.core.errors import ConfigError, DataError
from metier.engine import Decoder, Request, SamplingParams, sample
from metier.engine.packed import Matrix
from tests.engine.decode_builders import STOPS, drain, handle, prompts

NEVER = SamplingParams(max_tokens=6, stop_ids=frozenset())
USUAL = SamplingParams(max_tokens=24, stop_ids=STOPS)


def test_events_spell_each_reply_token_by_token() -> None:
    decoder = Decoder(handle(), max_batch=3)
    ids = [decoder.add(Request(row, USUAL)) for row in prompts(7)]
    spelled: dict[int, list[int]] = {one: [] for one in ids}
    finished = {}
    while decoder.num_active or decoder.num_waiting:
        events = decoder.step()
        assert decoder.num_active <= 3
        assert len({event.id for event in events}) == len(events)
        for event in events:
            assert event.id not in finished
            spelled[event.id].append(event.token)
            if event.finished is not None:
                finished[event.id] = event.finished
    assert {one: tuple(tokens) for one, tokens in spelled.items()} == {i: s.tokens for i, s in finished.items()}
    for one in finished.values():
        assert (one.tokens[-1] in STOPS) == (one.finish == "stop")
        assert not STOPS.intersection(one.tokens[:-1])
        assert one.logprob < 0 < one.seconds
    assert decoder.step() == []


def test_rows_enter_while_others_are_decoded() -> None:
    decoder = Decoder(handle(), max_batch=4)
    first = decoder.add(Request([30, 31], NEVER))
    decoder.step()
    second = decoder.add(Request([40, 41, 42], NEVER))
    assert [event.id for event in decoder.step()] == [second]
    assert [event.id for event in decoder.step()] == [first, second]


def test_no_prompts_give_no_samples() -> None:
    assert list(sample(handle(), [], NEVER)) == []


def test_a_full_context_ends_a_reply() -> None:
    """256 positions, 253 of them prompt: three tokens are left."""
    found = dict(sample(handle(), [[50] * 253], NEVER))
    assert len(found[0].tokens) == 3 and found[0].finish == "length"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt 1 has no tokens; expected at least one."),
        (
            [50] * 256,
            "prompt 1 has 256 tokens; at most 255 leave room for a reply (the model reads 256 positions, the decoder "
            "holds 32768). Shorten the prompt.",
        ),
        ([3, 384], "prompt 1 has token 384; expected 0 to 383. Use the tokenizer of this model."),
        ([-1], "prompt 1 has token -1; expected 0 to 383. Use the tokenizer of this model."),
    ],
)
def test_a_bad_prompt_is_named_before_anything_is_decoded(prompt: list[int], message: str) -> None:
    with pytest.raises(DataError) as caught:
        sample(handle(), [[1, 2], prompt], NEVER)
    assert str(caught.value) == message


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_batch is 0, prefill_tokens 512; expected 1 or more"):
        Decoder(handle(), max_batch=0)


def test_cancel_reaches_waiting_and_active_rows_once() -> None:
    decoder = Decoder(handle(), max_batch=1)
    active, waiting = decoder.add(Request([30], NEVER)), decoder.add(Request([31], NEVER))
    decoder.step()
    assert (decoder.num_active, decoder.num_waiting) == (1, 1)
    assert decoder.cancel(waiting) and decoder.cancel(active)
    assert (decoder.num_active, decoder.num_waiting) == (0, 0)
    assert not decoder.cancel(active) and not decoder.cancel(99)
    assert decoder.step() == []


def test_memory_holds_as_many_rows_as_fit() -> None:
    """Rows of 20 + 6 tokens take 32 positions each: 96 hold three, and all ten are answered the same."""
    rows = [[*range(30, 49), 50 + i] for i in range(10)]
    decoder = Decoder(handle(), max_batch=8, max_tokens_total=96)
    ids = [decoder.add(Request(row, NEVER)) for row in rows]
    most, done = 0, {}
    while decoder.num_active or decoder.num_waiting:
        done.update({event.id: event.finished for event in decoder.step() if event.finished})
        most = max(most, decoder.num_active)
    assert most == 3
    apart = drain(Decoder(handle()), [Request(row, NEVER) for row in rows])
    assert [done[one].tokens for one in ids] == [one.tokens for one in apart]


def test_a_prefix_is_freed_with_its_last_row_unless_kept() -> None:
    head = prompts(1, shared=70, longest=1)[0]
    for keep in (False, True):
        decoder = Decoder(handle())
        decoder.share_prefix(head, keep=keep)
        expected = drain(Decoder(handle()), [Request([*head, 60], NEVER)])[0].tokens
        assert drain(decoder, [Request([*head, 60], NEVER)])[0].tokens == expected
        assert [trunk.is_ready for trunk in decoder._trunks] == ([True] if keep else [])


def test_the_adapter_is_as_it_was_when_the_decoder_was_made() -> None:
    tuned = handle(adapter_seed=1)
    decoder, row = Decoder(tuned), prompts(1)[0]
    before = drain(decoder, [Request(row, NEVER)])[0]
    assert tuned.adapter is not None
    with torch.no_grad():
        tuned.adapter.masters_P.mul_(-3.0)
    assert drain(decoder, [Request(row, NEVER)])[0] == before
    assert drain(Decoder(tuned), [Request(row, NEVER)])[0] != before


def test_weights_changed_in_place_are_read_anew() -> None:
    loaded, row = handle(), prompts(1)[0]
    before = drain(Decoder(loaded), [Request(row, NEVER)])[0]
    with torch.no_grad():
        loaded.weights.layers[0].down.mul_(-2.0)
    assert drain(Decoder(loaded), [Request(row, NEVER)])[0] != before


def test_step_gives_the_thread_count_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        drain(Decoder(handle()), [Request([30], NEVER)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_products_are_the_plain_ones(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, x, plus = (torch.randn(*size, generator=draw).to(dtype) for size in ((40, 24), (5, 24), (5, 40)))
    expected = x.double() @ weight.double().T
    close = {"rtol": 1e-2 if dtype == torch.bfloat16 else 1e-5, "atol": 1e-1 if dtype == torch.bfloat16 else 1e-5}
    torch.testing.assert_close(Matrix(weight).times(x).double(), expected, **close)
    torch.testing.assert_close(Matrix(weight).times(x, plus).double(), expected + plus.double(), **close)
    torch.testing.assert_close(
        Matrix(weight).times(x[:1], plus[:1]).double(), expected[:1] + plus[:1].double(), **close
    )
