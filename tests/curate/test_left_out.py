"""Models that judge a row have not seen it: closed forms against refits, neighbours against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from metier.curate import left_out as models
from metier.curate.label_errors import _dealt


def points(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around three centres, and the centre of each."""
    rng = np.random.default_rng(seed)
    code_N = np.arange(num) % 3
    topic_ND = np.eye(3, 6)[code_N] + rng.normal(0, 0.5, (num, 6))
    return (topic_ND / np.linalg.norm(topic_ND, axis=1, keepdims=True)).astype(np.float32), code_N


def test_ridge_without_a_row_is_ridge_fitted_on_the_others() -> None:
    topic_ND, code_N = points(30, 1)
    target_NK = np.eye(3, dtype=np.float32)[code_N]
    found = models.left_out(topic_ND, target_NK)
    for row in (0, 13, 29):
        rest = np.arange(30) != row
        x, y = topic_ND[rest].astype(np.float64), target_NK[rest]
        expected = topic_ND[row] @ np.linalg.solve(x.T @ x + np.eye(6), x.T @ y)
        assert found[row] == pytest.approx(expected, abs=1e-4)


def test_nearest_rows_are_those_of_brute_force_and_never_the_row_itself(monkeypatch) -> None:
    topic_ND, _ = points(40, 2)
    monkeypatch.setattr(models, "BLOCK", 7)
    near = models.nearest(topic_ND)
    cosine = topic_ND @ topic_ND.T
    for row in range(40):
        expected = [i for i in np.argsort(-cosine[row], kind="stable") if i != row][: models.NEIGHBOURS]
        assert near.place_Nk[row].tolist() == expected
        assert near.cosine_Nk[row] == pytest.approx(cosine[row][expected], abs=1e-6)
    assert models.nearest(topic_ND[:3]).place_Nk.shape == (3, 2)


def test_votes_by_hand() -> None:
    near = models.Near(np.array([[1, 2], [0, 2], [0, 1]]), np.array([[1.0, 0.95], [1.0, 1.0], [0.0, 0.0]]))
    share_NK = models._votes(near, np.array([0, 1, 1]))
    assert share_NK.sum(axis=1) == pytest.approx([1, 1, 1])
    assert share_NK[0] == pytest.approx([0, 1], abs=1e-3)  # both neighbours have label 1
    assert share_NK[1] == pytest.approx([0.5, 0.5])
    assert share_NK[2] == pytest.approx([0.5, 0.5])  # no neighbour near: all labels alike


@pytest.mark.parametrize("model", ["regression", "machine"])
def test_shares_of_a_row_do_not_depend_on_its_own_label(model: str) -> None:
    topic_ND, code_N = points(60, 3)
    fold_N = np.arange(60) // 3 % models.NUM_FOLDS
    changed_N = code_N.copy()
    changed_N[7] = (code_N[7] + 1) % 3
    if model == "regression":
        first, second = (models._regression(topic_ND, code, fold_N) for code in (code_N, changed_N))
    else:
        first, second = (models._machine(topic_ND.astype(np.float64), code, fold_N, 0) for code in (code_N, changed_N))
        # The temperature comes from all rows; the order of the labels does not.
        first, second = (np.log(share / share.max(axis=1, keepdims=True)) for share in (first, second))
        first, second = (value / -value.min(axis=1, keepdims=True) for value in (first, second))
    assert second[7] == pytest.approx(first[7], abs=1e-6)
    assert np.abs(second - first).max() > 1e-3  # rows of other folds do see it


def test_averaged_shares_are_shares_of_the_right_label_mostly() -> None:
    topic_ND, code_N = points(90, 4)
    import scipy.sparse as sp

    share_NK = models.mean_shares(
        sp.csr_matrix(topic_ND), topic_ND, code_N, models.nearest(topic_ND), fold_N=_dealt(code_N, 5, 0), seed=0
    )
    assert share_NK.sum(axis=1) == pytest.approx(np.ones(90))
    assert (share_NK.argmax(axis=1) == code_N).mean() > 0.8


def test_softmax_takes_the_temperature_under_which_the_labels_are_likeliest() -> None:
    score_NK = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    sure = models._as_shares(score_NK, np.array([0, 1, 0, 1]))
    assert sure[0, 0] > 0.999  # always right: as sharp as it gets
    unsure = models._as_shares(score_NK, np.array([0, 1, 1, 0]))
    assert unsure[0, 0] == pytest.approx(1 / (1 + np.exp(-1 / 0.6)))  # half right: as flat as it gets


def test_rows_of_every_label_are_dealt_evenly_and_rare_ones_kept_together() -> None:
    code_N = np.repeat([0, 1, 2], [50, 23, 4])
    folds = _dealt(code_N, 5, 3)
    for label in range(3):
        sizes = np.bincount(folds[code_N == label], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    shards = _dealt(code_N, 4, 3, at_least=10)
    assert [len(np.unique(shards[code_N == label])) for label in range(3)] == [4, 2, 1]
    assert _dealt(code_N, 5, 3).tolist() == folds.tolist()
    assert _dealt(code_N, 5, 4).tolist() != folds.tolist()


def test_texts_alike_have_topics_without_warnings() -> None:
    terms = models.terms_of(["one text"] * 12)
    assert np.isfinite(models.topics_of(terms, 0)).all()
    single = models.terms_of(["word"] * 12, characters=False)
    assert models.topics_of(single, 0).tolist() == [[1.0]] * 12
