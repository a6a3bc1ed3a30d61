"""Whether an annotator labels the slices of the rows alike: by language, region, channel or any other attribute.

    >>> slice_tests(fit, {"region": {"91ab": "north", "5f0c": "south"}}, rng=generator(0, "slices"))

That label rates differ between slices may be right, as the rows may differ. So each annotator is also compared with
what the others, or gold answers, say of the same rows. What all annotators share, right or wrong, cannot be seen this
way; gold rows in every slice show it.
"""

# Shapes: V votes, N rows, J annotators, K labels, S slices, M votes of one annotator, B simulations.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metier.core.annotators import peers_label, share
from metier.core.dawid_skene import DawidSkene, normalised, others_log_likelihood, votes_log_likelihood
from metier.core.errors import DataError
from metier.core.stats.power import holm
from metier.core.votes import Estimate, Floats, Ints, VoteTable

__all__ = ["MIN_SLICE_VOTES", "SliceCell", "SliceFinding", "SliceTest", "independence", "label_rates", "slice_tests"]

MIN_SLICE_VOTES = 10
"""A slice with fewer votes of an annotator is not tested."""
Slices = Mapping[str, Mapping[str, str]]
"""Attribute -> row id -> slice."""
_FIT_ITERATIONS = 50
_MIN_SIMULATIONS = 1999
_ENOUGH = 20  # simulations as far out as the votes: then the p-value is large enough to stop
_CHUNK_CELLS = 1 << 20  # of simulated votes held at once


class SliceCell(NamedTuple):
    """One annotator's votes on the rows of one slice."""

    annotator: str
    attribute: str
    slice: str
    num_votes: int
    votes_by_label: dict[str, int]
    agreement: Estimate | None
    """With the majority of the others on the same rows; None where there are none."""


def label_rates(table: VoteTable, slices: Slices) -> list[SliceCell]:
    """Votes by label, and agreement with the others, of every annotator in every slice.

    Raises:
        DataError: no voted row has a value of an attribute.
    """
    peers_V = peers_label(table)
    cells = []
    for attribute, slice_V, names in _sliced(table, slices):
        for annotator, code in np.unique(np.c_[table.annotator_V, slice_V][slice_V >= 0], axis=0).tolist():
            mine_V = (table.annotator_V == annotator) & (slice_V == code)
            count_K = np.bincount(table.label_V[mine_V], minlength=len(table.labels))
            told_V = mine_V & (peers_V >= 0)
            agreed = int((table.label_V == peers_V)[told_V].sum())
            cells.append(
                SliceCell(
                    annotator=table.annotators[annotator],
                    attribute=attribute,
                    slice=names[code],
                    num_votes=int(mine_V.sum()),
                    votes_by_label=dict(zip(table.labels, count_K.tolist(), strict=True)),
                    agreement=share(agreed, int(told_V.sum())) if told_V.any() else None,
                )
            )
    return cells


def _sliced(table: VoteTable, slices: Slices) -> Iterator[tuple[str, Ints, list[str]]]:
    """For every attribute the slice code of every vote (-1: its row has none) and the names of the slices."""
    for attribute in sorted(slices):
        value_N = [slices[attribute].get(row, "") for row in table.rows]
        names = sorted(set(value_N) - {""})
        if not names:
            raise DataError(
                f"slices: none of {len(table.rows)} voted rows has a value of {attribute!r}; expected row ids as in "
                "the votes. Check the attribute."
            )
        code = {name: number for number, name in enumerate(names)}
        yield attribute, np.array([code.get(value, -1) for value in value_N], dtype=np.int64)[table.row_V], names


class SliceFinding(StrEnum):
    """What the two tests say of one annotator's labels between slices."""

    TOO_FEW = "too_few_votes"
    """Fewer than two slices with at least ten votes."""
    ALIKE = "alike"
    """No difference shown."""
    ROWS_DIFFER = "rows_differ"
    """Label rates differ between slices, and no more than the other annotators' do on the same rows."""
    UNEXPLAINED = "unexplained"
    """Label rates differ between slices, and too few rows were labelled by others: flagged."""
    ANNOTATOR_DIFFERS = "annotator_differs"
    """Labels differ between slices beyond what the others say of the same rows: flagged."""


