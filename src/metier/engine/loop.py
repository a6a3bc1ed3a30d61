"""The training verbs: `forward_backward`, `optim_step`, `logprobs`.

    >>> stats = forward_backward(handle, make_batch(rows), Linear()).result()  # doctest: +SKIP
    >>> optim_step(handle, lr=1e-3).result()  # doctest: +SKIP

Verbs of one handle run in the order they are called, on a thread of their own, and return futures.
A step is shared among worker threads, one core each: torch releases the interpreter lock inside its
operators, so workers need no barrier per operator. Each sums its own gradients; the sums are added
in worker order, so a thread count gives the same bits every time. In what form a step is computed (`Form`) changes
time and memory; loss and gradient stay the same up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metier.core.errors import ModelError
from metier.engine.backend import GradientSum, Worker
from metier.engine.batch import Batch, MicroBatch, micro_batch, split_rows
from metier.engine.form import Form
from metier.engine.handle import Handle
from metier.engine.losses import Linear, Loss, Weighed, check_loss, divisor, rows_at, rows_together, weigh
from metier.engine.optimizer import make_optimizer
from metier.engine.prefix import SharedPrefix, starts_with
from metier.engine.ranks import Ranks

__all__ = ["StepStats", "Trainer", "forward_backward", "logprobs", "optim_step"]

MIN_WORKER_TOKENS = 256
"""Fewer tokens make products too small for a core; then several threads share a worker's operators."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepStats:
    """What a verb did."""

    step: int
    """Optimizer steps completed."""
    loss_nats: float = 0.0
    """The loss of the batch: with `Linear` the weighted negative log-likelihood over `divide_by`."""
    num_tokens: int = 0
    num_trained: int = 0
    grad_norm: float = 0.0
    """Before scaling down; only of `optim_step`."""
    seconds: float = 0.0
    logp_T: Tensor | None = field(default=None, compare=False, repr=False)
    """Log-probability of every trained token before the step, nats, 0 elsewhere; only of `forward_backward`."""


class Part(NamedTuple):
    """What one micro-batch gave."""

    place_P: Tensor
    """Where its trained tokens stand in the batch."""
    nll_P: Tensor
    loss: float = 0.0
    """Its share of the loss, not divided."""
    bad_rows: tuple[int, ...] = ()
    """Rows whose loss or its gradient is not finite though every log-probability is."""


