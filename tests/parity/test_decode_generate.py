"""The decoder beside transformers' generate() and logits, fp32, on a small random model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from metier.engine import Handle, Sample, SamplingParams, sample
from metier.engine.weights import LINEAR_NAMES
from tests.engine.decode_builders import STOPS, handle, prompts, reference

NEAR_TIE = 1e-3
PARAMS = SamplingParams(max_tokens=24, stop_ids=STOPS, max_batch=5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The model is too small for two: their barriers would cost more than its products."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generated(model: Any, prompt: list[int]) -> list[int]:  # Any: the class is chosen by config
    """generate()'s greedy reply, stop token included."""
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=PARAMS.max_tokens, do_sample=False, eos_token_id=sorted(STOPS), pad_token_id=0,
        )  # fmt: skip
    return out[0, len(prompt) :].tolist()


def logits(model: Any, tokens: list[int]) -> torch.Tensor:  # Any: as above
    """fp32 logits (T, V) of every position."""
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].float()


def check_replies(model: Any, rows: list[list[int]], found: dict[int, Sample]) -> int:  # Any: as above
    """Assert equal replies, but for first differences at a near tie; their number."""
    near_ties = 0
    for i, prompt in enumerate(rows):
        expected, own = generated(model, prompt), list(found[i].tokens)
        if own != expected:
            same = next(t for t, pair in enumerate(zip(own, expected, strict=False)) if pair[0] != pair[1])
            high, low = logits(model, prompt + expected[:same])[-1].topk(2).values.tolist()
            assert high - low < NEAR_TIE, f"prompt {i}, token {same}: {own} beside {expected}"
            near_ties += 1
    return near_ties


@pytest.mark.parametrize("shared", [0, 70])
def test_greedy_replies_are_those_of_generate(shared: int) -> None:
    rows, model = prompts(17, shared=shared), reference()
    found = dict(sample(handle(), rows, PARAMS))
    assert sorted(found) == list(range(17))
    assert check_replies(model, rows, found) <= 1
    assert {one.finish for one in found.values()} == {"stop", "length"}  # both ways of ending were seen


def test_logprob_is_the_sum_over_the_reply() -> None:
    rows, model = prompts(6, shared=70), reference()
    for i, one in sample(handle(), rows, PARAMS):
        logp = torch.log_softmax(logits(model, rows[i] + list(one.tokens)), -1)
        at = range(len(rows[i]) - 1, len(rows[i]) - 1 + len(one.tokens))
        expected = sum(logp[t, token].item() for t, token in zip(at, one.tokens, strict=True))
        assert one.logprob == pytest.approx(expected, abs=1e-3)


def test_adapter_is_used_as_merged_fp32_weights_would_be() -> None:
    tuned, model, rows = handle(adapter_seed=1), reference(), prompts(9, shared=70)
    before = dict(sample(handle(), rows, PARAMS))
    merge(tuned, model)
    found = dict(sample(tuned, rows, PARAMS))
    assert check_replies(model, rows, found) <= 1
    assert found != before


def merge(tuned: Handle, model: Any) -> None:  # Any: as above
    """Add the handle's low-rank parts to the reference's weights."""
    adapter = tuned.adapter
    assert adapter is not None
    with torch.no_grad():
        for i, parts in enumerate(adapter.layers, start=adapter.first_layer):
            block = model.model.layers[i]
            for name in LINEAR_NAMES:
                owner = block.self_attn if hasattr(block.self_attn, name) else block.mlp
                getattr(owner, name).weight += adapter.scale * parts[name].b @ parts[name].a


def test_bf16_replies_are_likely_under_the_fp32_reference() -> None:
    """bf16 may choose another of two close tokens, never an unlikely one: every token is within 0.4 nats of the best."""
    rows, model = prompts(8, shared=70), reference()
    for i, one in sample(handle("bf16"), rows, PARAMS):
        found = logits(model, rows[i] + list(one.tokens))
        for t, token in enumerate(one.tokens, start=len(rows[i]) - 1):
            assert found[t].max() - found[t, token] < 0.4
