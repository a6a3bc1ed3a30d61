"""What `metier assess` answers for each of the three ways to ask, worked by hand for a dev set and a price list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from metier.core.arm_config import ArmConfig
from metier.core.errors import ConfigError, DataError, GateClosed
from metier.core.precision import Holdout
from metier.core.report import CurvePoint, Forecast
from metier.core.rows import Message, Meta, Role, Row, Target, TargetKind, make_row
from metier.core.settings import DecisionConfig, PriceConfig, ValueConfig
from metier.core.trials import Reply
from metier.core.votes import Estimate
from metier.road.assess import Assessed, _assessed, _has_room
from metier.road.curve import Pilot, pilot_minutes
from metier.road.holdout_rows import group_correlation
from metier.road.plan import Choice, gave_up
from metier.road.trials import DevReplies, FittedTrial

PARTS = {"tune": 600.0, "arms": 900.0, "hold-out": 300.0, "curve": 5000.0}
TUNE_MINUTES = 10.0  # at 6 an hour: 1.00
PRICE = PriceConfig(machine_hour=6.0, token_in=1.0)
VALUE = ValueConfig(worth=0.01, requests_per_month=100, horizon_months=10)  # 1.00 / 1,000 requests = .001 each


def trial(name: str, *, right: int, tokens_in: int, of: int = 20) -> FittedTrial:
    """An arm with so many right replies on dev, and so many prompt tokens a request."""
    replies = tuple(Reply(text="", tokens_in=tokens_in, tokens_out=0, seconds=0.1) for _ in range(of))
    dev = DevReplies(
        row_ids=tuple(f"r{i}" for i in range(of)),
        replies=replies,
        scores=(1.0,) * right + (0.0,) * (of - right),
        reasons=((),) * of,
    )
    arm: Any = object()  # Any: what is asked of it is its replies alone
    return FittedTrial(name=name, kind=name, arm=arm, skip_reason="", dev=dev, carries="")


def assessed(
    decision: DecisionConfig,
    *trials: FittedTrial,
    num_holdout: int = 500,
    price: PriceConfig = PRICE,
    holdout: Holdout | None = None,
    **more: Any,
) -> Assessed:
    ledger = SimpleNamespace(records=lambda _: [])  # no votes
    session: Any = SimpleNamespace(
        config=SimpleNamespace(decision=decision, price=price), price_of=lambda _: price, ledger=ledger
    )  # Any: read alone
    predictions = {"tune_minutes": (TUNE_MINUTES, 7.0, 13.0), "run_minutes": (30.0, 20.0, 40.0)}
    plan: Any = SimpleNamespace(predictions=predictions, predicted_s=PARTS)
    return _assessed(session, plan, list(trials), holdout or Holdout(sizes=(1,) * num_holdout, binary=True), **more)


@pytest.mark.parametrize(
    ("depth", "told"), [(1, "Only the top layer of 3 layers is tuned."), (2, "Only the top 2 of 3 layers are tuned.")]
)
def test_what_the_budget_took_is_told_in_the_right_number(depth: int, told: str) -> None:
    assert gave_up(Choice(1.0, depth, 10), Choice(1.0, 3, 10), 3) == (told,)


HALF = trial("prompt", right=10, tokens_in=1000)  # score .5, .001 a request

# Rows: (z(1 - .05 / 3) + z(.8))^2 = (2.12805 + .84162)^2 = 8.81894 times (disagreement - gain^2) / (gain - bound)^2.


def test_a_margin_is_planned_for_at_the_gain_that_is_set() -> None:
    found = assessed(DecisionConfig(margin=0.1, plan_gain=0.3), HALF)
    assert (found.margin, found.plan_gain) == (0.1, 0.3)
    assert found.rows_needed == 97  # 8.81894 x (.5 - .09) / .04 = 90.4, and the interval's added rows
    assert found.problems == []


def grouped_rows(groups: str) -> list[Row]:
    """A row for every letter, the letter being its customer; "-" stands alone."""
    return [
        make_row(
            b"before",
            messages=(Message(role=Role.USER, content=f"row {number}"),),
            meta=Meta(source="s", source_row=number, groups={} if name == "-" else {"customer": name}),
            target=Target(kind=TargetKind.LABEL, label="yes"),
        )
        for number, name in enumerate(groups)
    ]


class Echo:
    """An arm that gives the label a row's score stands for, and a grader that reads it back."""

    def __init__(self, scores: tuple[float, ...]) -> None:
        self.scores, self.asked = scores, 0

    def reply(self, rows: Sequence[Row]) -> list[Reply]:
        self.asked = len(rows)
        return [Reply(text=str(score), tokens_in=0, tokens_out=0, seconds=0.1) for score in self.scores]

    def score_all(self, rows: Sequence[Row], texts: Sequence[str]) -> list[Any]:  # Any: read alone
        return [SimpleNamespace(score=float(text)) for text in texts]


