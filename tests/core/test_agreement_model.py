"""Dawid and Skene's model where the truth is known: by hand, by simulation, at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.core.agreement import majority_vote
from metier.core.dawid_skene import MAX_CELLS, accuracies, ceiling, dawid_skene, own_accuracy, resample
from metier.core.errors import DataError
from metier.core.votes import vote_table

from .voting import drawn_table, one_coin, votes_by_coder

TOY = ["no yes yes yes yes", "yes yes no yes no", "* yes no yes no", "yes no yes yes no", "no no no yes no"]


def test_the_published_toy_gives_the_published_labels() -> None:
    fit = dawid_skene(vote_table(votes_by_coder(TOY)), smoothing=0)
    assert [fit.table.labels[code] for code in fit.label_N] == ["yes", "yes", "no", "yes", "no"]
    assert fit.converged


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0, 4.0]), st.integers(2, 4))
def test_the_objective_never_falls(seed, smoothing, num_labels) -> None:
    rng = np.random.default_rng(seed)
    confusion_JKK = rng.dirichlet(np.full(num_labels, 0.7), size=(5, num_labels))
    table = drawn_table(rng, rng.integers(0, num_labels, 30), confusion_JKK, 3)
    fit = dawid_skene(table, smoothing=smoothing)
    steps = np.diff(fit.objectives)
    assert (steps >= -1e-8 * abs(fit.objectives[0])).all()
    assert np.allclose(fit.posterior_NK.sum(axis=1), 1)
    assert np.allclose(fit.confusion_JKK.sum(axis=2), 1)
    assert fit.converged == (len(fit.objectives) < 500)


def test_stopping_early_is_stated() -> None:
    rng = np.random.default_rng(3)
    table = drawn_table(rng, rng.integers(0, 2, 200), one_coin([0.9, 0.6, 0.7, 0.8]), 3)
    early = dawid_skene(table, max_iterations=2)
    assert (early.converged, len(early.objectives)) == (False, 2)
    assert dawid_skene(table).converged


def test_confusion_and_labels_are_recovered_where_the_truth_is_known() -> None:
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 2, 1500)
    sharp = np.array([[0.95, 0.05], [0.3, 0.7]])  # misses the second label, rarely the first
    confusion_JKK = np.stack([sharp, *one_coin([0.9, 0.55, 0.8, 0.7, 0.85])])
    table = drawn_table(rng, truth, confusion_JKK, 5)
    fit = dawid_skene(table)
    assert np.abs(fit.confusion_JKK - confusion_JKK).max() < 0.06
    fitted, voted = (fit.label_N == truth).mean(), majority_vote(table).share_NK[np.arange(1500), truth].mean()
    assert fitted > voted + 0.02


def test_an_adversary_is_read_the_other_way_round() -> None:
    rng = np.random.default_rng(6)
    truth = rng.integers(0, 2, 600)
    table = drawn_table(rng, truth, one_coin([0.9, 0.9, 0.9, 0.1]), 4)
    fit = dawid_skene(table)
    assert own_accuracy(fit)[3] < 0.15
    assert (fit.label_N == truth).mean() > 0.95


def test_intervals_hold_accuracy_and_ceiling_as_often_as_they_say() -> None:
    rng, reps = np.random.default_rng(8), 40
    accuracy = [0.95, 0.9, 0.8, 0.7, 0.6, 0.75]
    held, held_ceiling = np.zeros(6), np.zeros(3)
    for _ in range(reps):
        truth = rng.integers(0, 2, 150)
        table = drawn_table(rng, truth, one_coin(accuracy), 4)
        fit = dawid_skene(table)
        resampled = resample(fit, rng=rng, num_resamples=30)
        held += [e.low <= a <= e.high for e, a in zip(accuracies(fit, resampled), accuracy, strict=True)]
        votes_right = np.add.reduceat(table.label_V == truth[table.row_V], table.start_N) / 4
        voted = majority_vote(table).share_NK[np.arange(150), truth]
        real = votes_right.mean(), voted.mean(), (fit.label_N == truth).mean()
        held_ceiling += [e.low <= r <= e.high for e, r in zip(ceiling(fit, resampled), real, strict=True)]
    # Annotators of one repetition share its rows: 40 repetitions carry the Monte-Carlo error, not 240.
    assert held.sum() / (6 * reps) >= 0.95 - 3 * (0.95 * 0.05 / reps) ** 0.5
    assert held_ceiling.min() / reps >= 0.95 - 3 * (0.95 * 0.05 / reps) ** 0.5


def test_a_faultless_annotator_is_not_certain() -> None:
    fit = dawid_skene(vote_table(votes_by_coder(["a b a b a b a b"] * 3)))
    found = accuracies(fit, resample(fit, rng=np.random.default_rng(0), num_resamples=20))
    assert all(0.5 < one.low < 0.9 and one.n == 8 for one in found)


def test_who_labels_alone_has_no_accuracy() -> None:
    fit = dawid_skene(vote_table(votes_by_coder(["a b a b * *", "a b b b * *", "* * * * a b"])))
    found = accuracies(fit, resample(fit, rng=np.random.default_rng(0), num_resamples=5))
    assert found[2] is None
    assert [one.n for one in found[:2]] == [4, 4]


def test_an_annotator_with_few_votes_is_thought_to_be_as_the_others_are() -> None:
    rng = np.random.default_rng(9)
    truth = rng.integers(0, 2, 300)
    table = drawn_table(rng, truth, one_coin([0.8] * 5), 5)
    mine = (table.annotator_V == 0) & (np.cumsum(table.annotator_V == 0) > 2)  # all but two of the first one's votes
    few = [v for v, drop in zip(range(len(mine)), mine, strict=True) if not drop]
    cut = type(table)(
        rows=table.rows, annotators=table.annotators, labels=table.labels, row_V=table.row_V[few],
        annotator_V=table.annotator_V[few], label_V=table.label_V[few], seconds_V=table.seconds_V[few], num_replaced=0,
    )  # fmt: skip
    fit = dawid_skene(cut)
    found = accuracies(fit, resample(fit, rng=rng, num_resamples=30))
    assert found[0].n == 2
    assert found[0].high - found[0].low > 0.4
    assert fit.confusion_JKK[0].diagonal().min() > 0.6  # so the labels are not drawn about by two votes
    assert found[1].high - found[1].low < 0.2


def test_the_model_says_what_it_cannot_do() -> None:
    with pytest.raises(DataError, match="every vote is 'a'; expected two labels or more"):
        dawid_skene(vote_table(votes_by_coder(["a a", "a a"])))
    with pytest.raises(DataError, match="smoothing is -1; expected 0 pseudo-votes or more"):
        dawid_skene(vote_table(votes_by_coder(TOY)), smoothing=-1)
    with pytest.raises(DataError, match="none of 3 rows has two votes; expected some"):
        lonely = dawid_skene(vote_table(votes_by_coder(["a b a"])))
        ceiling(lonely, resample(lonely, rng=np.random.default_rng(0), num_resamples=3))
    coders = [" ".join(str(i) for i in range(900))] + [" ".join(["0"] + ["*"] * 899)] * (MAX_CELLS // 900**2)
    with pytest.raises(DataError, match="25 annotators with 900 labels make 20250000 cells of confusion"):
        dawid_skene(vote_table(votes_by_coder(coders)))
