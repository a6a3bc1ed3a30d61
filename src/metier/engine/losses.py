"""Losses as data: what a training step minimises, said as values and small functions of log-probabilities.

    >>> forward_backward(handle, batch, Linear())  # doctest: +SKIP
    >>> forward_backward(handle, batch, Custom(fn=pair_loss, rows_together=2))  # doctest: +SKIP

A loss sees the log-probabilities of trained tokens, never logits or weights, so a service can run it. `Linear` is
known before the head runs; the other two run the head once for the log-probabilities and once for the gradient.

Shapes: T tokens of the batch, P trained tokens of one micro-batch, R its rows (+1 for ends), G its groups of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metier.core.errors import ConfigError, DataError
from metier.engine.batch import Batch, MicroBatch

__all__ = ["Clipped", "Custom", "Linear", "Loss", "RowLogps", "Weighed", "rows_together", "weigh"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """The loss that is linear in the log-probabilities: minus the sum of weight x logp, divided."""

    divide_by: float | None = None
    """What the weighted sum is divided by: the trained weight of the whole step, also where it comes in several
    batches. None: this batch is the step."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Clipped:
    """The clipped policy loss, per token: minus the sum of weight x min(r A, clip(r, low, high) A), divided.

    r is the token's probability over the one it was sampled with, A its advantage.

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms", equation 7; per token, and with the two
    bounds apart.
    """

    old_logp_T: Tensor
    """Log-probability of every token of the batch when it was sampled, nats; read where a token is trained."""
    adv_T: Tensor
    """Advantage of every token of the batch; read where a token is trained."""
    low: float = 0.8
    """Ratio below which a token with a negative advantage gives no gradient."""
    high: float = 1.2
    """Ratio above which a token with a positive advantage gives no gradient."""
    divide_by: float | None = None
    """As in `Linear`."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 <= self.high:
            raise ConfigError(f"low is {self.low}, high is {self.high}; expected 0 <= low <= 1 <= high.")


class RowLogps(NamedTuple):
    """The trained tokens of some rows of a batch, rows in the batch's order: what a custom loss is a function of."""

    rows: tuple[int, ...]
    """Indices into the batch; whole groups."""
    start_R: tuple[int, ...]
    """First trained token of every row in `logp_P`, and the end of the last."""
    logp_P: Tensor
    """Log-probabilities, nats, fp32."""
    weight_P: Tensor
    """The batch's weights of these tokens."""

    def row_of_token(self) -> Tensor:
        """For every trained token, which of the rows here it belongs to, (P,) int64."""
        starts = torch.tensor(self.start_R, device=self.logp_P.device)
        return torch.repeat_interleave(starts.diff())


