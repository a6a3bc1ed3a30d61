"""The likely true label of every row and how good each annotator is, from their votes alone (Dawid & Skene 1979).

    >>> fit = dawid_skene(vote_table(votes))
    >>> fit.label_N, fit.prior_K, fit.converged

The model: every row has one true label; an annotator's vote depends on it through the annotator's confusion matrix;
given the true label, annotators vote independently. The last part is an assumption that real annotators break (hard
rows are hard for all), so the model's own opinion of its labels is too high: check it with gold rows.
"""

# Shapes: V votes, N rows, J annotators, K labels (true, then voted), B bootstrap resamples, S slices.

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from metier.core.agreement import majority_vote
from metier.core.errors import DataError
from metier.core.votes import Estimate, Floats, Ints, VoteTable, score_interval

__all__ = [
    "DawidSkene", "LabelCeiling", "Resampled", "accuracies", "ceiling", "chance_accuracy", "dawid_skene", "normalised",
    "others_log_likelihood", "own_accuracy", "resample", "votes_log_likelihood",
]  # fmt: skip

SMOOTHING = 4.0  # pseudo-votes a row of a confusion matrix: the four of the "plus four" interval, not tuned
MAX_ITERATIONS = 500
MAX_CELLS = 20_000_000  # of all confusion matrices: 160 MB
TOLERANCE = 1e-7  # of the objective, a vote
_BOOTSTRAP_TOLERANCE = 1e-5  # an interval's ends need no more
_BOOTSTRAP_ITERATIONS = 50
_OWN_ITERATIONS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class DawidSkene:
    """A fitted model; made by `dawid_skene`."""

    table: VoteTable
    prior_K: Floats
    """Share of rows with each true label."""
    confusion_JKK: Floats
    """For each annotator and true label, the chance of each vote."""
    posterior_NK: Floats
    """For each row, the chance of each true label, given all votes."""
    objectives: tuple[float, ...]
    """Log-likelihood of the votes plus the smoothing's log-density, after each iteration; never falls."""
    converged: bool
    """Whether the last iteration gained less than 1e-7 a vote."""
    pseudo_KK: Floats
    """Pseudo-votes added to every annotator's counts."""

    @property
    def label_N(self) -> Ints:
        """Code of the most likely label of each row; of equally likely ones the first in the table's order."""
        label_N: Ints = self.posterior_NK.argmax(axis=1).astype(np.int64)
        return label_N


def dawid_skene(table: VoteTable, *, smoothing: float = SMOOTHING, max_iterations: int = MAX_ITERATIONS) -> DawidSkene:
    """Class priors, confusion matrices and posteriors by expectation maximisation, starting from the shares of votes.

    Smoothing: first one confusion matrix shared by all annotators is fitted (with one pseudo-vote a true label, spread
    evenly); then each row of an annotator's matrix starts with `smoothing` pseudo-votes divided as in the shared one.
    An annotator with two votes is thus thought to be as the others are, one with hundreds as the votes say. The class
    priors start with one pseudo-row, spread evenly. What rises with each iteration is therefore the penalised
    log-likelihood. Not converged within `max_iterations` is stated in the result.

    Raises:
        DataError: a single label in all votes, or negative smoothing.

    Source: Dawid & Skene 1979; theirs has no smoothing (`smoothing=0` gives it, up to one vote in a million).
    """
    num_labels = len(table.labels)
    if num_labels < 2:
        raise DataError(
            f"dawid_skene: every vote is {table.labels[0]!r}; expected two labels or more. Label rows of another "
            "kind too."
        )
    if (num_cells := len(table.annotators) * num_labels**2) > MAX_CELLS:
        raise DataError(
            f"dawid_skene: {len(table.annotators)} annotators with {num_labels} labels make {num_cells} cells of "
            f"confusion; expected at most {MAX_CELLS}. Merge rare labels, or judge annotators in parts."
        )
    if smoothing < 0:
        raise DataError(f"dawid_skene: smoothing is {smoothing}; expected 0 pseudo-votes or more.")
    weight_N = np.ones(len(table.rows))
    even_KK = np.full((num_labels, num_labels), 1 / num_labels)
    start_NK = table.count_NK() / table.votes_N[:, None]
    as_one = replace(table, annotators=("all",), annotator_V=np.zeros_like(table.annotator_V))
    shared = _em(as_one, start_NK, weight_N, even_KK, max_iterations, TOLERANCE)
    pseudo_KK = max(smoothing, 1e-6) * shared.confusion_JKK[0]
    return _em(table, start_NK, weight_N, pseudo_KK, max_iterations, TOLERANCE)


