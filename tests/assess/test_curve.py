"""The learning curve: bands that cover, forms that explain, and what cannot be asked of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metier.assess import CurveFit, GainForecast, ScoreTable, fit_curve, flat_p_value, forecasts, retrain_spread
from metier.assess.curve import FORMS, _shapes
from metier.core.errors import DataError
from metier.core.report import CurvePoint
from metier.core.stats import bonett_price

ANCHORS = (125, 250, 500, 1000)


def points(scores: dict[int, float] | list[tuple[int, float]], *, chain: int = 0) -> list[CurvePoint]:
    pairs = scores.items() if isinstance(scores, dict) else scores
    return [CurvePoint(num_train=n, chain_seed=chain, train_seed=chain, score=score) for n, score in pairs]


def power(num_train: int) -> float:
    """The curve of Hestness' form with a floor of .08."""
    return 1 - (1.5 * num_train**-0.4 + 0.08)


def noisy(num_train: int, sd: float, rng: np.random.Generator) -> float:
    return float(np.clip(power(num_train) + rng.normal(0, sd), 0, 1))


def test_a_power_law_without_noise_is_found_and_its_future_lies_in_a_narrow_band() -> None:
    fit = fit_curve(points({n: power(n) for n in ANCHORS}), num_dev=2000)
    assert fit.form_weights["power"] > 0.5 > 0.01 > fit.form_weights["constant"]
    for n in (1000, 2000, 4000):
        band = fit.forecast(n)
        assert band.low < power(n) < band.high and band.high - band.low < 0.04
        assert fit.mean(n) == pytest.approx(power(n), abs=0.01)


def test_scores_that_do_not_move_are_forecast_to_stay() -> None:
    rng = np.random.default_rng(2)
    fit = fit_curve(points([(n, 0.6 + rng.normal(0, 0.01)) for n in ANCHORS for _ in range(4)]), num_dev=500)
    assert fit.form_weights["constant"] > FORMS["constant"] + 0.2
    band = fit.forecast(4000)
    assert band.low > 0.57 and band.high < 0.65 and band.low < 0.6 < band.high


def test_a_curve_that_only_begins_to_fall_is_explained_by_the_delayed_form() -> None:
    """At a tenth of its scale it is flat: a power law through the same points would have all of it behind it."""
    truth = {n: 0.3 + 0.6 * (1 - ((n + 800) / 800) ** -1.0) for n in (50, 100, 200, 400, 800)}
    rng = np.random.default_rng(4)
    fit = fit_curve(points([(n, s + rng.normal(0, 0.008)) for n, s in truth.items() for _ in range(3)]), num_dev=2000)
    assert fit.form_weights["rectified"] > 0.9
    actual = 0.3 + 0.6 * (1 - ((3200 + 800) / 800) ** -1.0)
    assert fit.forecast(3200).low < actual < fit.forecast(3200).high


def test_more_runs_and_more_dev_rows_narrow_a_band_and_new_rows_widen_it() -> None:
    rng = np.random.default_rng(3)

    def width(num_chains: int, num_dev: int, *, num_rows: int | None = None) -> float:
        sd = (0.2 * 0.8 / num_dev) ** 0.5
        seen = [point for c in range(num_chains) for point in points({n: noisy(n, sd, rng) for n in ANCHORS}, chain=c)]
        band = fit_curve(seen, num_dev=num_dev).forecast(2000, num_rows=num_rows)
        return band.high - band.low

    def typical(*args: int, num_rows: int | None = None) -> float:
        return float(np.median([width(*args, num_rows=num_rows) for _ in range(15)]))

    assert typical(1, 300) > 1.2 * typical(6, 300)
    assert typical(1, 300) > 1.5 * typical(1, 3000)
    assert typical(1, 300, num_rows=300) > 1.1 * typical(1, 300)