class SliceTest(NamedTuple):
    """One annotator's labels compared between the slices of one attribute."""

    annotator: str
    attribute: str
    finding: SliceFinding
    slices: tuple[str, ...]
    """Slices with at least ten votes of this annotator."""
    num_votes: int
    """Votes in these slices."""
    num_compared: int
    """Of them, votes on rows that others labelled too or whose answer is known."""
    rates_p: float | None
    """Of equal label rates in all slices, before Holm's correction; None where not tested."""
    rates_method: str
    """fisher, chi_square, permutation, or one_label."""
    beyond_p: float | None
    """Of labels that depend on the slice through the rows alone, before Holm's correction; None where not testable."""

    @property
    def flagged(self) -> bool:
        """Whether a person should look at this annotator's labels."""
        return self.finding in (SliceFinding.UNEXPLAINED, SliceFinding.ANNOTATOR_DIFFERS)


def slice_tests(
    fit: DawidSkene, slices: Slices, *, rng: np.random.Generator, gold: Mapping[str, str] | None = None,
    alpha: float = 0.05,
) -> list[SliceTest]:  # fmt: skip
    """Every annotator and attribute: do the labels differ by slice, and more than the rows explain?

    Two tests. *Rates*: `independence` of label and slice. *Beyond the rows*: the votes in each slice against the number
    expected from the annotator's one confusion matrix and what is known of each true label without this annotator's
    vote: the gold answer, else the other annotators' votes with the slice's own class shares. The statistic is
    chi-square; its level comes from votes simulated from that one matrix. Holm's correction at `alpha` goes over all
    annotators and attributes, for each test.

    Raises:
        DataError: no voted row has a value of an attribute.
    """
    table = fit.table
    code = {label: number for number, label in enumerate(table.labels)}
    gold_V = np.array([code.get((gold or {}).get(row, ""), -1) for row in table.rows], dtype=np.int64)[table.row_V]
    compared_V = (table.votes_N[table.row_V] > 1) | (gold_V >= 0)
    likely_NK, others_VK = votes_log_likelihood(table, fit.confusion_JKK), others_log_likelihood(fit)
    # So many simulations that the smallest p-value can pass the strictest of Holm's steps.
    num_tests = int((table.votes_J >= 2 * MIN_SLICE_VOTES).sum()) * len(slices)
    num_simulations = max(_MIN_SIMULATIONS, int(np.ceil(2 * num_tests / alpha)))
    found = []
    for attribute, slice_V, names in _sliced(table, slices):
        prior_SK = _slice_priors(fit, likely_NK, slice_V[table.start_N], len(names))
        truth_VK = normalised(others_VK + np.log(prior_SK)[slice_V])
        truth_VK[gold_V >= 0] = np.eye(len(table.labels))[gold_V[gold_V >= 0]]
        for annotator in range(len(table.annotators)):
            size_S = np.bincount(slice_V[(table.annotator_V == annotator) & (slice_V >= 0)], minlength=len(names))
            large_S = np.flatnonzero(size_S >= MIN_SLICE_VOTES)
            mine_V = (table.annotator_V == annotator) & np.isin(slice_V, large_S)
            both_V = mine_V & compared_V
            rates_p, method, beyond_p = None, "", None
            if len(large_S) > 1:
                rates_p, method = _equal_rates(table.label_V[mine_V], slice_V[mine_V], rng, num_simulations)
                if np.bincount(slice_V[both_V], minlength=len(names))[large_S].min() >= MIN_SLICE_VOTES:
                    one = _Own(table.label_V[both_V], slice_V[both_V], truth_VK[both_V], fit.confusion_JKK[annotator])
                    beyond_p = _beyond(one, rng, num_simulations)
            named = tuple(names[number] for number in large_S)
            who, few = table.annotators[annotator], SliceFinding.TOO_FEW
            sizes = int(mine_V.sum()), int(both_V.sum())
            found.append(SliceTest(who, attribute, few, named, *sizes, rates_p, method, beyond_p))
    return _judged(found, alpha)


