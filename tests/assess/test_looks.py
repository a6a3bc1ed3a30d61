"""What each look may spend, and which looks are refused."""

from __future__ import annotations

import pytest

from metier.assess import LookGrant, LookKind, PastLook, next_look
from metier.core.errors import DataError, GateClosed


def run(looks: list[tuple[str, str, str, int]], *, alpha: float = 0.05, max_looks: int = 3) -> list[LookGrant]:
    """Grants of a sequence of (question, model, rows, number of rows)."""
    past: list[PastLook] = []
    grants = []
    for question, model, rows, num_rows in looks:
        grant = next_look(
            past, question=question, model=model, rows=rows, num_rows=num_rows, alpha=alpha, max_looks=max_looks
        )
        grants.append(grant)
        past.append(PastLook(question=question, model=model, rows=rows, num_rows=num_rows, alpha=grant.alpha))
    return grants


def test_the_same_question_of_more_rows_spends_an_equal_share_each_time() -> None:
    grants = run([("q", "m", "h1", 100), ("q", "m", "h2", 200), ("q", "m", "h3", 300)])
    assert [g.kind for g in grants] == [LookKind.FIRST, LookKind.MORE_ROWS, LookKind.MORE_ROWS]
    assert [g.alpha for g in grants] == pytest.approx([0.05 / 3] * 3)
    assert grants[-1].alpha_left == pytest.approx(0)


def test_a_fourth_hold_out_is_refused() -> None:
    with pytest.raises(
        GateClosed, match="asked of 3 hold-outs, as many as decision.max_looks allows. A changed question"
    ):
        run([("q", "m", f"h{k}", 100 * k) for k in range(1, 5)])


def test_new_models_on_the_same_rows_spend_half_as_much_each_time() -> None:
    grants = run([("q", f"m{k}", "h", 100) for k in range(1, 6)])
    assert [g.k for g in grants] == [1, 2, 3, 4, 5]
    assert [g.alpha for g in grants] == pytest.approx([0.05 / 3, 0.05 / 4, 0.05 / 8, 0.05 / 16, 0.05 / 32])
    assert sum(g.alpha for g in grants) < 0.05


def test_with_one_look_nothing_is_left_for_a_second_model() -> None:
    with pytest.raises(GateClosed, match="look 2 would spend 0.0125 of the error rate 0.05, of which 0.0000 is left."):
        run([("q", "m1", "h", 100), ("q", "m2", "h", 100)], max_looks=1)


def test_mixed_looks_never_spend_more_than_alpha() -> None:
    looks = [("q", "m1", "h1", 100), ("q", "m2", "h1", 100), ("q", "m2", "h2", 200)]
    assert sum(g.alpha for g in run(looks)) <= 0.05
    with pytest.raises(GateClosed, match="look 4 would spend 0.0167"):
        run([*looks, ("q", "m2", "h3", 300)])


def test_a_changed_question_starts_anew() -> None:
    grants = run([("q", "m", "h", 100), ("r", "m", "h", 100)])
    assert (grants[1].kind, grants[1].k, grants[1].alpha) == (LookKind.FIRST, 1, pytest.approx(0.05 / 3))


def test_the_same_model_on_the_same_rows_is_not_judged_twice() -> None:
    with pytest.raises(
        GateClosed, match="this model was already judged on these hold-out rows for this question; read its report."
    ):
        run([("q", "m", "h", 100), ("q", "m", "h", 100)])


def test_a_hold_out_that_did_not_grow_is_an_error() -> None:
    with pytest.raises(
        DataError,
        match="hold-out of 100 rows after one of 100; the same question may be asked again of more rows only.",
    ):
        run([("q", "m", "h1", 100), ("q", "m", "h2", 100)])