LossFn = Callable[[RowLogps], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Custom:
    """Any loss that is a sum over groups of rows of the batch, with its gradient by the log-probabilities."""

    fn: LossFn
    """From the rows of one micro-batch to (the loss of each group, the gradient of their sum by `logp_P`). Called
    from several threads at once, each with other groups; it must give the same whatever stands beside a group."""
    rows_together: int = 1
    """Consecutive rows of the batch that make a group; 2 for pairs. They always share a micro-batch."""

    def __post_init__(self) -> None:
        if self.rows_together < 1:
            raise ConfigError(f"rows_together is {self.rows_together}; expected 1 or more.")


Loss = Linear | Clipped | Custom


class Weighed(NamedTuple):
    """A loss at the log-probabilities of one micro-batch."""

    value: float
    """Before it is divided."""
    weight_P: Tensor
    """Minus the gradient by the log-probabilities: the weight of each token's nll, in the micro-batch's order."""
    bad_rows: tuple[int, ...]
    """Rows of the batch whose loss or gradient is not finite."""


def rows_together(loss: Loss | None) -> int:
    """Consecutive rows that must share a micro-batch."""
    return loss.rows_together if isinstance(loss, Custom) else 1


def divisor(loss: Loss, batch: Batch) -> float:
    """What value and gradient are divided by; a custom loss divides itself."""
    if isinstance(loss, Custom):
        return 1.0
    return batch.total_weight if loss.divide_by is None else loss.divide_by


def check_loss(loss: Loss, batch: Batch) -> None:
    """Refuse a loss that does not fit the batch.

    Raises:
        DataError: rows that make no whole group, or values that are not one a token.
    """
    num = len(batch.row_id_R)
    if num % rows_together(loss):
        raise DataError(
            f"loss: {num} rows in the batch, {rows_together(loss)} belong together; expected whole groups. Put the "
            "rows of a group one after the other and leave none out."
        )
    if isinstance(loss, Clipped):
        for name, values_T in (("old_logp_T", loss.old_logp_T), ("adv_T", loss.adv_T)):
            if tuple(values_T.shape) != (batch.num_tokens,):
                raise DataError(
                    f"loss: {name} has shape {tuple(values_T.shape)}, the batch {batch.num_tokens} tokens; expected "
                    "one value a token."
                )


def weigh(loss: Clipped | Custom, batch: Batch, micro: MicroBatch, logp_P: Tensor) -> Weighed:
    """The loss and its gradient at the log-probabilities of one micro-batch.

    Raises:
        DataError: a custom function returned other shapes than one loss a group and one gradient a token.
    """
    if isinstance(loss, Clipped):
        return _clipped(loss, batch, micro, logp_P)
    return _custom(loss, batch, micro, logp_P)


def _clipped(loss: Clipped, batch: Batch, micro: MicroBatch, logp_P: Tensor) -> Weighed:
    device, place_P = logp_P.device, micro.place_P
    old_P, adv_P, weight_P = (
        values_T[place_P].to(device) for values_T in (loss.old_logp_T, loss.adv_T, batch.weight_T)
    )
    ratio_P = torch.exp(logp_P - old_P)
    gain_P = torch.minimum(ratio_P * adv_P, ratio_P.clamp(loss.low, loss.high) * adv_P)
    is_cut_P = torch.where(adv_P > 0, ratio_P > loss.high, ratio_P < loss.low)
    dlogp_P = torch.where(is_cut_P, 0.0, -weight_P * adv_P * ratio_P)
    is_bad_P = ~(torch.isfinite(gain_P) & torch.isfinite(dlogp_P))
    value = -float((gain_P.double() * weight_P).sum())
    return Weighed(value, -dlogp_P, rows_at(batch, place_P[is_bad_P.cpu()]))


def _custom(loss: Custom, batch: Batch, micro: MicroBatch, logp_P: Tensor) -> Weighed:
    rows = tuple(sorted(micro.rows))
    order_P = torch.argsort(micro.place_P)  # the micro-batch has its rows by length, the function has them in order
    place_P = micro.place_P[order_P]
    starts = torch.searchsorted(place_P, torch.tensor([batch.row_start_R[row] for row in rows]))
    shown = RowLogps(rows, (*starts.tolist(), len(place_P)), logp_P[order_P], batch.weight_T[place_P].to(logp_P.device))
    loss_G, dlogp_P = loss.fn(shown)
    wanted = (len(rows) // loss.rows_together,), (len(place_P),)
    found = tuple(loss_G.shape), tuple(dlogp_P.shape)
    if found != wanted:
        raise DataError(
            f"loss: the custom function returned shapes {found[0]} and {found[1]}; expected {wanted[0]}, one loss a "
            f"group, and {wanted[1]}, one gradient a trained token."
        )
    row_P = shown.row_of_token().cpu()
    bad = {rows[i] for i in row_P[~torch.isfinite(dlogp_P).cpu()].tolist()}
    for group in torch.nonzero(~torch.isfinite(loss_G).cpu())[:, 0].tolist():
        bad.update(rows[group * loss.rows_together : (group + 1) * loss.rows_together])
    weight_P = torch.empty_like(logp_P)
    weight_P[order_P] = -dlogp_P.to(logp_P)
    return Weighed(float(loss_G.double().sum()), weight_P, tuple(sorted(bad)))


def rows_at(batch: Batch, place_P: Tensor) -> tuple[int, ...]:
    """The rows of the batch in which these tokens stand, each once."""
    starts = torch.tensor(batch.row_start_R)
    return tuple(sorted({int(torch.searchsorted(starts, place, right=True)) - 1 for place in place_P.tolist()}))