def _em(
    table: VoteTable, start_NK: Floats, weight_N: Floats, pseudo_KK: Floats, max_iterations: int, tolerance: float
) -> DawidSkene:
    posterior_NK, objectives, converged = start_NK, [], False
    prior_K, confusion_JKK = _maximise(table, posterior_NK, weight_N, pseudo_KK)
    enough = tolerance * float(weight_N @ table.votes_N)
    for _ in range(max_iterations):
        log_NK = np.log(prior_K) + votes_log_likelihood(table, confusion_JKK)
        total_N = _log_total(log_NK)
        posterior_NK = np.exp(log_NK - total_N[:, None])
        smoothed = float((pseudo_KK * np.log(confusion_JKK)).sum() + np.log(prior_K).mean())
        objectives.append(float(weight_N @ total_N) + smoothed)
        if len(objectives) > 1 and objectives[-1] - objectives[-2] < enough:
            converged = True
            break
        prior_K, confusion_JKK = _maximise(table, posterior_NK, weight_N, pseudo_KK)
    return DawidSkene(
        table=table, prior_K=prior_K, confusion_JKK=confusion_JKK, posterior_NK=posterior_NK,
        objectives=tuple(objectives), converged=converged, pseudo_KK=pseudo_KK,
    )  # fmt: skip


def _maximise(table: VoteTable, posterior_NK: Floats, weight_N: Floats, pseudo_KK: Floats) -> tuple[Floats, Floats]:
    """Priors and confusion matrices that fit the posteriors best."""
    num_labels, num_annotators = len(table.labels), len(table.annotators)
    weighted_NK = posterior_NK * weight_N[:, None]
    prior_K = weighted_NK.sum(axis=0) + 1 / num_labels
    code_V = table.annotator_V * num_labels + table.label_V
    counts = [
        np.bincount(code_V, weights=weighted_NK[table.row_V, k], minlength=num_annotators * num_labels)
        for k in range(num_labels)
    ]
    count_JKK = np.stack(counts).reshape(num_labels, num_annotators, num_labels).transpose(1, 0, 2) + pseudo_KK
    return prior_K / prior_K.sum(), count_JKK / count_JKK.sum(axis=2, keepdims=True)


def votes_log_likelihood(table: VoteTable, confusion_JKK: Floats) -> Floats:
    """Log of the chance of each row's votes under each true label (N x K)."""
    return np.add.reduceat(_chance_of_votes(table, np.log(confusion_JKK)), table.start_N, axis=0)


def _chance_of_votes(table: VoteTable, value_JKK: Floats) -> Floats:
    """What the matrices say of each vote, under each true label (V x K)."""
    num_labels = len(table.labels)
    value_CK = np.ascontiguousarray(value_JKK.transpose(0, 2, 1)).reshape(-1, num_labels)
    value_VK: Floats = value_CK.take(table.annotator_V * num_labels + table.label_V, axis=0)
    return value_VK


def others_log_likelihood(fit: DawidSkene) -> Floats:
    """Log of the chance of all other votes on the row of each vote, under each true label (V x K)."""
    table = fit.table
    own_VK = _chance_of_votes(table, np.log(fit.confusion_JKK))
    others_VK: Floats = np.add.reduceat(own_VK, table.start_N, axis=0)[table.row_V] - own_VK
    return others_VK


