"""The outcome table, row by row, from scores made so that each line is the first to match."""

from __future__ import annotations

import numpy as np
import pytest

from metier.assess import CostRatio, Decision, GainForecast, GuardScores, ScoreTable, cross_checks, decide
from metier.core.errors import ConfigError, DataError
from metier.core.report import Forecast, GuardState, Outcome
from metier.core.settings import DecisionConfig, GuardConfig, ValueConfig

QUESTION = DecisionConfig(margin=0.03)


def pair(gains: int, losses: int, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Yes-no scores of two arms with so many discordant rows; they agree on 1 elsewhere."""
    first, second = np.ones(num_rows), np.ones(num_rows)
    second[:gains], first[gains : gains + losses] = 0, 0
    return first, second


def table(gains: int, losses: int, num_rows: int, *, binary: bool = True, groups=None) -> ScoreTable:
    tuned, rival = pair(gains, losses, num_rows)
    groups = np.arange(num_rows) if groups is None else groups
    return ScoreTable.of(tuned=tuned, rivals={"few_shot": rival}, groups=groups, binary=binary)


def guard(
    gains: int, losses: int, num_rows: int, *, limit: float = 0.02, required: bool = True, name: str = "refusals"
) -> GuardScores:
    tuned, reference = pair(gains, losses, num_rows)
    config = GuardConfig(name=name, on="slice=all", limit=limit, required=required)
    return GuardScores.of(config, tuned=tuned, reference=reference, groups=np.arange(num_rows), binary=True)


def forecast(*highs: float, num_train: int = 500) -> GainForecast:
    points = tuple(
        Forecast(num_train=num_train * 2 ** (i + 1), low=-0.05, high=high, level=0.8) for i, high in enumerate(highs)
    )
    return GainForecast(num_train=num_train, points=points)


def answer(scores: ScoreTable, question: DecisionConfig = QUESTION, **more) -> Decision:
    return decide(question, scores, alpha_this_look=0.05, **more)


GOOD, BAD, OPEN = table(60, 10, 500), table(20, 40, 500), table(30, 15, 500)


def test_worth_it_when_every_lower_bound_reaches_the_margin() -> None:
    # p1 = 61/502, p2 = 11/502: d = .0996, se = sqrt((.143426 - .00992) / 502) = .01631; L = .0996 - 1.645 x .01631 = .0728
    found = answer(GOOD)
    assert (found.verdict.outcome, found.verdict.reason) == (Outcome.WORTH_IT, "margin_reached")
    assert found.gain.low == pytest.approx(0.0728, abs=1e-4)
    assert (found.gain.method, found.gain.estimate, found.gain.discordance) == ("bonett_price", 0.1, 0.14)
    assert found.verdict.sentence == (
        'Worth it: on 500 held-out rows the tuned model scores 10.0 points above its strongest rival, "few_shot" (gain between '
        "7.3 and 12.6 points of 100), and a gain of at least 3.0 points was asked for."
    )


def test_one_rival_that_is_not_beaten_by_the_margin_keeps_it_open() -> None:
    tuned, rival = pair(60, 10, 500)
    second = rival.copy()
    second[20:60] = 1  # 40 rows more right: the gain over it is 2 points
    scores = ScoreTable.of(tuned=tuned, rivals={"weak": rival, "strong": second}, groups=np.arange(500), binary=True)
    found = answer(scores)
    assert found.verdict.outcome is Outcome.NEED_HOLDOUT_ROWS
    assert found.gain.versus == "strong"
    assert [c.versus for c in found.comparisons] == ["weak", "strong"]


def test_upper_bounds_are_shared_among_rivals_and_lower_bounds_are_not() -> None:
    tuned, rival = pair(40, 20, 400)
    one = ScoreTable.of(tuned=tuned, rivals={"a": rival}, groups=np.arange(400), binary=True)
    three = ScoreTable.of(tuned=tuned, rivals=dict.fromkeys("abc", rival), groups=np.arange(400), binary=True)
    first, second = answer(one).gain, answer(three).gain
    assert first.low == second.low
    assert second.high > first.high
    centre, z05, z0167 = (first.low + first.high) / 2, 1.644854, 2.128045
    assert (second.high - centre) / (first.high - centre) == pytest.approx(z0167 / z05, rel=1e-5)


def test_the_strongest_rival_has_the_smallest_lower_bound_not_the_smallest_estimate() -> None:
    tuned, noisy, steady = np.ones(500), np.ones(500), np.ones(500)
    tuned[:60] = steady[:60] = 0  # rows the tuned arm misses: the noisy rival gets them right, the steady one does not
    noisy[60:170] = 0  # gain .10, discordance .34
    steady[60:108] = 0  # gain .096, discordance .096
    scores = ScoreTable.of(tuned=tuned, rivals={"noisy": noisy, "steady": steady}, groups=np.arange(500), binary=True)
    found = answer(scores)
    assert [c.estimate for c in found.comparisons] == pytest.approx([0.10, 0.096])
    assert (found.gain.versus, found.verdict.outcome) == ("noisy", Outcome.WORTH_IT)


def test_not_worth_it_says_whether_a_curve_was_measured() -> None:
    without = answer(BAD)
    assert (without.verdict.outcome, without.verdict.reason) == (Outcome.NOT_WORTH_IT, "no_curve")
    assert without.verdict.sentence.endswith("; whether more training rows would help was not measured.")
    flat = answer(BAD, forecast={"few_shot": forecast(0.0, 0.029)})
    assert (flat.verdict.outcome, flat.verdict.reason) == (Outcome.NOT_WORTH_IT, "below_margin")
    assert flat.verdict.sentence.endswith("; four times the training rows are not forecast to reach it.")
    assert '4.0 points below its strongest rival, "few_shot"' in flat.verdict.sentence


def test_need_train_rows_when_the_band_reaches_the_margin_within_four_times_the_rows() -> None:
    found = answer(BAD, forecast={"few_shot": forecast(0.0, 0.031)})
    assert (found.verdict.outcome, found.verdict.reason, found.train_rows_needed) == (
        Outcome.NEED_TRAIN_ROWS,
        "more_train_rows",
        2000,
    )
    assert "with 2,000 training rows in all the learning curve may reach it, so collect them" in found.verdict.sentence
    at_hand = answer(BAD, forecast={"few_shot": forecast(0.0, 0.031)}, rows_at_hand=2500)
    assert "with 2,000 of the 2,500 training rows at hand the learning curve" in at_hand.verdict.sentence
    late = answer(BAD, forecast={"few_shot": forecast(0.0, 0.0, 0.2)})  # 8 times the rows: too far to promise
    assert late.verdict.outcome is Outcome.NOT_WORTH_IT


def test_every_rival_shown_out_of_reach_needs_its_own_forecast() -> None:
    tuned, rival = pair(20, 40, 500)
    scores = ScoreTable.of(tuned=tuned, rivals={"a": rival, "b": rival}, groups=np.arange(500), binary=True)
    assert answer(scores, forecast={"a": forecast(0.1)}).verdict.reason == "no_curve"
    assert answer(scores, forecast={"a": forecast(0.1), "b": forecast(0.0)}).verdict.reason == "below_margin"
    both = answer(scores, forecast={"a": forecast(0.1), "b": forecast(0.0, 0.1)})
    assert (both.verdict.reason, both.train_rows_needed) == ("more_train_rows", 2000)


def test_open_says_how_many_rows_would_decide() -> None:
    # d = 15/502 = .02988, p1 + p2 = 47/502 = .093625; planned gain .06:
    # 6.182557 x (.093625 - .0036) / .03^2 = 618.4, and what Bonett-Price's own arithmetic adds. At 637 rows the centre
    # is .06 x 637/639 = .0598122, psi' = (637 x .093625 + 2)/639 = .0964618, se = sqrt((psi' - centre^2)/639) = .0120565,
    # sd of the centre sqrt(637 x .090025)/639 = .0118509: .0298122 >= 1.644854 x .0120565 + .841621 x .0118509 = .0298051.
    found = answer(OPEN)
    assert (found.verdict.outcome, found.verdict.reason) == (Outcome.NEED_HOLDOUT_ROWS, "holdout_too_small")
    assert (found.rows_needed.plan_gain, found.rows_needed.to_collect) == (637, 637)
    assert (found.rows_needed.low, found.rows_needed.estimate) == (None, None)
    assert found.verdict.sentence.endswith("; hold out 637 rows in all to decide.")
    # mde = .03 + (1.644854 + .841621) x sqrt((.093625 - .000893) / 502)
    assert found.mde == pytest.approx(0.03 + 2.486475 * 0.0135913, abs=1e-5)


def test_rows_are_planned_for_all_rivals_together() -> None:
    tuned, rival = pair(30, 15, 500)
    scores = ScoreTable.of(tuned=tuned, rivals={"a": rival, "b": rival}, groups=np.arange(500), binary=True)
    found = answer(scores)
    # Power 1 - .2/2 = .9 against each: (1.644854 + 1.281552)^2 = 8.563847; x .090025 / .0009 = 856.6, and the interval's own.
    assert found.rows_needed.plan_gain == 873
    assert found.rows_needed_by_rival["a"].plan_gain == 637
    assert found.mde > answer(OPEN).mde


def test_no_number_of_rows_decides_is_an_answer() -> None:
    question = DecisionConfig(margin=0.03, max_holdout_rows=600)
    found = answer(OPEN, question)
    assert found.rows_needed.to_collect is None
    assert found.verdict.sentence.endswith("; no number of rows up to 600 is expected to show it.")
    settled = answer(table(20, 20, 300), DecisionConfig(margin=0.03, plan_gain=0.15))
    # n = 6.182557 x (42/302) / .03^2 = 955.3, the variance of one row being .139073; and the interval's own two rows
    assert settled.rows_needed.settle_below == 961
    assert (
        f"but {settled.rows_needed.settle_below:,} rows in all would settle that it falls short."
        in settled.verdict.sentence
    )


def test_rows_are_counted_in_groups_where_groups_count() -> None:
    groups = np.repeat(np.arange(100), 5)
    tuned, rival = pair(30, 15, 500)
    order = np.random.default_rng(0).permutation(500)
    scores = ScoreTable.of(tuned=tuned[order], rivals={"few_shot": rival[order]}, groups=groups, binary=True)
    found = answer(scores)
    assert (found.gain.method, found.gain.num_groups) == ("cr2_t", 100)
    values = found.rows_needed.as_json()
    assert values["unit"] == "groups"
    assert values["groups"]["to_collect"] == -(-found.rows_needed.to_collect // 5)
    assert (
        f"hold out {values['groups']['to_collect']} groups (about {found.rows_needed.to_collect} rows) in all"
        in found.verdict.sentence
    )
    assert "500 held-out rows (100 groups)" in found.verdict.sentence


def test_below_ten_differing_rows_not_worth_it_is_not_available() -> None:
    nine, ten = answer(table(0, 9, 400)), answer(table(0, 10, 400))
    assert nine.gain.high < 0.03
    assert (nine.verdict.outcome, nine.verdict.reason) == (Outcome.NEED_HOLDOUT_ROWS, "too_few_discordant")
    assert ten.verdict.outcome is Outcome.NOT_WORTH_IT


def test_graded_scores_that_differ_on_a_handful_of_rows_are_not_worth_it_yet() -> None:
    question = DecisionConfig(margin=0.0)
    sparse, enough = table(4, 0, 300, binary=False), table(10, 0, 300, binary=False)
    # One row added at each end: centre 4/302, se^2 = (6 - 302 x centre^2) / 302^2, t(299, .95) = 1.649966: low -.00008.
    assert answer(sparse, question).gain.low == pytest.approx(-0.00008, abs=1e-5)
    assert answer(sparse, question).gain.method == "cr2_adjusted"
    assert answer(sparse, question).verdict.reason == "too_few_discordant"
    assert answer(enough, question).verdict.outcome is Outcome.WORTH_IT


def test_arms_that_are_all_equal_are_undecided() -> None:
    for binary in (True, False):
        found = answer(table(0, 0, 200, binary=binary))
        assert (found.verdict.outcome, found.verdict.reason) == (Outcome.NEED_HOLDOUT_ROWS, "too_few_discordant")
        assert found.gain.low < 0 < found.gain.high
        assert "level with its strongest rival" in found.verdict.sentence


def test_constant_scores_do_not_claim_certainty() -> None:
    scores = ScoreTable.of(tuned=[0.8] * 20, rivals={"prompt": [0.5] * 20}, groups=np.arange(20), binary=False)
    found = answer(scores)
    assert found.gain.method == "cr2_adjusted"
    assert found.gain.low < 0.3 - 0.1


def test_one_discordant_row_is_undecided() -> None:
    assert answer(table(1, 0, 60)).verdict.reason == "too_few_discordant"


def test_a_failed_required_guard_comes_first() -> None:
    found = answer(GOOD, guards=[guard(0, 30, 200)])
    assert (found.verdict.outcome, found.verdict.reason) == (Outcome.NOT_WORTH_IT, "guard:refusals")
    assert found.guards[0].state is GuardState.FAILED
    assert found.verdict.sentence.startswith(
        "Not worth it: on 200 held-out rows the tuned model loses 15.0 points on the guard 'refusals' (between "
    )
    assert found.verdict.sentence.endswith(", and at most 2.0 were accepted.")


def test_a_guard_that_is_not_required_blocks_nothing() -> None:
    assert answer(GOOD, guards=[guard(0, 30, 200, required=False)]).verdict.outcome is Outcome.WORTH_IT
    assert answer(GOOD, guards=[guard(0, 0, 20, required=False)]).verdict.outcome is Outcome.WORTH_IT


def test_an_unproven_required_guard_keeps_a_good_verdict_open() -> None:
    found = answer(GOOD, guards=[guard(3, 3, 100)])
    assert (found.verdict.outcome, found.verdict.reason) == (Outcome.NEED_HOLDOUT_ROWS, "guard_unproven:refusals")
    # psi = (3 + 1 + 3 + 1) / 102 = .078431; 6.182557 x .078431 / .0004 = 1212.2
    # At 1,225: 1.644854 x sqrt(.079933 / 1227) + .841621 x sqrt(1225 x .078431) / 1227 = .0199995 <= .02.
    assert found.guards[0].rows_needed == 1225
    assert (
        "cannot show that 'refusals' loses at most 2.0 points; about 1,225 rows would prove it."
        in found.verdict.sentence
    )


def test_an_unproven_guard_does_not_hide_a_loss() -> None:
    assert answer(BAD, guards=[guard(3, 3, 100)]).verdict.reason == "no_curve"


def test_guard_states() -> None:
    question = {"alpha_this_look": 0.05}
    cases = {
        "passed": guard(20, 20, 2500),
        "harm within the limit still passes": guard(0, 20, 2500, limit=0.05),
        "too few rows": guard(0, 0, 30),
        "nine losses of twenty rows prove nothing": guard(0, 9, 20),
        "failed": guard(2, 30, 200),
    }
    expected = [GuardState.PASSED, GuardState.PASSED, GuardState.UNPROVEN, GuardState.UNPROVEN, GuardState.FAILED]
    found = [decide(QUESTION, GOOD, guards=[g], **question).guards[0] for g in cases.values()]
    assert [g.state for g in found] == expected
    assert [g.rows_needed is None for g in found] == [True, True, False, False, True]


def test_harm_is_corrected_for_the_number_of_guards_and_passing_is_not() -> None:
    # 18 losses, 9 gains of 200: z = -(9/202) / sqrt((29/202 - .00199) / 202) = -1.69, p = .045: shown alone, not among ten.
    alone = answer(GOOD, guards=[guard(9, 18, 200, limit=0.03)]).guards
    among = answer(GOOD, guards=[guard(9, 18, 200, limit=0.03, name=f"g{i}") for i in range(10)]).guards
    assert alone[0].state is GuardState.FAILED
    assert {g.state for g in among} == {GuardState.UNPROVEN}
    passing = answer(GOOD, guards=[guard(10, 10, 2500, name=f"g{i}") for i in range(10)]).guards
    assert {g.state for g in passing} == {GuardState.PASSED}


def test_far_beyond_the_limit_fails_without_correction() -> None:
    # 24 losses of 200, limit 3 points: estimate -.12 < -.06; among twenty noise guards Holm would still show it, so use a
    # harm of moderate size: 20 losses, 6 gains of 100 with p = .0038 > .05/20, upper bound -.052 < -.03.
    guards = [guard(6, 20, 100, limit=0.03, name="a"), *(guard(1, 1, 100, limit=0.03, name=f"g{i}") for i in range(19))]
    found = answer(GOOD, guards=guards).guards[0]
    assert (found.estimate, found.state) == (-0.14, GuardState.FAILED)
    assert found.high < -0.03


def test_between_the_limit_and_twice_the_limit_is_not_failed_without_correction() -> None:
    # 366 gains, 464 losses of 2,500: estimate -.0392, upper bound -.0203 < -.02, p = .00033 > .05 / 300.
    guards = [guard(366, 464, 2500, name="a"), *(guard(1, 1, 100, name=f"g{i}") for i in range(299))]
    found = answer(GOOD, guards=guards).guards[0]
    assert (found.high < -0.02, found.state) == (True, GuardState.UNPROVEN)


def test_a_guard_with_fewer_than_five_groups_is_unproven_at_the_widest_bounds() -> None:
    tuned, reference = np.ones(8), np.zeros(8)
    config = GuardConfig(name="north", on="region=north", limit=0.05)
    scores = GuardScores.of(config, tuned=tuned, reference=reference, groups=list("aabbccdd"), binary=True)
    found = answer(GOOD, guards=[scores]).guards[0]
    assert (found.low, found.high, found.state) == (-1.0, 1.0, GuardState.UNPROVEN)
    assert found.rows_needed == 248  # 6.182557 x .1 / .05^2 = 247.3


def test_a_guard_without_rows_is_an_error_not_no_harm() -> None:
    with pytest.raises(
        DataError, match="guard 'north': no hold-out row is watched by 'region=north'; expected at least one."
    ):
        GuardScores.of(
            GuardConfig(name="north", on="region=north", limit=0.05), tuned=[], reference=[], groups=[], binary=True
        )


def test_as_good_for_less_needs_both_no_loss_and_a_lower_cost() -> None:
    question = DecisionConfig(claim="as_good_for_less", limit=0.02)
    same = table(20, 20, 3000)
    cheap, open_cost, dear = (CostRatio(*ends, "few_shot") for ends in ((0.2, 0.4), (0.8, 1.1), (1.2, 1.5)))
    worth = answer(same, question, cost_ratio=cheap)
    assert (worth.verdict.outcome, worth.verdict.reason, worth.margin) == (Outcome.WORTH_IT, "as_good_for_less", -0.02)
    assert worth.verdict.sentence.endswith(
        "a loss of at most 2.0 points was accepted, and a request costs at most 0.40 times as much as few_shot."
    )
    unproven = answer(same, question, cost_ratio=open_cost).verdict
    assert (unproven.outcome, unproven.reason) == (Outcome.NEED_HOLDOUT_ROWS, "cost_unproven")
    assert unproven.sentence.endswith(
        "a request is not known to cost less than few_shot (0.80 to 1.10 times); a changed question with token prices "
        "or a larger volume may show it."
    )
    too_dear = answer(same, question, cost_ratio=dear).verdict
    assert (too_dear.outcome, too_dear.reason) == (Outcome.NOT_WORTH_IT, "not_cheaper")
    assert too_dear.sentence.endswith("but a request costs at least 1.20 times as much as few_shot.")
    worse = answer(table(10, 90, 1000), question, cost_ratio=cheap).verdict
    assert (worse.outcome, worse.reason) == (Outcome.NOT_WORTH_IT, "no_curve")
    small = answer(table(10, 10, 100), question, cost_ratio=cheap)
    assert small.verdict.outcome is Outcome.NEED_HOLDOUT_ROWS
    # Planned for no change at all: 6.182557 x (22/102) / .02^2 = 3333.8, above the 2,000 rows that can be collected.
    assert small.rows_needed.plan_gain is None
    with pytest.raises(DataError, match="claim as_good_for_less without a cost ratio; measure cost per request"):
        answer(same, question)


def test_cost_is_ignored_under_the_claim_better() -> None:
    assert answer(GOOD, cost_ratio=CostRatio(3, 4, "few_shot")).verdict.outcome is Outcome.WORTH_IT


def test_a_smaller_error_rate_for_this_look_widens_every_bound() -> None:
    wide, narrow = decide(QUESTION, GOOD, alpha_this_look=0.01).gain, answer(GOOD).gain
    assert wide.low < narrow.low
    assert wide.high > narrow.high
    assert (wide.side_alpha, narrow.side_alpha) == (0.01, 0.05)


def test_deciding_again_gives_the_same_decision_and_row_order_does_not_matter() -> None:
    tuned, rival = pair(60, 10, 500)
    order = np.random.default_rng(1).permutation(500)
    again = ScoreTable.of(
        tuned=tuned[order], rivals={"few_shot": rival[order]}, groups=[f"g{i}" for i in order], binary=True
    )
    assert answer(GOOD) == answer(GOOD) == answer(again)


def test_cross_checks_are_shown_beside_the_verdict() -> None:
    (found,) = cross_checks(table(13, 6, 200), alpha=0.05, seed=0)
    assert (found["gains"], found["losses"]) == (13, 6)
    assert found["mid_p"] == pytest.approx(0.1671 - 0.05175, abs=1e-4)  # exact p less C(19, 6) / 2^19
    assert found["bootstrap_low"] < 0.035 < found["bootstrap_high"]
    (grouped,) = cross_checks(table(13, 6, 200, groups=np.repeat(np.arange(50), 4)), alpha=0.05, seed=0)
    assert grouped["mid_p"] is None
    (equal,) = cross_checks(table(0, 0, 20), alpha=0.05, seed=0)
    assert (equal["mid_p"], equal["bootstrap_low"]) == (1.0, None)


@pytest.mark.parametrize(
    ("tuned", "rivals", "groups", "message"),
    [([1, 0, 1, 0, 1], {}, "abcde", "scores: no comparator; the gain is a difference. Add an arm"),
     ([1], {"p": [0]}, "a", "scores: 1 group in 1 rows; expected 5 or more. Hold out more rows"),
     ([], {"p": []}, "", "scores: 0 groups in 0 rows; expected 5 or more."),
     ([1, 0, 1, 0, 1, 1], {"p": [0] * 6}, "aaaaaa", "scores: 1 group in 6 rows; expected 5 or more."),
     ([1, 0, 1, 0], {"p": [0] * 5}, "abcde", "scores of 'tuned': 4 scores for 5 rows; expected one for each row. Score the missing rows."),
     ([1, 0, 1, 0, 1], {"p": [0] * 6}, "abcde", "scores of 'p': 6 scores for 5 rows"),
     ([1, 0, np.nan, 0, np.nan], {"p": [0] * 5}, "abcde", r"scores of 'tuned': row 2 is nan \(2 such rows\); expected numbers. A failed row is counted"),
     ([1, 0, 1, 0, 1], {"p": [0, 0, 0, 1.2, 0]}, "abcde", "scores of 'p': row 3 is 1.2; expected 0 to 1. Scale the metric."),
     ([1, 0, 1, 0, -0.1], {"p": [0] * 5}, "abcde", "scores of 'tuned': row 4 is -0.1; expected 0 to 1."),
     ([1, 0, 0.5, 0, 1], {"p": [0] * 5}, "abcde", "scores of 'tuned': row 2 is 0.5 under a yes-no metric; expected 0 or 1.")],
)  # fmt: skip
def test_bad_scores_are_named(tuned, rivals, groups, message) -> None:
    with pytest.raises(DataError, match=message):
        ScoreTable.of(tuned=tuned, rivals=rivals, groups=groups, binary=True)


def test_a_question_that_cannot_be_decided_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"decision.margin is not set; `resolved_question` turns \[decision.value\] into a margin"
    ):
        answer(GOOD, DecisionConfig(value=ValueConfig(worth=1, requests_per_month=1)))
    with pytest.raises(ConfigError, match="alpha_this_look is 0; expected 0 < alpha < 0.5"):
        decide(QUESTION, GOOD, alpha_this_look=0)
    with pytest.raises(DataError, match="forecast for 'other', which is no comparator; expected only"):
        answer(GOOD, forecast={"other": forecast(0.1)})
    point = Forecast(num_train=1000, low=0, high=1, level=0.95)
    with pytest.raises(DataError, match="forecast: band of level 0.95; expected 0.8"):
        answer(BAD, forecast={"few_shot": GainForecast(num_train=500, points=(point,))})