def _judged(tests: list[SliceTest], alpha: float) -> list[SliceTest]:
    """The findings after Holm's correction over all tests of a kind."""

    def rejected(p_values: list[float | None]) -> list[bool]:
        says = iter(holm([p for p in p_values if p is not None], alpha=alpha))
        return [p is not None and next(says) for p in p_values]

    rates = rejected([test.rates_p for test in tests])
    beyond = rejected([test.beyond_p for test in tests])
    judged = []
    for test, rates_differ, annotator_differs in zip(tests, rates, beyond, strict=True):
        finding = SliceFinding.ALIKE
        if test.rates_p is None:
            finding = SliceFinding.TOO_FEW
        elif annotator_differs:
            finding = SliceFinding.ANNOTATOR_DIFFERS
        elif rates_differ:
            finding = SliceFinding.UNEXPLAINED if test.beyond_p is None else SliceFinding.ROWS_DIFFER
        judged.append(test._replace(finding=finding))
    return judged


def _equal_rates(label_M: Ints, slice_M: Ints, rng: np.random.Generator, num_simulations: int) -> tuple[float, str]:
    """The test of equal rates; an annotator with one label for everything has equal rates."""
    labels, label_M = np.unique(label_M, return_inverse=True)
    slices, slice_M = np.unique(slice_M, return_inverse=True)
    if len(labels) < 2:
        return 1.0, "one_label"
    flat = np.bincount(slice_M * len(labels) + label_M, minlength=len(slices) * len(labels))
    return independence(flat.reshape(len(slices), len(labels)), rng=rng, num_permutations=num_simulations)


def independence(
    count_SK: npt.ArrayLike, *, rng: np.random.Generator, num_permutations: int = _MIN_SIMULATIONS
) -> tuple[float, str]:
    """p-value of equal label rates in all slices, and the method.

    Fisher's exact test for two slices and two labels; Pearson's chi-square where every expected count is at least
    five; else the same statistic against permutations.

    Raises:
        DataError: fewer than two slices or labels with votes.
    """
    counts = np.asarray(count_SK, dtype=np.int64)
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    num_slices, num_labels = counts.shape
    if min(counts.shape) < 2:
        raise DataError(f"independence: votes in {num_slices} slices and {num_labels} labels; expected 2 of both.")
    if counts.shape == (2, 2):
        return _fisher(counts), "fisher"
    expected_SK = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    seen = float(((counts - expected_SK) ** 2 / expected_SK).sum())
    if expected_SK.min() >= 5:
        from scipy.special import chdtrc

        return float(chdtrc((num_slices - 1) * (num_labels - 1), seen)), "chi_square"
    slice_M = np.repeat(np.arange(num_slices), counts.sum(axis=1))
    label_M = np.concatenate([np.repeat(np.arange(num_labels), line) for line in counts])

    def drawn(num: int) -> Floats:
        label_BM = rng.permuted(np.tile(label_M, (num, 1)), axis=1)
        count_BSK = _counted(label_BM, slice_M, num_slices, num_labels)
        return np.asarray(((count_BSK - expected_SK) ** 2 / expected_SK).sum(axis=(1, 2)))

    return _simulated_p(seen, drawn, num_permutations, len(label_M)), "permutation"


def _fisher(count_22: Ints) -> float:
    """Two-sided: all tables with these margins that are no more likely than this one."""
    from scipy.special import gammaln

    (a, b), (c, d) = count_22.tolist()
    first, left, num = a + b, a + c, a + b + c + d
    x = np.arange(max(0, left - (num - first)), min(first, left) + 1)
    log_p = -(gammaln(x + 1) + gammaln(first - x + 1) + gammaln(left - x + 1) + gammaln(num - first - left + x + 1))
    p = np.exp(log_p - log_p.max())
    return float(min(1.0, p[p <= p[a - x[0]] * (1 + 1e-7)].sum() / p.sum()))