def normalised(log_VK: Floats) -> Floats:
    """Chances that add up to 1 in every line, from logs that need not."""
    chance_VK: Floats = np.exp(log_VK - _log_total(log_VK)[:, None])
    return chance_VK


def _log_total(log_VK: Floats) -> Floats:
    """Log of the sum of each line; laid out by label first, as NumPy is slow at adding many short lines."""
    log_KV = np.ascontiguousarray(log_VK.T)
    top_V = log_KV.max(axis=0)
    total_V: Floats = top_V + np.log(np.exp(log_KV - top_V).sum(axis=0))
    return total_V


def own_accuracy(fit: DawidSkene, weight_N: Floats | None = None) -> Floats:
    """Share of each annotator's votes that are right, judged by the others; NaN where nobody else voted on the rows.

    The matrices of the fit are smoothed and know the annotator's own votes: they draw everybody towards the mean. Here
    each annotator's matrix is fitted once more, unsmoothed, with the true labels known as well as the other votes tell.
    """
    table, num_labels = fit.table, len(fit.table.labels)
    weight_V = np.where(table.votes_N > 1, 1.0 if weight_N is None else weight_N, 0.0)[table.row_V]
    truth_VK = normalised(others_log_likelihood(fit) + np.log(fit.prior_K))
    confusion_JKK, code_V = fit.confusion_JKK, table.annotator_V * num_labels + table.label_V
    shape = (num_labels, len(table.annotators), num_labels)
    for _ in range(_OWN_ITERATIONS):
        part_VK = truth_VK * _chance_of_votes(table, confusion_JKK)
        part_VK *= (weight_V / np.maximum(part_VK @ np.ones(num_labels), 1e-300))[:, None]
        counts = [np.bincount(code_V, weights=part_VK[:, k], minlength=shape[1] * shape[2]) for k in range(num_labels)]
        # A thousandth of a vote keeps a row of the matrix that met no votes.
        count_JKK = np.stack(counts).reshape(shape).transpose(1, 0, 2) + 1e-3 * confusion_JKK
        confusion_JKK = count_JKK / count_JKK.sum(axis=2, keepdims=True)
    right_V = part_VK[np.arange(len(part_VK)), table.label_V]
    right_J = np.bincount(table.annotator_V, weights=right_V, minlength=shape[1])
    weight_J = np.bincount(table.annotator_V, weights=weight_V, minlength=shape[1])
    return np.where(weight_J > 0, right_J / np.maximum(weight_J, 1e-300), np.nan)


def chance_accuracy(fit: DawidSkene) -> Floats:
    """What each annotator would get right by giving the same labels as often, but to any rows."""
    table, num_labels = fit.table, len(fit.table.labels)
    shape = (len(table.annotators), num_labels)
    flat = np.bincount(table.annotator_V * num_labels + table.label_V, minlength=shape[0] * shape[1])
    chance_J: Floats = flat.reshape(shape) @ fit.prior_K / table.votes_J
    return chance_J


class Resampled(NamedTuple):
    """What refits on resampled rows gave."""

    accuracy_BJ: Floats
    """NaN where the annotator had no row in the resample."""
    one_vote_B: Floats
    majority_B: Floats
    fitted_B: Floats


def resample(fit: DawidSkene, *, rng: np.random.Generator, num_resamples: int = 200) -> Resampled:
    """The model fitted again on rows drawn with replacement: the spread behind every interval here.

    Each refit starts from the posteriors of the full fit, so labels cannot change places.
    """
    num_rows = len(fit.table.rows)
    majority_NK = majority_vote(fit.table).share_NK
    accuracy, ceilings = [], []
    for _ in range(num_resamples):
        weight_N = np.bincount(rng.integers(0, num_rows, num_rows), minlength=num_rows).astype(np.float64)
        again = _em(fit.table, fit.posterior_NK, weight_N, fit.pseudo_KK, _BOOTSTRAP_ITERATIONS, _BOOTSTRAP_TOLERANCE)
        accuracy.append(own_accuracy(again, weight_N))
        ceilings.append([weight_N @ right_N / num_rows for right_N in _right(again, majority_NK)])
    one_vote_B, majority_B, fitted_B = np.array(ceilings).T
    return Resampled(np.array(accuracy), one_vote_B, majority_B, fitted_B)


