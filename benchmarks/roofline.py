"""The layer roofline of a step: how long its bare products take, with nothing between them.

For every micro-batch of the step, and for a prefix its rows share: the four fused products of each layer forward,
the gradient of their inputs backward, and the head's products on trained tokens. Nothing else: no low-rank part,
attention, norm or copy.
Timed in two ways, one worker a core with its own micro-batch and all threads on every product; the better one counts.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class Products:
    """The products of one micro-batch, over buffers of its own."""

    def __init__(self, weights: Any, num_tokens: int, num_trained: int, *, bottom: int) -> None:
        shape, dtype = weights.shape, weights.embed_VD.dtype
        self.weights, self.bottom, self.last = weights, bottom, shape.num_layers - 1
        widest = max(weights.layers[0].gate_up.shape)
        self.left = torch.randn(num_tokens * widest).to(dtype)
        self.right = torch.empty(num_tokens * widest, dtype=dtype)
        self.num_tokens, self.num_trained = num_tokens, num_trained
        self.logits = torch.empty(min(128, max(num_trained, 1)), weights.head_VD.shape[0], dtype=dtype)

    def _views(self, rows: int, width_in: int, width_out: int) -> tuple[Tensor, Tensor]:
        return self.left[: rows * width_in].view(rows, width_in), self.right[: rows * width_out].view(rows, width_out)

    def run(self) -> None:
        """All products once."""
        for i, layer in enumerate(self.weights.layers):
            late = self.num_trained if i == self.last else self.num_tokens
            rows = {"qkv": self.num_tokens, "out": late, "gate_up": late, "down": late}
            for name, count in rows.items():
                weight = getattr(layer, name)
                x, y = self._views(count, weight.shape[1], weight.shape[0])
                torch.mm(x, weight.t(), out=y)
                if i >= self.bottom and not (i == self.bottom and name == "qkv"):
                    dy, dx = self._views(count, weight.shape[0], weight.shape[1])
                    torch.mm(dy, weight, out=dx)
        head = self.weights.head_VD
        for start in range(0, self.num_trained, len(self.logits)):
            count = min(len(self.logits), self.num_trained - start)
            x, dx = self._views(count, head.shape[1], head.shape[1])
            torch.mm(x, head.t(), out=self.logits[:count])
            torch.mm(self.logits[:count], head, out=dx)


def roofline_seconds(handle: Any, batch: Any, *, repeats: int = 3) -> float:
    """Seconds of the bare products of one step at the shapes the loop plans for it; the best of both ways."""
    from metier.engine.batch import micro_batch
    from metier.engine.loop import trainer_of

    trainer = trainer_of(handle)
    skip = trainer.skip_of(batch)
    adapter = handle.adapter
    bottom = handle.shape.num_layers if adapter is None else adapter.first_layer
    micros = [micro_batch(batch, rows, skip=skip) for rows in trainer.share(batch, skip=skip)]
    products = [Products(handle.weights, len(m.input_N), len(m.place_P), bottom=bottom) for m in micros]
    if skip:
        products.append(Products(handle.weights, skip, 0, bottom=bottom))
    workers = min(handle.threads, len(products))

    def share(worker: int) -> None:
        torch.set_num_threads(1)
        for one in products[worker::workers]:
            one.run()

    best = float("inf")
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(repeats):
            start = time.perf_counter()
            for future in [pool.submit(share, worker) for worker in range(workers)]:
                future.result()
            best = min(best, time.perf_counter() - start)
    torch.set_num_threads(handle.threads)
    for _ in range(repeats):
        start = time.perf_counter()
        for one in products:
            one.run()
        best = min(best, time.perf_counter() - start)
    return best
