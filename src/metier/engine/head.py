"""The output head on trained tokens alone, in chunks, with the loss and its gradient in one pass.

Logits of a few hundred tokens exist at a time, never those of a whole batch: with a vocabulary of 49,152
and fp32 logits, 2,048 tokens would be 400 MB, twice with their gradient.

Shapes: M trained tokens, C tokens of a chunk, V vocabulary, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metier.engine.attention import Buffers
from metier.engine.gradients import Gradients, add_outer
from metier.engine.norm import rms_norm, rms_norm_backward
from metier.engine.weights import LlamaWeights

__all__ = ["Head"]

CHUNK = 128
"""Tokens whose logits exist at once: 38 MB in fp32 and bf16 at a vocabulary of 49,152."""

TRAINED_CHUNK = 512
"""The same where the head trains: adding to its gradient costs as much as the product of 128 tokens."""


class Head:
    """Final norm, head and cross entropy of one worker."""

    def __init__(self, weights: LlamaWeights, dtype: torch.dtype, buffers: Buffers) -> None:
        self.weights, self.dtype, self.buffers = weights, dtype, buffers

    def score(self, x_MD: Tensor, target_M: Tensor) -> Tensor:
        """Negative log-likelihood of every target, nats, fp32."""
        normed = self._normed(x_MD)
        nll_M = torch.empty(x_MD.shape[0], device=x_MD.device)
        for start in range(0, x_MD.shape[0], CHUNK):
            at = slice(start, start + CHUNK)
            logits_CV, _ = self._logits(normed[at])
            nll_M[at], _ = self._loss(logits_CV, target_M[at])
        return nll_M

    def train(
        self, x_MD: Tensor, target_M: Tensor, weight_M: Tensor, grads: Gradients | None = None
    ) -> tuple[Tensor, Tensor]:
        """nll_M, and the gradient of sum(weight * nll) at the head's input, (M, D) fp32; the head's own to `grads`."""
        grad_VD = None if grads is None else grads.head()
        chunk = CHUNK if grad_VD is None else TRAINED_CHUNK
        normed = self._normed(x_MD)
        dnormed = self.buffers.take("dhead", *x_MD.shape, dtype=self.dtype)
        nll_M = torch.empty(x_MD.shape[0], device=x_MD.device)
        for start in range(0, x_MD.shape[0], chunk):
            at = slice(start, start + chunk)
            logits_CV, product_CV = self._logits(normed[at])
            nll_M[at], p_CV = self._loss(logits_CV, target_M[at])
            # The gradient of the loss at the logits, in place of the probabilities: p - 1 at the target.
            p_CV[torch.arange(len(p_CV), device=p_CV.device), target_M[at]] -= 1
            p_CV.mul_(weight_M[at, None])
            dlogits_CV = p_CV if product_CV is p_CV else product_CV.copy_(p_CV)
            torch.mm(dlogits_CV, self.weights.head_VD, out=dnormed[at])
            if grad_VD is not None:
                add_outer(grad_VD, dlogits_CV, normed[at], self.buffers)
        dx = self.buffers.take("dx_M", *x_MD.shape, dtype=torch.float32).zero_()
        grad_D = None if grads is None else grads.norm("norm_D")
        rms_norm_backward(x_MD, dnormed, dx, self.weights.norm_D, self.buffers, name="final", grad_D=grad_D)
        return nll_M, dx

    def _normed(self, x_MD: Tensor) -> Tensor:
        shape = self.weights.shape
        return rms_norm(x_MD, self.weights.norm_D, shape.norm_eps, self.buffers, name="final", dtype=self.dtype)

    def _logits(self, normed_CD: Tensor) -> tuple[Tensor, Tensor]:
        """Logits in fp32, and the tensor the product wrote (the same one in fp32)."""
        size = (normed_CD.shape[0], self.weights.shape.vocab)
        product = self.buffers.take("logits", *size, dtype=self.dtype)
        torch.mm(normed_CD, self.weights.head_VD.t(), out=product)
        if self.dtype == torch.float32:
            return product, product
        return self.buffers.take("logits", *size, dtype=torch.float32).copy_(product), product

    @staticmethod
    def _loss(logits_CV: Tensor, target_C: Tensor) -> tuple[Tensor, Tensor]:
        """nll_C, and the probabilities in place of the logits.

        The log of the normaliser is taken from the largest probability, which is at least 1 / V: softmax is
        several times faster than logsumexp on CPUs, and the largest logit minus its log-probability is it.
        """
        target_logit_C = logits_CV.gather(1, target_C[:, None])[:, 0].clone()
        largest_C = logits_CV.amax(-1)
        p_CV = torch.softmax(logits_CV, -1, out=logits_CV)
        return largest_C - p_CV.amax(-1).log() - target_logit_C, p_CV
