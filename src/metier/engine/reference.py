"""The compact block beside transformers' own module, in fp32: the check that they are one function."""

from __future__ import annotations

from pathlib import Path

import torch

from metier.core.errors import ModelError
from metier.core.seeds import generator
from metier.engine.batch import make_batch, micro_batch
from metier.engine.handle import Handle
from metier.engine.llama import Stack
from metier.engine.load import load
from metier.engine.lowrank import Working

__all__ = ["verify_against_reference"]

MAX_DIFFERENCE = 1e-5


class _Row:
    """Random tokens, every one trained."""

    def __init__(self, row_id: str, tokens: list[int]) -> None:
        self.row_id, self.tokens, self.weight = row_id, tokens, [0.0] + [1.0] * (len(tokens) - 1)


@torch.no_grad()
def verify_against_reference(handle: Handle, base_dir: Path, *, num_tokens: int = 48) -> float:
    """Largest relative difference of log-probabilities on random tokens, base weights, both in fp32.

    Raises:
        ModelError: the difference is above 1e-5: this base must not be tuned or scored with the compact block.
    """
    from transformers import AutoModelForCausalLM

    peer = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32).eval()
    weights = handle.weights if handle.dtype == torch.float32 else load(handle.base_dir, dtype="fp32").weights
    rng = generator(0, "reference")
    lengths = (num_tokens, num_tokens // 2, num_tokens // 2)
    rows = [_Row(str(i), rng.integers(0, weights.shape.vocab, n).tolist()) for i, n in enumerate(lengths)]
    batch = make_batch(rows)
    stack = Stack(weights, torch.float32, Working(None, weights.shape.num_layers, torch.float32))
    micro = micro_batch(batch, range(len(rows)))
    nll_T = torch.zeros(batch.num_tokens)
    nll_T[micro.place_P] = stack.score(micro)
    worst = 0.0
    for row, start in zip(rows, batch.row_start_R, strict=False):
        ids = torch.tensor([row.tokens])
        logp = torch.log_softmax(peer(ids).logits[0, :-1].float(), -1).gather(1, ids[0, 1:, None])[:, 0]
        mine = -nll_T[start + 1 : start + len(row.tokens)]
        worst = max(worst, float(((mine - logp).abs() / logp.abs().clamp_min(1.0)).max()))
    if not worst < MAX_DIFFERENCE:
        raise ModelError(
            f"{base_dir}: the compact block differs from transformers' own forward by {worst:.2g}, more than "
            f"{MAX_DIFFERENCE:g}; this architecture is not one it computes. Choose another base."
        )
    return worst