def _counted(label_BM: Ints, slice_M: Ints, num_slices: int, num_labels: int) -> Ints:
    """Counts by slice and label of every simulation."""
    cells = num_slices * num_labels
    code_BM = np.arange(len(label_BM))[:, None] * cells + slice_M * num_labels + label_BM
    flat = np.bincount(code_BM.ravel(), minlength=len(label_BM) * cells)
    return flat.reshape(len(label_BM), num_slices, num_labels)


def _simulated_p(seen: float, drawn: Callable[[int], Floats], num: int, cells: int) -> float:
    """Chance of a statistic at least as far out, from at most `num` simulations; stops once twenty are.

    Source: Besag & Clifford 1991: 20 / (simulations until the twentieth) is a valid p-value too.
    """
    done = as_far = 0
    while done < num:
        size = min(num - done, max(1, _CHUNK_CELLS // cells), max(100, done))
        far_F = np.flatnonzero(drawn(size) >= seen - 1e-9)
        if as_far + len(far_F) >= _ENOUGH:
            return _ENOUGH / float(done + far_F[_ENOUGH - as_far - 1] + 1)
        done, as_far = done + size, as_far + len(far_F)
    return (as_far + 1) / (num + 1)


def _slice_priors(fit: DawidSkene, likely_NK: Floats, slice_N: Ints, num_slices: int) -> Floats:
    """Class shares of every slice, started with one pseudo-row as all rows are; the last line serves rows without."""
    prior_SK = np.tile(fit.prior_K, (num_slices + 1, 1))
    for _ in range(_FIT_ITERATIONS):
        posterior_NK = normalised(likely_NK + np.log(prior_SK)[slice_N])
        for code in range(num_slices):
            total_K = posterior_NK[slice_N == code].sum(axis=0) + fit.prior_K
            prior_SK[code] = total_K / total_K.sum()
    return prior_SK


class _Own(NamedTuple):
    """The votes of one annotator, with what is known of the true labels without them."""

    label_M: Ints
    slice_M: Ints
    truth_MK: Floats
    confusion_KK: Floats


def _beyond(own: _Own, rng: np.random.Generator, num_simulations: int) -> float:
    """p-value that the votes depend on the slice only through the true labels."""
    num_labels, confusion_KK = len(own.confusion_KK), own.confusion_KK
    for _ in range(_FIT_ITERATIONS):  # the annotator's one matrix, given what the others know
        part_MK = normalised(np.log(own.truth_MK + 1e-300) + np.log(confusion_KK[:, own.label_M].T))
        counts = [np.bincount(own.label_M, weights=part_MK[:, k], minlength=num_labels) for k in range(num_labels)]
        count_KK = np.stack(counts) + own.confusion_KK  # one pseudo-vote a true label: no chance becomes 0
        confusion_KK = count_KK / count_KK.sum(axis=1, keepdims=True)
    chance_MK = own.truth_MK @ confusion_KK
    slices, slice_M = np.unique(own.slice_M, return_inverse=True)
    expected_SK = np.stack([chance_MK[slice_M == code].sum(axis=0) for code in range(len(slices))])
    part_SK = expected_SK / expected_SK.sum(axis=0)

    def statistic(label_BM: Ints) -> Floats:
        gap_BSK = _counted(label_BM, slice_M, len(slices), num_labels) - expected_SK
        gap_BSK = gap_BSK - part_SK * gap_BSK.sum(axis=1, keepdims=True)  # only what differs between slices
        return np.asarray((gap_BSK**2 / expected_SK).sum(axis=(1, 2)))

    upto_MK = np.cumsum(chance_MK, axis=1)[:, :-1]

    def drawn(num: int) -> Floats:
        return statistic((rng.random((num, len(slice_M), 1)) > upto_MK).sum(axis=2))

    return _simulated_p(float(statistic(own.label_M[None])[0]), drawn, num_simulations, upto_MK.size + len(slice_M))
