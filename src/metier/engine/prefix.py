"""Tokens that all rows of a run start with, computed once a step instead of once a row, exactly.

    >>> common_prefix([[1, 2, 3, 7], [1, 2, 3, 9]], [[0, 0, 0, 1], [0, 0, 0, 1]], least=2)
    [1, 2]

A step has three phases. (1) The prefix goes through all layers; k and v of every layer stay. (2) Rows go on from
there: their tokens attend to the prefix's k and v and to their own, and each worker sums what flows back into the
prefix's. (3) The sums, added in worker order, go back through the prefix once. Nothing of the prefix is trained, so
its top block needs no more than k and v. Below the first adapted layer nothing changes during a run: computed once,
on one thread, so that it depends on the tokens alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from metier.engine.attention import Attention, Past
from metier.engine.batch import Batch, MicroBatch, prefix_batch
from metier.engine.gradients import Gradients

if TYPE_CHECKING:
    from metier.engine.llama import Stack

__all__ = ["MIN_PREFIX_TOKENS", "SharedPrefix", "common_prefix", "starts_with"]

MIN_PREFIX_TOKENS = 32
"""Shorter prefixes are computed with every row: a pass of so few tokens waits for the weights to be read, not for
products, and takes about as long as the products it would save in a step of ten rows."""


def common_prefix(
    tokens: Sequence[Sequence[int]], weights: Sequence[Sequence[float]], *, least: int = MIN_PREFIX_TOKENS
) -> list[int]:
    """The tokens all rows start with and none predicts from; empty under `least` tokens or two rows."""
    if len(tokens) < 2:
        return []
    first = np.asarray(tokens[0])
    length = len(first)
    for row, weight in zip(tokens, weights, strict=True):
        # Place t predicts t + 1: the prefix ends before the place that predicts the first trained token.
        length = min(length, int(np.flatnonzero(np.asarray(weight)[1:])[0]), len(row))
        differs = np.flatnonzero(first[:length] != np.asarray(row[:length]))
        length = int(differs[0]) if len(differs) else length
    return [int(token) for token in first[:length]] if length >= least else []


def starts_with(batch: Batch, prefix: Sequence[int]) -> bool:
    """Whether every row of a batch starts with the prefix and predicts nothing from it."""
    num = len(prefix)
    wanted = torch.tensor(prefix)
    for start, stop in zip(batch.row_start_R, batch.row_start_R[1:], strict=False):
        tokens, weight = batch.tokens_T[start:stop], batch.weight_T[start:stop]
        if len(tokens) <= num + 1 or bool(weight[1 : num + 1].any()) or not torch.equal(tokens[:num], wanted):
            return False
    return True


class SharedPrefix:
    """One prefix and the memory of its passes; the stack is its own, so that no worker's values are overwritten."""

    def __init__(self, tokens: Sequence[int], stack: Stack, *, is_rounded: bool) -> None:
        self.tokens = tuple(tokens)
        self.stack, self.is_rounded = stack, is_rounded
        # The batched form wherever it runs: it keeps k and v for the rows that go on.
        stack.attention = Attention(stack.shape, stack.dtype, stack.buffers)
        self.micro: MicroBatch = prefix_batch(tokens, device=stack.weights.embed_VD.device)
        self.lower: list[Past] = []
        self.states_SD: torch.Tensor | None = None
        self.keys: list[Past] = []
        self.sums: list[list[Past]] = []

    def forward_lower(self) -> None:
        """Once a run: the frozen layers; on one thread, so that rows' states depend on no thread count."""
        if self.states_SD is not None and self.stack.working.first_layer:
            return  # with no frozen layer below, what enters are the embeddings, which may train
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        states = self.stack.states(self.micro, keep_keys=True)
        if self.is_rounded:  # as the states of rows in the trunk are
            states = states.to(torch.bfloat16)
        self.states_SD = states.float().clone()
        self.lower = [self._kept(i) for i in range(self.stack.working.first_layer)]
        torch.set_num_threads(threads)

    def forward(self) -> None:
        """Phase 1, after every change of the adapter."""
        self.forward_lower()
        assert self.states_SD is not None
        self.stack.keys(self.micro, self.states_SD)
        bottom, num_layers = self.stack.working.first_layer, self.stack.shape.num_layers
        self.sums = []
        self.keys = [*self.lower, *(self._kept(i) for i in range(bottom, num_layers))]

    def past(self, *, has_gradient: bool) -> list[Past]:
        """Phase 2: what a worker's rows see, with sums of its own where a gradient is wanted."""
        if not has_gradient:
            return self.keys
        bottom = self.stack.working.first_layer
        mine = self.keys[:bottom] + [
            Past(past.k, past.v, *(torch.zeros_like(x, dtype=torch.float32) for x in (past.k, past.v)))
            for past in self.keys[bottom:]
        ]
        self.sums.append(mine)
        return mine

    def backward(self, grads: Gradients) -> None:
        """Phase 3: the workers' sums, in their order, back through the prefix."""
        first, *others = self.sums
        for other in others:
            for mine, its in zip(first, other, strict=True):
                if mine.dk is not None and mine.dv is not None and its.dk is not None and its.dv is not None:
                    mine.dk += its.dk
                    mine.dv += its.dv
        self.stack.keys_backward(self.micro, first, grads)

    def _kept(self, layer: int) -> Past:
        return self.stack.attention.kept_keys(self.micro.groups, len(self.tokens), keep=f"a{layer}.")