@pytest.mark.parametrize("kind", ["small", "prompt"])
@pytest.mark.parametrize(
    ("groups", "scores", "sizes", "expected"),
    [
        ("aabb", (1, 1, 0, 0), (3, 1), 1.0),
        ("aabb", (1, 0, 0, 1), (3, 1), 0.0),  # rows of a group differ more than others: negative is 0
        ("aabb", (1, 1, 0, 0), (1, 1, 1), None),  # no two hold-out rows share a group: it plays no part
        ("abc-", (1, 1, 0, 0), (3, 1), None),  # no two dev rows share one
        ("aaaa", (1, 1, 0, 0), (3, 1), None),
    ],
)
def test_how_alike_rows_of_a_group_are_is_measured_on_all_dev_rows_where_an_arm_answers_them_in_seconds(
    kind: str, groups: str, scores: tuple[float, ...], sizes: tuple[int, ...], expected: float | None
) -> None:
    rows, echo = grouped_rows(groups), Echo(scores)
    found = trial(kind, right=2, tokens_in=0, of=4)
    assert found.dev is not None
    single = replace(found.dev, row_ids=tuple(row.row_id for row in rows), scores=scores)
    found = replace(found, arm=cast(Any, echo), dev=single)
    session: Any = SimpleNamespace(group_column="customer", key=b"key", grader=echo)
    parts: Any = SimpleNamespace(dev=rows)
    correlation = group_correlation(session, parts, [found], Holdout(sizes=sizes, binary=True))
    assert correlation == (None if expected is None else pytest.approx(expected))
    skipped = replace(found, arm=None, dev=None)
    assert group_correlation(session, parts, [skipped], Holdout(sizes=sizes, binary=True)) is None, "no arm ran"
    assert echo.asked == (4 if kind == "small" and max(sizes) > 1 else 0), "a language model is not asked again"


def test_the_hold_out_is_planned_for_with_its_groups() -> None:
    """Simulated with ten groups of ten independent rows, 91 rows give power .70: a t bound of few groups is wider."""
    question = DecisionConfig(margin=0.1, plan_gain=0.3)
    few = assessed(question, HALF, holdout=Holdout(sizes=(10,) * 10, binary=True), correlation=0.0)
    assert few.rows_needed is not None and 105 <= few.rows_needed <= 125
    (problem,) = few.problems
    assert problem.startswith(
        f"the hold-out has 100 rows, about {few.rows_needed} ({-(-few.rows_needed // 10)} groups)"
    )
    alike = assessed(question, HALF, holdout=Holdout(sizes=(10,) * 50, binary=True), correlation=0.2)
    assert alike.design_effect == pytest.approx(2.8)  # 1 + 9 x .2
    assert alike.rows_needed is not None and 2.5 * 91 < alike.rows_needed < 3.2 * 91
    assert "(power .8; rows share groups: 2.80 times as many)" in alike.as_text()
    unknown = assessed(question, HALF, holdout=Holdout(sizes=(10,) * 50, binary=True))
    assert "(power .8; rows share groups, and how alike they are was not measured)" in unknown.as_text()


def test_a_value_is_planned_for_at_twice_the_gain_that_pays_for_the_predicted_tuning() -> None:
    found = assessed(DecisionConfig(value=VALUE), HALF)
    assert found.margin == pytest.approx(0.1)  # .001 / .01
    assert found.plan_gain == pytest.approx(0.2)
    assert found.rows_needed == 415  # 8.81894 x (.5 - .04) / .01 = 405.7
    assert found.problems == []
    assert found.as_text().endswith("go")
    (problem,) = assessed(DecisionConfig(value=VALUE), HALF, num_holdout=400).problems
    assert problem == "the hold-out has 400 rows, about 416 are needed to show a gain of 0.2."


