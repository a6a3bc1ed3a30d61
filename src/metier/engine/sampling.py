"""What is asked of the decoder, what it answers, and how one token is chosen from logits.

    >>> SamplingParams(max_tokens=64, stop_ids=frozenset({2})).temperature
    0.0

Shapes: B rows, D model width, V vocabulary, C chunks of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metier.core.errors import ConfigError
from metier.core.seeds import generator

__all__ = ["Chosen", "Request", "Sample", "SamplingParams", "choose_tokens"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How replies are drawn; the same for every prompt of one `sample` call."""

    max_tokens: int
    """Longest reply, stop token included."""
    stop_ids: frozenset[int]
    """A reply ends with the first of these; it is the reply's last token."""
    temperature: float = 0.0
    """0 takes the likeliest token; above 0 draws from softmax(logits / temperature)."""
    seed: int = 0
    """Draws of row i depend on (seed, i) alone, never on the other rows."""
    max_batch: int | None = None
    """Most rows decoded at once; None takes the decoder's own."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}; expected 1 or more.")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; expected 0 (greedy) or a positive number.")
        if self.max_batch is not None and self.max_batch < 1:
            raise ConfigError(f"max_batch is {self.max_batch}; expected 1 or more, or None.")


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how to answer it."""

    prompt_tokens: Sequence[int]
    params: SamplingParams
    seed: int | None = None
    """Seed of this request's own draws; None takes `params.seed`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply."""

    tokens: tuple[int, ...]
    """With the stop token, when that ended it."""
    logprob: float
    """Sum of the tokens' log-probabilities (nats) under the model at temperature 1."""
    finish: Literal["stop", "length"]
    """`length` also when the context was full."""
    seconds: float = field(compare=False)
    """From entering the batch to the last token."""


class Chosen(NamedTuple):
    """The next token of each row and its log-probability in nats."""

    token_B: list[int]
    logprob_B: list[float]


def choose_tokens(
    logit_BV: Tensor,
    hidden_BD: Tensor,
    head_VD: Tensor,
    temperature_B: Sequence[float],
    draw_B: Sequence[np.random.Generator | None],
) -> Chosen:
    """The next token of each row: greedy where the temperature is 0, else one draw from the row's generator.

    bf16 logits are too coarse to tell the best few tokens apart (steps of 0.125 from 16 up), so
    tokens that round to one maximum are scored again in fp32 from the same hidden state. Rounding
    keeps order, so the best is always among them.
    """
    rows, tokens, scores = _candidates(logit_BV)
    if logit_BV.dtype != torch.float32:
        scores = (hidden_BD[rows].float() * head_VD[tokens].float()).sum(-1)
    logp_BV = torch.log_softmax(logit_BV, -1, dtype=torch.float32)
    best: dict[int, tuple[float, int]] = {}
    for row, token, score in zip(rows.tolist(), tokens.tolist(), scores.tolist(), strict=True):
        if row not in best or score > best[row][0]:
            best[row] = (score, token)
    token_B = [best[row][1] if row in best else 0 for row in range(len(logit_BV))]
    for row, temperature in enumerate(temperature_B):
        draw = draw_B[row]
        if temperature > 0 and draw is not None:
            token_B[row] = _draw(logit_BV[row], temperature, draw)
    index_B = torch.tensor(token_B, device=logit_BV.device)
    logprob_B = logp_BV.gather(1, index_B[:, None])[:, 0]
    if (
        logit_BV.dtype != torch.float32
    ):  # the normaliser averages the rounding of 49,152 logits; the token's own does not
        exact_B = (hidden_BD.float() * head_VD[index_B].float()).sum(-1)
        logprob_B += exact_B - logit_BV.gather(1, index_B[:, None])[:, 0].float()
    return Chosen(token_B, logprob_B.tolist())


def _candidates(logit_BV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(row, token, logit) of every token that has a row's highest logit, in the order of rows, then tokens.

    Maxima of chunks first: torch's argmax over a wide row is ten times slower than amax.
    """
    num_rows, vocab = logit_BV.shape
    width = math.gcd(vocab, 256)
    chunk_BCW = logit_BV.view(num_rows, vocab // width, width)
    high_BC = chunk_BCW.amax(-1).float()
    best_B1 = high_BC.amax(-1, keepdim=True)
    row_N, chunk_N = torch.nonzero(high_BC == best_B1, as_tuple=True)
    value_NW = chunk_BCW[row_N, chunk_N].float()
    at_M, offset_M = torch.nonzero(value_NW == best_B1[row_N], as_tuple=True)
    return row_N[at_M], chunk_N[at_M] * width + offset_M, value_NW[at_M, offset_M]


def _draw(logit_V: Tensor, temperature: float, draw: np.random.Generator) -> int:
    """One token by inverse distribution function, in fp64 so that the last token is reachable."""
    prob_V = torch.softmax(logit_V.double() / temperature, -1)
    cumulative_V = prob_V.cumsum(-1)
    point = draw.random() * float(cumulative_V[-1])
    token = int(
        torch.searchsorted(cumulative_V, torch.tensor(point, device=logit_V.device, dtype=torch.float64), right=True)
    )
    return min(token, len(logit_V) - 1)


def request_generator(request: Request) -> np.random.Generator | None:
    """The request's own generator; None for greedy requests."""
    if request.params.temperature == 0:
        return None
    return generator(request.params.seed if request.seed is None else request.seed, "decode")
