"""What the sentence adds about other questions and about the cost, and the error rate of each bound."""

from __future__ import annotations

from metier.assess import CostRatio, ScoreTable
from metier.core.settings import DecisionConfig
from tests.assess.test_decide import GOOD, answer, table


def test_the_sentence_says_whether_the_tuning_is_in_the_cost() -> None:
    question = DecisionConfig(claim="as_good_for_less", limit=0.02)
    of = "a request with its share of the tuning (500 requests a month for 12 months)"
    shared = CostRatio(0.2, 0.4, "few_shot", of)
    assert answer(table(20, 20, 3000), question, cost_ratio=shared).verdict.sentence.endswith(
        ", and a request with its share of the tuning (500 requests a month for 12 months) costs at most 0.40 times as "
        "much as few_shot."
    )


def test_the_cost_names_the_rival_it_was_held_against_and_not_the_strongest_on_the_hold_out() -> None:
    question = DecisionConfig(claim="as_good_for_less", limit=0.02)
    for low, high, said in (
        (0.2, 0.4, "a request costs at most 0.40 times as much as prompt."),
        (0.8, 1.1, "a request is not known to cost less than prompt (0.80 to 1.10 times); a changed question"),
        (1.2, 1.5, "a request costs at least 1.20 times as much as prompt."),
    ):
        found = answer(table(20, 20, 3000), question, cost_ratio=CostRatio(low, high, "prompt"))
        assert found.gain.versus == "few_shot"
        assert said in found.verdict.sentence


def test_other_questions_of_the_same_rows_change_no_outcome_and_are_told() -> None:
    alone, third = answer(GOOD).verdict, answer(GOOD, other_questions=2).verdict
    assert (third.outcome, third.reason) == (alone.outcome, alone.reason)
    said = "2 other questions were asked of the same hold-out rows before; the error rates of all of them add up."
    assert third.sentence == f"{alone.sentence} Caution: {said}"
    assert " Caution: 1 other question was asked " in answer(GOOD, other_questions=1).verdict.sentence


def test_each_bound_carries_its_own_error_rate() -> None:
    scores = ScoreTable.of(
        tuned=[1] * 60 + [0] * 40, rivals={"a": [1] * 40 + [0] * 60, "b": [0] * 100}, groups=range(100), binary=True
    )
    for comparison in answer(scores).comparisons:
        assert (comparison.side_alpha, comparison.high_alpha) == (0.05, 0.025)