def test_what_a_request_to_the_tuned_model_saves_counts_under_a_value() -> None:
    dear = trial("few_shot", right=10, tokens_in=1500)  # the best arm, .0015 a request; the base answers for .001
    found = assessed(DecisionConfig(value=VALUE), dear, trial("prompt", right=2, tokens_in=1000))
    assert found.margin == pytest.approx(0.05)  # (.001 + .001 - .0015) / .01
    small = assessed(DecisionConfig(value=VALUE), trial("small", right=10, tokens_in=0))
    assert small.margin == pytest.approx(0.1), "no request to the base was measured: no saving and no loss is taken"


def test_a_gain_too_small_to_be_shown_says_what_to_set() -> None:
    cheap = ValueConfig(worth=1.0, requests_per_month=100, horizon_months=10)
    (problem,) = assessed(DecisionConfig(value=cheap), HALF).problems
    assert problem == (
        "no number of hold-out rows that you could collect shows a gain of 0.002 to reach 0.001; set "
        "decision.plan_gain to the gain you expect, further above it, or raise decision.max_holdout_rows."
    )
    assert assessed(DecisionConfig(value=cheap, plan_gain=0.2), HALF).problems == []


def test_tuning_that_cannot_pay_is_refused_before_it_is_paid_for() -> None:
    rare = ValueConfig(worth=0.01, requests_per_month=1, horizon_months=10)  # .1 a request: a gain of 10
    with pytest.raises(ConfigError, match=r"the gain that pays for tuning is 10.00, and a score cannot rise by more"):
        assessed(DecisionConfig(value=rare), HALF)


def test_as_good_for_less_is_planned_for_at_no_change_against_the_accepted_loss() -> None:
    found = assessed(DecisionConfig(claim="as_good_for_less", limit=0.1), HALF)
    assert (found.margin, found.plan_gain) == (-0.1, 0.0)
    assert found.rows_needed == 442  # 8.81894 x .5 / .01 = 440.9
    assert found.problems == []
    full = assessed(DecisionConfig(claim="as_good_for_less", limit=0.1), trial("small", right=20, tokens_in=0))
    assert (full.headroom, full.problems) == (0.0, []), "no headroom is wanted where no gain is claimed"


def test_the_volume_of_as_good_for_less_makes_no_margin() -> None:
    rare = ValueConfig(worth=0.01, requests_per_month=1, horizon_months=10)
    assert assessed(DecisionConfig(claim="as_good_for_less", value=rare, limit=0.1), HALF).margin == -0.1


def test_rows_on_which_no_untuned_arm_can_run_are_refused() -> None:
    skipped = FittedTrial(name="small", kind="small", arm=None, skip_reason="no_labels", dev=None, carries="")
    with pytest.raises(
        DataError, match="none of 1 untuned arm could run on these rows, so there is nothing to compare"
    ):
        assessed(DecisionConfig(margin=0.1), skipped)


def test_a_pilot_whose_forecast_stays_below_the_margin_says_not_yet_and_one_that_may_reach_it_does_not() -> None:
    found = assessed(DecisionConfig(margin=0.1, plan_gain=0.3), HALF)
    points = tuple(
        CurvePoint(num_train=num, chain_seed=1, train_seed=2, score=score)
        for num, score in ((16, 0.2), (32, 0.25), (64, 0.3))
    )

    def pilot(high: float) -> Pilot:
        return Pilot(points=points, forecast=Forecast(num_train=256, low=0.3, high=high, level=0.8), expected=0.3)

    # .5 on 20 rows: Wilson's 80 % interval reaches down to .3623.
    assert found.best_low == pytest.approx(0.3623, abs=1e-4)
    (problem,) = replace(found, pilot=pilot(0.45)).problems
    assert problem == (
        "tuned on 64 rows it scores 0.300; on all 256 it is forecast at 0.300 to 0.450 (80 %), while prompt scores 0.362 "
        "or more: not even the upper end lies 0.1 above it. Collect rows, or change the base."
    )
    open_still = replace(found, pilot=pilot(0.47))
    assert open_still.problems == []
    assert "tuned: 0.200 on 16 rows, 0.250 on 32 rows, 0.300 on 64 rows; on all 256 forecast 0.300 to 0.470 (80 %)" in (
        open_still.as_text()
    )
    assert open_still.as_json()["pilot"]["forecast"]["high"] == 0.47