class Trainer:
    """Worker threads, gradients and moments of one handle."""

    def __init__(self, handle: Handle, *, micro_tokens: int = 0) -> None:
        self.handle = handle
        self.trainee = handle.backend.trainee(handle.full or handle.adapter)
        self.micro_tokens = micro_tokens or self.trainee.micro_tokens
        self.verbs = ThreadPoolExecutor(1, "metier-verbs")
        self.form = Form()
        self.prefix: SharedPrefix | None = None
        self.pools: list[ThreadPoolExecutor] = []
        # Any: of the trainee's own kind; forms other than the plain one are only asked of a Stack.
        self.stacks: list[Any] = []
        self.grads: list[Any] = []
        self.optimizer: torch.optim.Optimizer | None = None
        self.step = 0
        self.pending = 0.0
        handle.closers.append(self._close)

    def _close(self) -> None:
        for pool in [self.verbs, *self.pools]:
            pool.shutdown(wait=True)
        self.take_form(Form())

    def take_form(self, form: Form) -> None:
        """Compute steps in this form from now on; the trunk of the form before is closed."""
        if self.form.trunk is not None and self.form.trunk is not form.trunk:
            self.form.trunk.files.close()
        if form != Form() and not self.trainee.takes_forms:
            raise ModelError(f"transformers' own modules compute steps in one form; {form} was asked for.")
        self.form, self.prefix = form, None
        if form.prefix:
            self.prefix = SharedPrefix(form.prefix, self.trainee.worker(), is_rounded=form.trunk is not None)

    def prefix_of(self, batch: Batch) -> SharedPrefix | None:
        """The prefix, where all rows of the batch start with it; else they are computed whole."""
        return self.prefix if self.prefix is not None and starts_with(batch, self.prefix.tokens) else None

    def skip_of(self, batch: Batch) -> int:
        """Tokens of every row of the batch that are not computed with it."""
        prefix = self.prefix_of(batch)
        return 0 if prefix is None else len(prefix.tokens)

    def alone(self, work: Callable[[], None]) -> None:
        """Do one thing on all cores."""

        def on_all_cores() -> None:
            torch.set_num_threads(self.handle.threads)
            with torch.no_grad():
                work()

        self.prepare(1)
        self.pools[0].submit(on_all_cores).result()

    def prepare(self, num_workers: int) -> None:
        """Have at least this many workers, each with its own thread and memory."""
        while len(self.pools) < num_workers:
            self.pools.append(ThreadPoolExecutor(1, f"metier-worker-{len(self.pools)}"))
            self.stacks.append(self.trainee.worker())

    def prepare_gradients(self) -> None:
        """Have a gradient buffer per worker and an optimizer over the masters."""
        while len(self.grads) < len(self.pools):
            self.handle.require_trained("forward_backward")
            self.grads.append(self.trainee.gradients(self.stacks[len(self.grads)]))
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.handle.optimizer, self.masters_P)

    @property
    def masters_P(self) -> Tensor:
        """The fp32 masters of all that trains, in one buffer."""
        return self.handle.require_trained("optim_step").masters_P

    def decay(self, by: float) -> float:
        """Pull the masters that decay to zero; returns what AdamW, which knows only all of them, is to do itself."""
        masters_P, num = self.masters_P, self.handle.require_trained("optim_step").num_decayed
        if not by or num == masters_P.numel():
            return by
        masters_P[:num].mul_(1 - by)
        return 0.0

    @property
    def max_workers(self) -> int:
        """Workers that may share a step, those of the other ranks among them."""
        return min(self.handle.threads, self.trainee.max_workers) * self.handle.ranks.size

    def publish(self) -> None:
        """Copy the masters to what the products read."""
        self.trainee.publish()

    def discard(self) -> None:
        """Throw away the gradient summed so far."""
        for grads in self.grads:
            grads.flat_P.zero_()
        self.pending = 0.0

    def share(self, batch: Batch, loss: Loss | None = None, *, skip: int = 0) -> list[list[int]]:
        """Rows of each micro-batch; micro-batch i belongs to worker i modulo the workers."""
        lengths = [stop - start for start, stop in zip(batch.row_start_R, batch.row_start_R[1:], strict=False)]
        longest = max(range(len(lengths)), key=lambda r: lengths[r])
        if lengths[longest] > self.handle.shape.max_positions:
            raise ModelError(
                f"row {batch.row_id_R[longest]}: {lengths[longest]} tokens; the base reads at most "
                f"{self.handle.shape.max_positions}. Drop the row or shorten it."
            )
        _refuse_unknown_tokens(batch, self.handle.shape.vocab)
        own = [length - skip for length in lengths]
        num_workers = max(1, min(self.max_workers, sum(own) // MIN_WORKER_TOKENS))
        return split_rows(
            own, num_workers=num_workers, micro_tokens=self.micro_tokens, rows_together=rows_together(loss)
        )

    def run(self, batch: Batch, loss: Loss | None = None) -> list[Part]:
        """What every micro-batch gives; trains where a loss is given."""
        prefix, skip, form, ranks = self.prefix_of(batch), self.skip_of(batch), self.form, self.handle.ranks
        parts = self.share(batch, loss, skip=skip)
        num_workers = min(self.max_workers, len(parts))
        mine = range(ranks.rank, num_workers, ranks.size)  # workers are dealt to the ranks in turn
        self.prepare(max(1, len(mine)))
        if loss is not None:
            self.prepare_gradients()
        for stack in self.stacks:
            stack.recompute, stack.past = form.checkpointing, None
        if prefix is not None and mine:
            self.alone(prefix.forward)
            for stack in self.stacks[: len(mine)]:
                stack.past = prefix.past(has_gradient=loss is not None)
        threads_each = max(1, self.handle.threads // max(1, len(mine)))
        device = self.handle.backend.device

        def work(place: int) -> list[Part]:
            torch.set_num_threads(threads_each)  # of this worker's thread only: OpenMP keeps the count per thread
            stack, results = self.stacks[place], []
            with torch.no_grad():
                for rows in parts[mine[place] :: num_workers]:
                    micro = micro_batch(batch, rows, device=device, skip=skip, padded=form.layout == "padded")
                    if form.trunk is not None:
                        micro = micro._replace(states_ND=form.trunk.gather(batch, micro, stack, skip=skip))
                    if loss is None:
                        results.append(Part(micro.place_P, stack.score(micro)))
                    else:
                        results.append(_train(stack, self.grads[place], batch, micro, loss))
            return results

        futures = [self.pools[place].submit(work, place) for place in range(len(mine))]
        results = [result for future in futures for result in future.result()]
        is_whole = all(bool(part.nll_P.isfinite().all()) and not part.bad_rows for part in results)
        if mine and prefix is not None and loss is not None and is_whole:
            self.alone(lambda: prefix.backward(self.grads[0]))
        return _of_all_ranks(ranks, results)


def _refuse_unknown_tokens(batch: Batch, vocab: int) -> None:
    """Raise `ModelError` naming the row where a token has no embedding: rows of another base's tokenizer."""
    places = ((batch.tokens_T < 0) | (batch.tokens_T >= vocab)).nonzero()
    if len(places):
        place = int(places[0])
        row = next(iter(rows_at(batch, places[0])))
        raise ModelError(
            f"row {batch.row_id_R[row]}: token {int(batch.tokens_T[place])}; the base has tokens 0 to {vocab - 1}. "
            "Render the rows with the tokenizer of this base."
        )


def _of_all_ranks(ranks: Ranks, parts: list[Part]) -> list[Part]:
    """What the micro-batches of every rank gave; with one thread a rank in the order of the workers."""
    if ranks.size == 1:
        return parts
    said = ranks.gather([part._replace(place_P=part.place_P.cpu(), nll_P=part.nll_P.cpu()) for part in parts])
    return [part for own in said for part in own]


def _train(stack: Worker, grads: GradientSum, batch: Batch, micro: MicroBatch, loss: Loss) -> Part:
    """One micro-batch forward and back."""
    divide_by = divisor(loss, batch)
    if isinstance(loss, Linear):
        nll_P = stack.train(micro, grads, divide_by=divide_by)
        return Part(micro.place_P, nll_P, float((nll_P.double() * micro.weight_M[: len(nll_P)]).sum()))
    found: list[Weighed] = []

    def weights(nll_P: Tensor) -> Tensor:
        found.append(weigh(loss, batch, micro, -nll_P))
        return found[0].weight_P

    nll_P = stack.train(micro, grads, divide_by=divide_by, weights=weights)
    if not found:  # a log-probability is not finite: the loss was never asked
        return Part(micro.place_P, nll_P)
    return Part(micro.place_P, nll_P, found[0].value, found[0].bad_rows)


def trainer_of(handle: Handle) -> Trainer:
    """The handle's trainer, made on first use."""
    if handle.trainer is None:
        handle.trainer = Trainer(handle)
    return handle.trainer


def forward_backward(handle: Handle, batch: Batch, loss: Loss) -> Future[StepStats]:
    """Add the gradient of the loss to that of the step so far.

    The future raises:
        DataError: the loss does not fit the batch.
        ModelError: no adapter; a row longer than the base reads; a loss that is not finite, with the step and
            the rows (the gradient of the whole step is thrown away, the weights are as before).
    """
    trainer = trainer_of(handle)
    return trainer.verbs.submit(_forward_backward, trainer, batch, loss)


def _forward_backward(trainer: Trainer, batch: Batch, loss: Loss) -> StepStats:
    start = time.perf_counter()
    trainer.handle.require_trained("forward_backward")
    check_loss(loss, batch)
    parts = trainer.run(batch, loss)
    _refuse_non_finite(trainer, batch, parts)
    divide_by = divisor(loss, batch)
    trainer.pending += divide_by
    return StepStats(
        step=trainer.step,
        loss_nats=sum(part.loss for part in parts) / divide_by,
        num_tokens=batch.num_tokens,
        num_trained=sum(len(part.nll_P) for part in parts),
        seconds=time.perf_counter() - start,
        logp_T=_logp(batch, parts),
    )


def _refuse_non_finite(trainer: Trainer, batch: Batch, parts: list[Part]) -> None:
    """Raise `ModelError` naming step and rows, and throw the step's gradients away."""
    found = {row for part in parts for row in part.bad_rows}
    for part in parts:
        found.update(rows_at(batch, part.place_P[~torch.isfinite(part.nll_P).cpu()]))
    if not found:
        return
    trainer.discard()
    rows = sorted(found)
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
    trainer.handle.ranks.sum_in_order(grad_P)
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
    own_decay = weight_decay if trainer.decay(lr * weight_decay) else 0.0
    trainer.optimizer.param_groups[0].update(lr=lr, weight_decay=own_decay)
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
    return _logp(batch, trainer.run(batch))


def _logp(batch: Batch, parts: list[Part]) -> Tensor:
    logp_T = torch.zeros(batch.num_tokens)
    for part in parts:
        logp_T[part.place_P] = -part.nll_P.cpu()
    return logp_T