def accuracies(fit: DawidSkene, resampled: Resampled) -> tuple[Estimate | None, ...]:
    """Each annotator's accuracy (`own_accuracy`) with a 95 % interval, in the order of the table.

    `n` counts votes on rows that others labelled too; None where there are none. The interval is Wilson's at the number
    of votes whose binomial error equals the bootstrap standard error, at most the votes there are: near 1 a bootstrap
    sees no spread and would claim certainty.
    """
    shared_V = (fit.table.votes_N > 1)[fit.table.row_V]
    num_J = np.bincount(fit.table.annotator_V[shared_V], minlength=len(fit.table.annotators))
    found: list[Estimate | None] = []
    for share, spread_B, num in zip(own_accuracy(fit).tolist(), resampled.accuracy_BJ.T, num_J.tolist(), strict=True):
        if not num:
            found.append(None)
            continue
        drawn = spread_B[np.isfinite(spread_B)]
        variance = float(drawn.var(ddof=1)) if len(drawn) > 1 else 0.0
        effective = share * (1 - share) / variance if variance > 0 else num
        found.append(Estimate(share, *score_interval(share, max(1.0, min(num, effective))), num))
    return tuple(found)


class LabelCeiling(NamedTuple):
    """What a model without any fault would score against these labels: their accuracy, as the model estimates it.

    `n` counts rows. The figures assume that annotators err independently of each other given the true label; where
    they share mistakes the true ceiling is lower.
    """

    one_vote: Estimate
    """Against one vote drawn from each row."""
    majority: Estimate
    """Against the majority label, ties broken by lot."""
    fitted: Estimate
    """Against the most likely label of the fitted model."""


def ceiling(fit: DawidSkene, resampled: Resampled) -> LabelCeiling:
    """The label ceiling of these rows, with 95 % intervals.

    Two errors add up in the interval: that of the fitted model (bootstrap over rows) and that of which labels happen to
    be wrong (binomial, row by row). It is Wilson's at the number of rows with that error.

    Raises:
        DataError: no row has two votes, so that nothing is known about the noise.
    """
    num_rows = len(fit.table.rows)
    if fit.table.votes_N.max() < 2:
        raise DataError(
            f"ceiling: none of {num_rows} rows has two votes; expected some, as label noise cannot be seen otherwise. "
            "Let some rows be labelled twice."
        )
    right_3N = _right(fit, majority_vote(fit.table).share_NK)
    spreads = (resampled.one_vote_B, resampled.majority_B, resampled.fitted_B)
    return LabelCeiling(*(_realised(right_N, spread) for right_N, spread in zip(right_3N, spreads, strict=True)))


def _right(fit: DawidSkene, majority_NK: Floats) -> tuple[Floats, Floats, Floats]:
    """For each row the chance that one vote, the majority label and the fitted label are right."""
    posterior_NK, table = fit.posterior_NK, fit.table
    one_vote_N = np.add.reduceat(posterior_NK[table.row_V, table.label_V], table.start_N) / table.votes_N
    return one_vote_N, (majority_NK * posterior_NK).sum(axis=1), posterior_NK.max(axis=1)


def _realised(right_N: Floats, spread_B: Floats) -> Estimate:
    share, num = float(right_N.mean()), len(right_N)
    variance = float(spread_B.var(ddof=1) + (right_N * (1 - right_N)).sum() / num**2)
    low, high = score_interval(share, share * (1 - share) / variance if variance > 0 else float(num))
    return Estimate(share, low, high, num)
