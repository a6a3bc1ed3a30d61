"""The training verbs: `forward_backward`, `optim_step`, `logprobs`.

    >>> stats = forward_backward(handle, make_batch(rows), Linear()).result()  # doctest: +SKIP
    >>> optim_step(handle, lr=1e-3).result()  # doctest: +SKIP

Verbs of one handle run in the order they are called, on a thread of their own, and return futures.
A step is shared among worker threads, one core each: torch releases the interpreter lock inside its
operators, so workers need no barrier per operator. Each sums its own gradients; the sums are added
in worker order, so a thread count gives the same bits every time.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from metier.core.errors import ModelError
from metier.engine.batch import Batch, micro_batch, split_rows
from metier.engine.handle import Handle
from metier.engine.llama import Stack
from metier.engine.lowrank import Gradients, Working

__all__ = ["Linear", "StepStats", "Trainer", "forward_backward", "logprobs", "optim_step"]

MICRO_TOKENS = 1024
"""Tokens a worker computes at a time; larger is not faster (docs/tune.md) and costs memory."""
MIN_WORKER_TOKENS = 256
"""Fewer tokens make products too small for a core; then several threads share a worker's operators."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """The loss that is linear in the log-probabilities: minus the sum of weight x logp, divided."""

    divide_by: float | None = None
    """What the weighted sum is divided by: the trained weight of the whole step, also where it comes in several
    batches. None: this batch is the step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepStats:
    """What a verb did."""

    step: int
    """Optimizer steps completed."""
    loss_nats: float = 0.0
    """Weighted negative log-likelihood over `divide_by`."""
    num_tokens: int = 0
    num_trained: int = 0
    grad_norm: float = 0.0
    """Before scaling down; only of `optim_step`."""
    seconds: float = 0.0


class Trainer:
    """Worker threads, gradients and moments of one handle."""

    def __init__(self, handle: Handle, *, micro_tokens: int = MICRO_TOKENS) -> None:
        self.handle, self.micro_tokens = handle, micro_tokens
        self.working = Working(handle.adapter, handle.shape.num_layers, handle.dtype)
        self.verbs = ThreadPoolExecutor(1, "metier-verbs")
        self.pools: list[ThreadPoolExecutor] = []
        self.stacks: list[Stack] = []
        self.grads: list[Gradients] = []
        self.optimizer: torch.optim.AdamW | None = None
        self.step = 0
        self.pending = 0.0
        handle.closers.append(self._close)

    def _close(self) -> None:
        for pool in [self.verbs, *self.pools]:
            pool.shutdown(wait=True)

    def prepare(self, num_workers: int) -> None:
        """Have at least this many workers, each with its own thread and memory."""
        while len(self.pools) < num_workers:
            self.pools.append(ThreadPoolExecutor(1, f"metier-worker-{len(self.pools)}"))
            self.stacks.append(Stack(self.handle.weights, self.handle.dtype, self.working))

    def prepare_gradients(self) -> None:
        """Have a gradient buffer per worker and an optimizer over the masters."""
        while len(self.grads) < len(self.pools):
            stack = self.stacks[len(self.grads)]
            self.grads.append(Gradients(self.handle.require_adapter("forward_backward"), stack.buffers))
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW([self.masters_P], lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True)

    @property
    def masters_P(self) -> Tensor:
        """The fp32 masters of all that trains, in one buffer."""
        return self.handle.require_adapter("optim_step").masters_P

    def publish(self) -> None:
        """Copy the masters to what the products read."""
        self.working.refresh()

    def discard(self) -> None:
        """Throw away the gradient summed so far."""
        for grads in self.grads:
            grads.flat_P.zero_()
        self.pending = 0.0

    def share(self, batch: Batch) -> list[list[int]]:
        """Rows of each micro-batch; micro-batch i belongs to worker i modulo the workers."""
        lengths = [stop - start for start, stop in zip(batch.row_start_R, batch.row_start_R[1:], strict=False)]
        longest = max(range(len(lengths)), key=lambda r: lengths[r])
        if lengths[longest] > self.handle.shape.max_positions:
            raise ModelError(
                f"row {batch.row_id_R[longest]}: {lengths[longest]} tokens; the base reads at most "
                f"{self.handle.shape.max_positions}. Drop the row or shorten it."
            )
        num_workers = max(1, min(self.handle.threads, sum(lengths) // MIN_WORKER_TOKENS))
        return split_rows(lengths, num_workers=num_workers, micro_tokens=self.micro_tokens)

    def run(self, batch: Batch, *, divide_by: float | None) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(place, nll, weight) of every trained token, per micro-batch; trains where `divide_by` is given."""
        parts = self.share(batch)
        num_workers = min(self.handle.threads, len(parts))
        self.prepare(num_workers)
        if divide_by is not None:
            self.prepare_gradients()
        threads_each = max(1, self.handle.threads // num_workers)
        device = self.handle.weights.embed_VD.device

        def work(worker: int) -> list[tuple[Tensor, Tensor, Tensor]]:
            torch.set_num_threads(threads_each)  # of this worker's thread only: OpenMP keeps the count per thread
            results = []
            with torch.no_grad():
                for rows in parts[worker::num_workers]:
                    micro = micro_batch(batch, rows, device=device)
                    if divide_by is None:
                        nll_P = self.stacks[worker].score(micro)
                    else:
                        nll_P = self.stacks[worker].train(micro, self.grads[worker], divide_by=divide_by)
                    results.append((micro.place_P, nll_P, micro.weight_M[: len(micro.place_P)]))
            return results

        futures = [self.pools[worker].submit(work, worker) for worker in range(num_workers)]
        return [result for future in futures for result in future.result()]


def trainer_of(handle: Handle) -> Trainer:
    """The handle's trainer, made on first use."""
    if handle.trainer is None:
        handle.trainer = Trainer(handle)
    return handle.trainer


def forward_backward(handle: Handle, batch: Batch, loss: Linear) -> Future[StepStats]:
    """Add the gradient of the loss to that of the step so far.

    The future raises:
        ModelError: no adapter; a row longer than the base reads; a loss that is not finite, with the step and
            the rows (the gradient of the whole step is thrown away, the weights are as before).
    """
    trainer = trainer_of(handle)
    return trainer.verbs.submit(_forward_backward, trainer, batch, loss)


def _forward_backward(trainer: Trainer, batch: Batch, loss: Linear) -> StepStats:
    start = time.perf_counter()
    trainer.handle.require_adapter("forward_backward")
    divide_by = batch.total_weight if loss.divide_by is None else loss.divide_by
    parts = trainer.run(batch, divide_by=divide_by)
    _refuse_non_finite(trainer, batch, parts)
    total = sum(float((nll.double() * weight).sum()) for _, nll, weight in parts)
    trainer.pending += divide_by
    return StepStats(
        step=trainer.step,
        loss_nats=total / divide_by,
        num_tokens=batch.num_tokens,
        num_trained=sum(len(nll) for _, nll, _ in parts),
        seconds=time.perf_counter() - start,
    )


def _refuse_non_finite(trainer: Trainer, batch: Batch, parts: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Raise `ModelError` naming step and rows, and throw the step's gradients away."""
    bad = sorted({int(place) for places, nll, _ in parts for place in places[~torch.isfinite(nll).cpu()]})
    if not bad:
        return
    trainer.discard()
    starts = torch.tensor(batch.row_start_R)
    rows = sorted({int(torch.searchsorted(starts, place, right=True)) - 1 for place in bad})
    names = ", ".join(batch.row_id_R[row] for row in rows[:5])
    raise ModelError(
        f"step {trainer.step + 1}: the loss is not finite in {len(rows)} of {len(batch.row_id_R)} rows ({names}"
        f"{', ...' if len(rows) > 5 else ''}). The weights are those of step {trainer.step}; look at the rows with "
        "`metier show`, or lower tune.lr."
    )


def optim_step(
    handle: Handle, *, lr: float, weight_decay: float = 0.0, max_grad_norm: float = 1.0
) -> Future[StepStats]:
    """Move the masters by AdamW along the gradient summed since the last step.

    The future raises:
        ModelError: no gradient, or one that is not finite; the weights are as before.
    """
    trainer = trainer_of(handle)
    return trainer.verbs.submit(_optim_step, trainer, lr=lr, weight_decay=weight_decay, max_grad_norm=max_grad_norm)


@torch.no_grad()
def _optim_step(trainer: Trainer, *, lr: float, weight_decay: float, max_grad_norm: float) -> StepStats:
    start = time.perf_counter()
    torch.set_num_threads(trainer.handle.threads)
    if not trainer.pending or trainer.optimizer is None:
        raise ModelError("optim_step: no gradient since the last step; call forward_backward first.")
    grad_P = trainer.grads[0].flat_P
    for other in trainer.grads[1:]:
        grad_P.add_(other.flat_P)
    norm = float(torch.linalg.vector_norm(grad_P))
    if not norm < float("inf"):
        trainer.discard()
        raise ModelError(
            f"step {trainer.step + 1}: the gradient is not finite though the loss is. The weights are those of step "
            f"{trainer.step}; lower tune.lr or set product_dtype = 'fp32'."
        )
    if norm > max_grad_norm:
        grad_P.mul_(max_grad_norm / norm)
    masters_P = trainer.masters_P
    masters_P.grad = grad_P
    trainer.optimizer.param_groups[0].update(lr=lr, weight_decay=weight_decay)
    trainer.optimizer.step()
    masters_P.grad = None
    trainer.publish()
    trainer.discard()
    trainer.step += 1
    return StepStats(step=trainer.step, grad_norm=norm, seconds=time.perf_counter() - start)


def logprobs(handle: Handle, batch: Batch) -> Future[Tensor]:
    """Log-probability of every token with a weight, nats, (T,) fp32; 0 where the weight is 0."""
    trainer = trainer_of(handle)
    return trainer.verbs.submit(_logprobs, trainer, batch)


def _logprobs(trainer: Trainer, batch: Batch) -> Tensor:
    logp_T = torch.zeros(batch.num_tokens)
    for place_P, nll_P, _ in trainer.run(batch, divide_by=None):
        logp_T[place_P] = -nll_P.cpu()
    return logp_T
