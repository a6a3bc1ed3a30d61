"""Choosing one token from logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from metier.core.errors import ConfigError
from metier.engine.sampling import SamplingParams, choose_tokens


def test_bf16_near_ties_are_settled_in_fp32() -> None:
    """17.03 and 17.05 are the same bf16 number; the second token's exact product is the larger one."""
    head_VD = torch.zeros(512, 2, dtype=torch.bfloat16)
    head_VD[3], head_VD[400] = torch.tensor([17.0, 0.03125]), torch.tensor([17.0, 0.046875])
    hidden_BD = torch.ones(1, 2, dtype=torch.bfloat16)
    logit_BV = torch.nn.functional.linear(hidden_BD, head_VD)
    assert logit_BV[0, 3] == logit_BV[0, 400]
    chosen = choose_tokens(logit_BV, hidden_BD, head_VD, [0.0], [None])
    assert chosen.token_B == [400]
    expected = 17.046875 - math.log(2 * math.exp(17.0) + 510)
    assert chosen.logprob_B[0] == pytest.approx(expected, abs=1e-3)


def test_fp32_takes_the_first_of_equal_tokens_and_its_logprob() -> None:
    logit_BV = torch.tensor([[0.0, 2.0, 2.0, 1.0], [5.0, 0.0, 0.0, 0.0]])
    chosen = choose_tokens(logit_BV, torch.zeros(2, 1), torch.zeros(4, 1), [0.0, 0.0], [None, None])
    assert chosen.token_B == [1, 0]
    total = 1 + 2 * math.exp(2) + math.e
    assert chosen.logprob_B[0] == pytest.approx(2 - math.log(total), abs=1e-6)


def test_draws_follow_the_tempered_probabilities() -> None:
    """Odds 1 : 3 at temperature 1 become 1 : 9 at temperature 0.5; 4,000 draws, three standard errors."""
    logit_BV = torch.tensor([[0.0, math.log(3.0)]]).repeat(4000, 1)
    draw = np.random.default_rng(0)
    for temperature, share in ((1.0, 0.75), (0.5, 0.9)):
        chosen = choose_tokens(logit_BV, torch.zeros(4000, 1), torch.zeros(2, 1), [temperature] * 4000, [draw] * 4000)
        assert sum(chosen.token_B) / 4000 == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / 4000))
        assert chosen.logprob_B[chosen.token_B.index(1)] == pytest.approx(math.log(0.75), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; expected 1 or more."),
        ({"temperature": -0.1}, "temperature is -0.1; expected 0 (greedy) or a positive number."),
        ({"temperature": math.nan}, "temperature is nan; expected 0 (greedy) or a positive number."),
        ({"max_batch": 0}, "max_batch is 0; expected 1 or more, or None."),
    ],
)
def test_params_out_of_range_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SamplingParams(**{"max_tokens": 5, "stop_ids": frozenset(), **settings})  # type: ignore[arg-type]  # on purpose
    assert str(caught.value) == message
