"""The compact block of the Llama family: forward and hand-written backward over packed rows.

Llama, Mistral, Qwen2 and Qwen3: biases and the norm of heads are used where a layer has them.

It computes what transformers' own module of the family with PEFT's LoRA computes, with fewer, wider products:
q/k/v and gate/up are one product each, the low-rank A of layers with one input are one product, no
gradient is computed for frozen weights or below the lowest that trains, and the last block computes
only the tokens whose next token is trained. Products are in the handle's precision; the residual
stream, norms and the loss are fp32.

Where memory asks for it (`recompute`), a block keeps only its input and its inner values are computed again on the way
back, by the same products in the same order: the same bits.

Shapes: N packed input tokens, M of them trained (both filled up, see batch), P without the filling,
D model width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metier.engine.attention import Buffers, Past
from metier.engine.batch import MicroBatch
from metier.engine.gradients import Gradients
from metier.engine.head import Head
from metier.engine.lowrank import Working, forward
from metier.engine.norm import rms_norm, rms_norm_backward
from metier.engine.varlen import attention_for
from metier.engine.weights import LlamaWeights

__all__ = ["Stack"]

WeightsOf = Callable[[Tensor], Tensor]
"""From the nll of every trained token to what its gradient is weighted with."""


class Stack:
    """One worker's forward and backward through all blocks; owns the worker's memory.

    Buffers of layer i are named after it: what a name holds from the forward pass is what the backward reads.
    """

    def __init__(self, weights: LlamaWeights, dtype: torch.dtype, working: Working) -> None:
        self.weights, self.shape, self.dtype, self.working = weights, weights.shape, dtype, working
        self.buffers = Buffers(weights.embed_VD.device)
        self.attention = attention_for(weights.shape, dtype, self.buffers)
        self.head = Head(weights, dtype, self.buffers)
        self.recompute = False
        self.past: list[Past] | None = None
        """Per layer, what the rows see of a prefix they share; None where they are whole."""

    def score(self, micro: MicroBatch) -> Tensor:
        """Negative log-likelihood of every trained token, nats; keeps nothing for a backward pass."""
        x_MD = self._forward(micro, first_kept=self.shape.num_layers)
        return self.head.score(x_MD, micro.target_M)[: len(micro.place_P)]

    def train(
        self, micro: MicroBatch, grads: Gradients, *, divide_by: float, weights: WeightsOf | None = None
    ) -> Tensor:
        """nll_P; adds the gradient of sum(weight * nll) / divide_by to `grads` unless a loss is not finite.

        The weights are the batch's, or what `weights` makes of nll_P: then the head is run once more, to know it.
        """
        bottom, num = self.working.first_layer, len(micro.place_P)
        x_MD = self._forward(micro, first_kept=bottom)
        weight_M = micro.weight_M
        if weights is not None:
            nll_P = self.head.score(x_MD, micro.target_M)[:num]
            if not bool(torch.isfinite(nll_P).all()):
                return nll_P
            weight_M = torch.nn.functional.pad(weights(nll_P), (0, len(micro.target_M) - num))
            if not bool(torch.isfinite(weight_M).all()):
                return nll_P
        filled_nll_M, dx = self.head.train(x_MD, micro.target_M, weight_M / divide_by, grads)
        nll_P = filled_nll_M[:num]
        if not bool(torch.isfinite(nll_P).all()):
            return nll_P
        for i in reversed(range(bottom, self.shape.num_layers)):
            self._again(i, micro)
            below = self._backward_block(i, dx, micro, grads)
            if below is None:
                return nll_P
            dx = below
        grads.inputs(micro.input_N, dx)
        return nll_P

    def states(self, micro: MicroBatch, *, keep_keys: bool = False) -> Tensor:
        """What enters the first adapted layer, (N, D) fp32; under `keep_keys` k and v of the layers below are kept."""
        x = self._embedded(micro)
        for i in range(self.working.first_layer):
            x = self._forward_attention(i, x, micro, "-", keys=str(i) if keep_keys else "-")
            x = self._forward_ff(i, x, "-", f"x.{i % 2}")
        return x

    def keys(self, micro: MicroBatch, x: Tensor) -> None:
        """From what enters the first adapted layer up to k and v of the top one; all is kept for `keys_backward`."""
        bottom, top = self.working.first_layer, self.shape.num_layers - 1
        x = self._wide(f"x{bottom}", len(x)).copy_(x)
        for i in range(bottom, top):
            x = self._forward_ff(i, self._forward_attention(i, x, micro, str(i)), str(i), f"x{i + 1}")
        qkv = self._qkv(top, x, str(top))
        self.attention.keys(qkv, micro.groups, keep=f"a{top}.")

    def keys_backward(self, micro: MicroBatch, later: list[Past], grads: Gradients) -> None:
        """Add the gradient that reaches the adapter through k and v of these tokens, summed in `later`."""
        bottom, top, n = self.working.first_layer, self.shape.num_layers - 1, len(micro.input_N)
        dqkv = self._narrow("dqkv", n, self.weights.layers[top].qkv.shape[0])
        self.attention.keys_backward(micro.groups, dqkv, later=later[top])
        below = self._backward_qkv(top, dqkv, self._wide("dx", n).zero_(), micro, grads)
        for i in reversed(range(bottom, top)):
            below = None if below is None else self._backward_block(i, below, micro, grads, later=later[i])
        if below is not None:
            grads.inputs(micro.input_N, below)

    def _forward(self, micro: MicroBatch, *, first_kept: int) -> Tensor:
        """The last block's output at the trained places, (M, D) fp32, before the final norm."""
        x, first = self._embedded(micro), 0
        if micro.states_ND is not None:
            first = self.working.first_layer
            x = self._wide(f"x{first}", len(micro.input_N)).copy_(micro.states_ND)
        for i in range(first, self.shape.num_layers):
            # Below the kept layers, two sets of names take turns, so memory does not grow with depth.
            keep = self._name(i) if i >= first_kept else "-"
            x = self._forward_attention(i, x, micro, keep)
            next_name = f"x{i + 1}" if i + 1 >= first_kept else f"x.{i % 2}"
            x = self._forward_ff(i, x, keep, next_name)
        return x

    def _embedded(self, micro: MicroBatch) -> Tensor:
        return self._wide("x0", len(micro.input_N)).copy_(self.weights.embed_VD[micro.input_N])

    def _name(self, i: int) -> str:
        """What the inner values of a kept layer are named after: one name for all where they are computed again."""
        return "again" if self.recompute else str(i)

    def _again(self, i: int, micro: MicroBatch) -> None:
        """Compute the inner values of a layer again from its input; those of the top layer are still there."""
        if self.recompute and i < self.shape.num_layers - 1:
            x = self._forward_attention(i, self._wide(f"x{i}", len(micro.input_N)), micro, "again")
            self._forward_ff(i, x, "again", "x.again")

    def _qkv(self, i: int, x: Tensor, keep: str) -> Tensor:
        layer = self.weights.layers[i]
        normed = self._norm(x, layer.norm1_D, f"n1.{keep}")
        qkv = self._linear(i, "qkv", layer.qkv, normed, "qkv", keep)
        if layer.head_norm_HE is not None:
            self._norm_heads(qkv, layer.head_norm_HE, f"raw.{keep}")
        return qkv

    def _forward_attention(self, i: int, x: Tensor, micro: MicroBatch, keep: str, *, keys: str = "") -> Tensor:
        s, layer = self.shape, self.weights.layers[i]
        qkv = self._qkv(i, x, keep)
        mixed = self._narrow(f"mixed.{keep}", x.shape[0], layer.out.shape[1])
        past, name = None if self.past is None else self.past[i], keys or keep
        self.attention.forward(qkv, micro.groups, mixed, keep="" if name == "-" else f"a{name}.", past=past)
        mixed[micro.num_inputs :] = 0  # filled-up tokens belong to no group; what the memory held must not spread
        if i == s.num_layers - 1:
            num = len(micro.select_M)
            mixed_M = self._narrow(f"mixed_M.{keep}", num, layer.out.shape[1])
            mixed = torch.index_select(mixed, 0, micro.select_M, out=mixed_M)
            x = torch.index_select(x, 0, micro.select_M, out=self._wide("x_M", num))
        return self._sum(x, self._linear(i, "out", layer.out, mixed, "y", keep), f"mid.{keep}")

    def _forward_ff(self, i: int, x: Tensor, keep: str, next_name: str) -> Tensor:
        f, layer = self.shape.ff_width, self.weights.layers[i]
        normed = self._norm(x, layer.norm2_D, f"n2.{keep}")
        gate_up = self._linear(i, "gate_up", layer.gate_up, normed, f"gate_up.{keep}", keep)
        act = torch.ops.aten.silu.out(gate_up[:, :f], out=self._narrow("act", x.shape[0], f)).mul_(gate_up[:, f:])
        return self._sum(x, self._linear(i, "down", layer.down, act, "y", keep), next_name)

    def _backward_block(
        self, i: int, dx: Tensor, micro: MicroBatch, grads: Gradients, *, later: Past | None = None
    ) -> Tensor | None:
        """From the gradient of a block's output to that of its input; None where nothing below trains."""
        middle = self._backward_ff(i, dx, grads)
        return None if middle is None else self._backward_attention(i, middle, micro, grads, later=later)

    def _backward_ff(self, i: int, dx: Tensor, grads: Gradients) -> Tensor | None:
        """From the gradient of the block's output to that of its middle, in place; None where nothing below trains."""
        n, f, layer, keep = dx.shape[0], self.shape.ff_width, self.weights.layers[i], self._name(i)
        dy = self._narrow("dy", n, dx.shape[1]).copy_(dx)
        gate_up = self._narrow(f"gate_up.{keep}", n, 2 * f)
        gate, up = gate_up[:, :f], gate_up[:, f:]
        silu = torch.ops.aten.silu.out(gate, out=self._narrow("silu", n, f))
        act = torch.mul(silu, up, out=self._narrow("act", n, f))
        dact = self._linear_backward(i, "down", layer.down, act, dy, "dact", grads)
        if dact is None:
            return None
        dgate_up = self._narrow("dgate_up", n, 2 * f)
        torch.mul(dact, silu, out=dgate_up[:, f:])
        torch.ops.aten.silu_backward.grad_input(dact.mul_(up), gate, grad_input=dgate_up[:, :f])
        normed = self._narrow(f"n2.{keep}", n, dx.shape[1])
        dnormed = self._linear_backward(i, "gate_up", layer.gate_up, normed, dgate_up, "dnormed", grads)
        if dnormed is None:
            return None
        x, grad_D = self._wide(f"mid.{keep}", n), grads.norm(f"{i}.norm2_D")
        return rms_norm_backward(x, dnormed, dx, layer.norm2_D, self.buffers, name=f"n2.{keep}", grad_D=grad_D)

    def _backward_attention(
        self, i: int, dx: Tensor, micro: MicroBatch, grads: Gradients, *, later: Past | None = None
    ) -> Tensor | None:
        """From the gradient of the block's middle to that of its input; rows grow from M to N in the last block."""
        s, n, layer, keep = self.shape, len(micro.input_N), self.weights.layers[i], self._name(i)
        is_top = i == s.num_layers - 1
        dy = self._narrow("dy", *dx.shape).copy_(dx)
        mixed = self._narrow(f"mixed_M.{keep}" if is_top else f"mixed.{keep}", dx.shape[0], layer.out.shape[1])
        dmixed = self._linear_backward(i, "out", layer.out, mixed, dy, "dmixed", grads)
        if dmixed is None:
            return None
        if is_top:
            num = len(micro.place_P)  # the filling repeats the first input and must not overwrite its gradient
            dmixed_N = self._narrow("dmixed_N", n, layer.out.shape[1]).zero_()
            dmixed = dmixed_N.index_copy_(0, micro.select_M[:num], dmixed[:num])
            dx = self._wide("dx", n).zero_().index_copy_(0, micro.select_M[:num], dx[:num])
        dqkv = self._narrow("dqkv", n, layer.qkv.shape[0])
        past = None if self.past is None else self.past[i]
        self.attention.backward(dmixed, micro.groups, dqkv, keep=f"a{keep}.", past=past, later=later)
        return self._backward_qkv(i, dqkv, dx, micro, grads)

    def _backward_qkv(self, i: int, dqkv: Tensor, dx: Tensor, micro: MicroBatch, grads: Gradients) -> Tensor | None:
        """The input's gradient added to `dx`; None where nothing below trains."""
        n, layer, keep = len(micro.input_N), self.weights.layers[i], self._name(i)
        dqkv[micro.num_inputs :] = 0
        if layer.head_norm_HE is not None:
            self._norm_heads_backward(dqkv, layer.head_norm_HE, f"raw.{keep}", grads.norm(f"{i}.head_norm_HE"))
        normed = self._narrow(f"n1.{keep}", n, self.shape.width)
        dnormed = self._linear_backward(i, "qkv", layer.qkv, normed, dqkv, "dnormed", grads)
        if dnormed is None:
            return None
        x, grad_D = self._wide(f"x{i}", n), grads.norm(f"{i}.norm1_D")
        return rms_norm_backward(x, dnormed, dx, layer.norm1_D, self.buffers, name=f"n1.{keep}", grad_D=grad_D)

    def _linear(self, i: int, group: str, weight: Tensor, x: Tensor, name: str, keep: str) -> Tensor:
        pair, bias = self.working.pair(i, group), self.weights.layers[i].biases.get(group)
        h = None if pair is None else self._narrow(f"h_{group}.{keep}", x.shape[0], pair.a.shape[0])
        size = (x.shape[0], weight.shape[0])
        if pair is None or pair.factor is None:
            return forward(x, weight, pair, self._narrow(name, *size), h, bias=bias)
        # The gradient of DoRA's magnitudes reads the output: it is kept without its bias, and before heads are normed.
        y = forward(x, weight, pair, self._narrow(f"dora_{group}.{keep}", *size), h)
        return self._narrow(name, *size).copy_(y if bias is None else y + bias)

    def _linear_backward(
        self, i: int, group: str, weight: Tensor, x: Tensor, dy: Tensor, name: str, grads: Gradients
    ) -> Tensor | None:
        """The gradient of the input, under `name`, or None where nothing below trains; `grads` gets what trains here.

        Under DoRA `dy` becomes, in place, the gradient before the output was brought to its magnitude.
        """
        pair, rows, keep = self.working.pair(i, group), dy.shape[0], self._name(i)
        low: tuple[Tensor, Tensor] | None = None
        if pair is not None:
            if pair.factor is not None:
                grads.magnitude(i, group, dy, self._narrow(f"dora_{group}.{keep}", *dy.shape))
                pair.rescale(dy)
            g = torch.mm(pair.reached(dy), pair.b, out=self._narrow("g", rows, pair.a.shape[0]))
            low = (self._narrow(f"h_{group}.{keep}", rows, pair.a.shape[0]), g)
        grads.linear(i, group, x, dy, low)
        if (i, group) == self.working.lowest:
            return None
        dx = torch.mm(dy, weight, out=self._narrow(name, rows, weight.shape[1]))
        return dx if pair is None or low is None else dx.addmm_(low[1], pair.a)

    def _norm(self, x: Tensor, weight_D: Tensor, name: str) -> Tensor:
        return rms_norm(x, weight_D, self.shape.norm_eps, self.buffers, name=name, dtype=self.dtype)

    def _norm_heads(self, qkv: Tensor, weight_HE: Tensor, name: str) -> None:
        """Norm each head's queries and keys in place; what they were stays under `name` for the backward."""
        x = self._heads(qkv, weight_HE)
        raw = self.buffers.take(name, *x.shape, dtype=self.dtype).copy_(x)
        wide = self.buffers.take("raw", *x.shape, dtype=torch.float32).copy_(raw)
        x.copy_(rms_norm(wide, weight_HE, self.shape.norm_eps, self.buffers, name="normed_heads", dtype=self.dtype))

    def _norm_heads_backward(self, dqkv: Tensor, weight_HE: Tensor, name: str, grad_HE: Tensor | None) -> None:
        """From the gradient of normed queries and keys to that of what the product gave, in place."""
        dx, buffers = self._heads(dqkv, weight_HE), self.buffers
        raw = buffers.take(name, *dx.shape, dtype=self.dtype)
        wide = buffers.take("raw", *dx.shape, dtype=torch.float32).copy_(raw)
        # Again instead of kept: the inverse rms of every head costs less to compute than to hold for each layer.
        rms_norm(wide, weight_HE, self.shape.norm_eps, buffers, name="normed_heads", dtype=self.dtype)
        draw = buffers.take("draw", *dx.shape, dtype=torch.float32).zero_()
        dx.copy_(rms_norm_backward(wide, dx, draw, weight_HE, buffers, name="normed_heads", grad_D=grad_HE))

    @staticmethod
    def _heads(qkv: Tensor, weight_HE: Tensor) -> Tensor:
        """The queries and keys of a fused (N, W) tensor, (N, H + K, E), not copied."""
        return qkv[:, : weight_HE.numel()].view(len(qkv), *weight_HE.shape)

    def _sum(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        """Residual sum in fp32."""
        return self._wide(name, x.shape[0]).copy_(y).add_(x)

    def _wide(self, name: str, rows: int) -> Tensor:
        """A piece of the residual stream: (rows, D) fp32."""
        return self.buffers.take(name, rows, self.shape.width, dtype=torch.float32)

    def _narrow(self, name: str, rows: int, width: int) -> Tensor:
        """(rows, width) in the precision of the products."""
        return self.buffers.take(name, rows, width, dtype=self.dtype)