def test_a_band_covers_as_often_as_it_says_where_curves_are_drawn_as_it_takes_them_to_be() -> None:
    shapes, rng, covered, below = _shapes(), np.random.default_rng(8), 0, 0
    repetitions, num_dev, target = 300, 400, 4000
    form_share = np.array(list(FORMS.values()))[shapes.form_S] / np.bincount(shapes.form_S)[shapes.form_S]
    done = 0
    while done < repetitions:
        s = int(rng.choice(len(form_share), p=form_share / form_share.sum()))
        error = float(rng.uniform(0.15, 0.6))
        run_sd = shapes.run_S[s] * (error * (1 - error) / num_dev) ** 0.5

        def score(num_train: int, s: int = s, error: float = error, run_sd: float = run_sd) -> float:
            times = num_train / ANCHORS[-1]
            sd = run_sd * times ** -shapes.widening_S[s]
            return float(1 - error * shapes.relative(times)[s] + rng.normal(0, sd))

        seen = {n: score(n) for n in ANCHORS}
        if not all(0 <= value <= 1 for value in seen.values()):
            continue  # not a score
        done += 1
        band, actual = fit_curve(points(seen), num_dev=num_dev).forecast(target), score(target)
        covered += band.low <= actual <= band.high
        below += actual < band.low
    mcse = (0.8 * 0.2 / repetitions) ** 0.5
    assert abs(covered / repetitions - 0.8) < 3 * mcse + 0.03  # .03: the binomial error is that of a noisy score
    assert abs(below / repetitions - 0.1) < 3 * (0.1 * 0.9 / repetitions) ** 0.5


def test_a_band_holds_the_next_run_and_not_only_the_mean_of_runs() -> None:
    """Six runs at each number leave the mean nearly known; where one more run ends is as uncertain as before."""
    rng, repetitions, covered = np.random.default_rng(12), 120, 0
    for _ in range(repetitions):
        seen = [point for c in range(6) for point in points({n: 0.7 + rng.normal(0, 0.018) for n in ANCHORS}, chain=c)]
        band = fit_curve(seen, num_dev=500).forecast(ANCHORS[-1])
        covered += band.low <= 0.7 + rng.normal(0, 0.018) <= band.high
    assert covered / repetitions > 0.8 - 3 * (0.8 * 0.2 / repetitions) ** 0.5


def test_the_same_points_give_the_same_band_in_any_order() -> None:
    seen = points({n: power(n) for n in ANCHORS})
    first, second = (fit_curve(each, num_dev=300).forecast(3000) for each in (seen, seen[::-1]))
    assert first.low == pytest.approx(second.low, abs=1e-12) and first.high == pytest.approx(second.high, abs=1e-12)
    assert fit_curve(seen, num_dev=300).forecast(3000) == first


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_perfect_and_hopeless_scores_give_bands_within_0_and_1(level: float) -> None:
    for score in (0.0, 1.0):
        band = fit_curve(points([(n, score) for n in ANCHORS]), num_dev=50).forecast(4000, level=level, num_rows=50)
        assert 0 <= band.low <= score <= band.high <= 1


def test_a_forecast_of_the_gain_starts_from_what_was_measured_and_rises_with_the_curve() -> None:
    gain = bonett_price(gains=40, losses=30, num_rows=300)
    fit = fit_curve(points([(n, power(n)) for n in ANCHORS for _ in range(2)]), num_dev=1000)
    bands = {n: fit.forecast_gain(gain, n) for n in (1000, 2000, 4000)}
    middles = [(band.low + band.high) / 2 for band in bands.values()]
    assert middles[0] == pytest.approx(gain.estimate, abs=0.003)
    assert middles[2] - middles[0] == pytest.approx(power(4000) - power(1000), abs=0.012)
    assert bands[1000].high - bands[1000].low > 2 * 1.28 * gain.stderr
    forecast = GainForecast(num_train=1000, points=tuple(bands.values()))
    assert forecast.rows_to_reach(bands[2000].high - 0.001) == 2000
    assert forecast.rows_to_reach(0.9) is None


def test_what_a_rival_would_gain_by_more_rows_is_taken_off() -> None:
    gain = bonett_price(gains=60, losses=40, num_rows=400)
    tuned = fit_curve(points({n: power(n) for n in ANCHORS}), num_dev=2000)
    same = fit_curve(points({n: power(n) for n in ANCHORS}), num_dev=2000)
    steeper = fit_curve(points({n: power(n / 5) for n in ANCHORS}), num_dev=2000)
    ahead = fit_curve(points({4 * n: power(4 * n) for n in ANCHORS}), num_dev=2000)  # learned from all rows already
    flat = fit_curve(points([(n, 0.6) for n in ANCHORS]), num_dev=2000)

    def middle(rival: CurveFit | None) -> float:
        band = tuned.forecast_gain(gain, 4000, rival=rival)
        return (band.low + band.high) / 2

    rise = power(4000) - power(1000)
    assert middle(None) == pytest.approx(gain.estimate + rise, abs=0.01)
    assert middle(flat) == pytest.approx(middle(None), abs=0.015)  # four flat points do not rule out all rise
    assert middle(same) == pytest.approx(gain.estimate, abs=0.01)
    assert middle(steeper) < gain.estimate
    assert middle(ahead) == middle(None), "rows at hand that only the tuning left out serve the rival already"
    alone, beside = (tuned.forecast_gain(gain, 4000, rival=rival) for rival in (None, same))
    assert beside.high - beside.low > alone.high - alone.low, "two curves are less certain than one"