def test_the_label_ceiling_takes_the_place_of_a_score_of_one() -> None:
    ceiling = Estimate(value=0.8, low=0.7, high=0.9, n=50)
    found = assessed(DecisionConfig(margin=0.1, plan_gain=0.3), HALF, ceiling=ceiling)
    assert found.headroom == pytest.approx(0.3)
    assert found.answer == "go", "the ends of the two intervals leave room"
    assert "label ceiling: 0.800 (0.700 to 0.900, 50 rows)" in found.as_text()
    too_much = assessed(DecisionConfig(margin=0.1, plan_gain=0.6), HALF, ceiling=ceiling)
    assert too_much.answer == "no_go"
    assert "a gain of 0.6 does not fit below 0.900, the most the labels may allow." in too_much.as_text()
    with pytest.raises(GateClosed, match="does not fit"):
        too_much.require()


def test_missing_rows_have_a_price_where_a_person_s_time_has_one() -> None:
    priced = replace(PRICE, label_minute=0.5, row_minutes=1.5)
    found = assessed(DecisionConfig(value=VALUE), HALF, num_holdout=400, price=priced)
    assert found.answer == "missing"
    assert found.problems[0].endswith("show a gain of 0.2. 16 more cost USD 12.00 of a person's time.")
    assert found.as_json()["answer"] == "missing"


def test_money_before_the_spend_by_hand() -> None:
    found = assessed(DecisionConfig(value=VALUE), HALF)
    assert (found.money.tune_cost, found.money.run_cost) == (1.0, 3.0)
    # A gain of .2 is worth .002 a request; 1.00 over 10 months is .1 a month: 50 requests.
    assert found.money.break_even == pytest.approx(50)
    assert found.money.left == pytest.approx(100 * 10 * 0.002 - 1.0)
    assert "at the planned gain it pays from 50 requests a month; left at yours: USD 1.00" in found.as_text()
    assert "pays" not in assessed(DecisionConfig(margin=0.1), HALF).as_text()
    # Once more within 10 months: the tuning, 1.00, and 20 minutes of measuring, 2.00; the curve is left out.
    monthly = replace(VALUE, upkeep_per_month=0.01, retrain_months=5.0)
    assert assessed(DecisionConfig(value=monthly), HALF).margin == pytest.approx((1 + 3 + 0.1) / 10 / 100 / 0.01)


@pytest.mark.parametrize(("budget", "room"), [(60.0, True), (20.0, False)])
def test_a_pilot_that_the_budget_has_no_room_for_is_not_begun_and_said(budget: float, room: bool) -> None:
    """7/16 of 10 minutes of tuning, and three dev scores of 50 of 150 rows, a third of 300 s of one arm each."""
    arms = (ArmConfig(kind="prompt"), ArmConfig(kind="small"), ArmConfig(kind="tuned"))
    config: Any = SimpleNamespace(arm=arms, budget=SimpleNamespace(minutes=budget))
    plan: Any = SimpleNamespace(
        predictions={"tune_minutes": (TUNE_MINUTES, 7.0, 13.0)}, predicted_s={"hold-out": 600.0}
    )
    assert pilot_minutes(config, plan, num_dev=50, num_holdout=150) == pytest.approx(7 / 16 * 10 + 3 * 100 / 60)
    said: list[str] = []
    progress = SimpleNamespace(say=said.append)
    session: Any = SimpleNamespace(config=config, progress=progress, stages={"arms": SimpleNamespace(seconds=900.0)})
    parts: Any = SimpleNamespace(dev=[None] * 50, num_holdout=150)
    assert _has_room(session, parts, plan) is room
    assert said == [] or said[0].startswith(
        "no pilot: tuning on up to a quarter of the rows would take 9.4 minutes, and"
    )
    assert bool(said) is not room
