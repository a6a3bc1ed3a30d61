"""The loss of transformers' own modules straight from the last hidden states, by Liger's kernel on CUDA.

Logits of a vocabulary of 128,000 are 256 KB a token in bf16, and their loss reads them several times; the kernel
computes them in pieces and keeps none. It is called as a function, no class of transformers is changed. Modules that do
more than a linear map there (capped or scaled logits) keep their own head: that is found out by computing both, not by
a list.

Written against liger-kernel 0.8.5 and not run on a GPU; all but the kernel is tested on a CPU.

Shapes: P trained tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metier.core.extras import require
from metier.engine.form import Choice

__all__ = ["FusedHead", "ModuleHead", "head_for", "liger_kernel"]

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(hidden_PD, head_VD, target_P, bias_V or None) -> nll_P in fp32, with its gradient at hidden_PD."""
PROBED = 8
"""Tokens on which a module's logits are compared with the linear map."""


class FusedHead(NamedTuple):
    """A module in two parts: what gives hidden states, and the matrix that makes logits of them."""

    body: Any  # Any: a class of transformers, by config
    linear: torch.nn.Linear
    kernel: Kernel

    def nll(self, hidden_PD: Tensor, target_P: Tensor) -> Tensor:
        """Negative log-likelihood of every target, nats, fp32."""
        return self.kernel(hidden_PD, self.linear.weight, target_P, self.linear.bias)


class ModuleHead(NamedTuple):
    """How a module's loss is computed, and why so."""

    fused: FusedHead | None
    choice: Choice


PLAIN = ModuleHead(None, Choice(name="transformers", reason="on a CPU the module's own logits are taken"))


def liger_kernel() -> Kernel:
    """Liger's fused linear cross entropy.

    Raises:
        MissingExtra: liger-kernel is not installed.
    """
    why = "the loss of this base on CUDA"
    require("liger_kernel", extra="cuda", why=why)
    functional = require("liger_kernel.transformers.functional", extra="cuda", why=why)

    def kernel(hidden_PD: Tensor, head_VD: Tensor, target_P: Tensor, bias_V: Tensor | None) -> Tensor:
        nll_P: Tensor = functional.liger_fused_linear_cross_entropy(
            hidden_PD, head_VD, target_P, bias=bias_V, reduction="none"
        )
        return nll_P

    return kernel


def head_for(module: Any, *, kernel: Kernel | None = None) -> ModuleHead:  # Any: as above
    """The fused head where the module is on CUDA, or a kernel is given, and its logits are a linear map.

    Raises:
        MissingExtra: on CUDA without liger-kernel.
    """
    on_cuda = module.get_input_embeddings().weight.device.type == "cuda"
    if kernel is None and not on_cuda:
        return PLAIN
    kernel = kernel or liger_kernel()
    reason = _why_not_linear(module)
    if reason:
        return ModuleHead(None, Choice(name="transformers", reason=reason))
    fused = FusedHead(module.base_model, module.get_output_embeddings(), kernel)
    why = f"the module's logits are a linear map of its last states, to the bit on {PROBED} tokens"
    return ModuleHead(fused, Choice(name="fused linear cross entropy", reason=why))


@torch.no_grad()
def _why_not_linear(module: Any) -> str:  # Any: as above
    """Why the module's logits are not the product of its last hidden states with its head; empty where they are."""
    linear, body = module.get_output_embeddings(), module.base_model
    if type(linear) is not torch.nn.Linear or body is module:
        return f"{type(module).__name__} has no plain linear head that could be taken apart"
    embedding = module.get_input_embeddings().weight
    ids = torch.arange(PROBED, device=embedding.device)[None] % embedding.shape[0]
    hidden = body(input_ids=ids, use_cache=False)[0]
    logits = module(input_ids=ids, use_cache=False).logits
    if torch.equal(linear(hidden).float(), logits.float()):
        return ""
    return f"{type(module).__name__} does more than a linear map between its last states and its logits"