def test_what_cannot_be_forecast_is_refused() -> None:
    with pytest.raises(DataError, match=r"2 different numbers of train rows on 300 dev rows; expected at least 3"):
        fit_curve(points({100: 0.5, 200: 0.6}), num_dev=300)
    with pytest.raises(DataError, match=r"score 1\.2 at 125 rows; expected 0 to 1"):
        fit_curve(points({125: 1.2, 250: 0.5, 500: 0.6}), num_dev=300)
    with pytest.raises(DataError, match=r"score nan at 125 rows"):
        fit_curve(points({125: math.nan, 250: 0.5, 500: 0.6}), num_dev=300)
    fit = fit_curve(points({n: power(n) for n in ANCHORS}), num_dev=300)
    for ask in (
        lambda: fit.forecast(4001),
        lambda: fit.forecast_gain(bonett_price(gains=1, losses=1, num_rows=9), 4001),
    ):
        with pytest.raises(
            DataError, match=r"asked for 4,001 train rows, measured up to 1,000; expected at most 4 times"
        ):
            ask()
    with pytest.raises(DataError, match="expected 3 different numbers of train rows"):
        flat_p_value(points({100: 0.5, 200: 0.6}))


@pytest.mark.parametrize("num_chains", [1, 4])
def test_a_flat_curve_is_called_rising_no_more_often_than_the_level(num_chains: int) -> None:
    rng, repetitions = np.random.default_rng(5), 600

    def p_value(rise: float) -> float:
        return flat_p_value(
            [
                point
                for c in range(num_chains)
                for point in points(
                    {n: 0.6 + rise * math.log2(n / 125) + rng.normal(0, 0.02) for n in ANCHORS}, chain=c
                )
            ]
        )

    false = sum(p_value(0.0) < 0.05 for _ in range(repetitions)) / repetitions
    assert false <= 0.05 + 3 * (0.05 * 0.95 / repetitions) ** 0.5
    assert sum(p_value(0.03) < 0.05 for _ in range(100)) > (60 if num_chains == 4 else 25)


def test_points_without_any_noise_have_a_p_value_too() -> None:
    assert flat_p_value(points(dict.fromkeys(ANCHORS, 0.5))) == 1.0
    assert flat_p_value([p for c in range(3) for p in points({100: 0.1, 200: 0.2, 400: 0.3}, chain=c)]) < 1e-6


def test_the_spread_between_runs_is_pooled_over_the_curve() -> None:
    seen = points([(100, 0.5), (100, 0.6), (400, 0.7), (400, 0.7), (400, 0.8), (800, 0.9)])
    found = retrain_spread(seen)
    assert found is not None
    # Squares .005 and .00667 on 1 + 2 degrees of freedom; chi-square 9.348 and .2158 on 3.
    assert found.sd == pytest.approx((0.0116667 / 3) ** 0.5, rel=1e-4)
    assert found.low == pytest.approx((0.0116667 / 9.3484) ** 0.5, rel=1e-3)
    assert found.high == pytest.approx((0.0116667 / 0.2158) ** 0.5, rel=1e-3)
    assert (found.num_seeds, found.df) == (3, 3)
    assert retrain_spread(points({100: 0.5, 200: 0.6})) is None


def test_a_curve_that_is_not_shown_to_rise_asks_for_no_rows() -> None:
    rng = np.random.default_rng(11)
    tuned = [1] * 70 + [0] * 30
    scores = ScoreTable.of(tuned=tuned, rivals={"prompt": [1] * 68 + [0] * 32}, groups=range(100), binary=True)
    flat = fit_curve(points([(n, 0.6 + rng.normal(0, 0.02)) for n in ANCHORS]), num_dev=100)
    rising = fit_curve(points({n: power(n) for n in ANCHORS}), num_dev=100)
    assert flat.flat_p > 0.1 > rising.flat_p
    assert forecasts(flat, scores)["prompt"].points == ()
    assert forecasts(flat, scores)["prompt"].rows_to_reach(0.03) is None
    found = forecasts(rising, scores)["prompt"]
    assert [point.num_train for point in found.points] == [1500, 2000, 3000, 4000]
    assert found.rows_to_reach(found.points[1].high) == 2000
