"""The learning curve: what more training rows would bring, as a band, from scores at fewer of them.

    >>> fit = fit_curve(points, num_dev=200)  # doctest: +SKIP
    >>> fit.forecast(4000)  # doctest: +SKIP
    Forecast(num_train=4000, low=0.81, high=0.87, level=0.8)

Three forms of the error e at n rows are averaged by how well they explain the points, none is chosen:

    constant    e = e0
    power       e = e0 ((1 - s) + s (n / n0)^-b)
    rectified   e = e0 ((1 - s) + s ((n + d) / (n0 + d))^-b)

with n0 the most rows measured. The rectified form is flat before it falls, as fine-tuning often is. Shapes are drawn
from their prior on a fixed grid and weighted by the marginal likelihood of the points (e0 is integrated out), so that
the width of a band comes from everything that four anchors leave open: the form, its exponent and its floor, the
spread between runs, and, for other rows than those scored, the sampling of rows. The same points give the same band.
A score that jumps within a doubling or two is foreseen by none of them; what was tried for it is in
`docs/forecasts.md`.

Source: Hestness et al. 2017, arXiv:1712.00409, for the power law; Lin et al. 2024, arXiv:2402.02314, for the rectified
one; Jain et al. 2023, arXiv:2303.01598, for how far a single power law from few points is off.

Shapes: P points, S shapes drawn from the prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from metier.assess.scores import FORECAST_LEVEL, GainForecast, ScoreTable, paired_gain
from metier.core.errors import DataError
from metier.core.hashing import value_hash
from metier.core.report import CurvePoint, Forecast
from metier.core.stats import GainEstimate

__all__ = [
    "FORMS",
    "MAX_TIMES",
    "CurveFit",
    "fit_curve",
    "flat_p_value",
    "forecasts",
    "most_over",
    "prior_hash",
]

Floats = npt.NDArray[np.float64]

FORMS = {"constant": 0.2, "power": 0.4, "rectified": 0.4}
"""The forms and what each is worth before a point is seen."""
CONSTANT, _, RECTIFIED = range(len(FORMS))
MAX_TIMES = 4.0
"""A forecast reaches at most so many times the rows that were measured."""
MIN_ANCHORS, MIN_CHAINS = 3, 3
FLAT = 0.1
"""A curve whose `flat_p_value` is above is not shown to rise."""
NUM_SHAPES, MIN_EFFECTIVE = 4096, 60
"""Shapes drawn for each form, and how many must carry the weight."""
EXPONENT = (0.5, 0.7)
"""Median and log-sd of b. Published exponents lie between .1 and 1 (Hestness et al. 2017)."""
DELAY = (0.05, 3.0)
"""Range of d / n0, uniform in its logarithm."""
RUN_SD = (0.9, 0.6)
"""Median and log-sd of the spread between runs, as a share of the binomial error of the scored rows: two runs err
on other rows in part only."""
WIDENING = (0.0, 0.7)
"""The spread between runs grows as (n / n0)^-w where there are fewer rows; range of w."""


def prior_hash() -> str:
    """Hash of forms and priors: two versions with the same one make the same bands of the same points."""
    numbers = [EXPONENT, DELAY, RUN_SD, WIDENING, NUM_SHAPES, MIN_EFFECTIVE, FLAT]
    return value_hash({"forms": FORMS, "numbers": numbers})


@dataclass(frozen=True, slots=True)
class _Shapes:
    """The prior, drawn once: one row of numbers a shape, all forms one after the other."""

    form_S: npt.NDArray[np.int64]
    share_S: Floats
    """Of the error at n0, what enough rows would remove: uniform."""
    exponent_S: Floats
    delay_S: Floats
    """In units of n0."""
    run_S: Floats
    """Spread between runs over the binomial error."""
    widening_S: Floats

    def relative(self, times: float) -> Floats:
        """Error at `times` the reference rows, over that at the reference, (S,)."""
        fallen_S = ((times + self.delay_S) / (1 + self.delay_S)) ** -self.exponent_S
        return 1 - self.share_S + self.share_S * fallen_S


@lru_cache(maxsize=1)
def _shapes() -> _Shapes:
    """The prior on a fixed low-discrepancy grid: no random number, the same everywhere."""
    from scipy import stats

    unit_SU = stats.qmc.Sobol(d=5, scramble=False).random(NUM_SHAPES) + 0.5 / NUM_SHAPES
    unit_SU = np.tile(unit_SU, (len(FORMS), 1))
    form_S = np.repeat(np.arange(len(FORMS)), NUM_SHAPES)
    share_S, exponent_S, delay_S, run_S, widening_S = unit_SU.T
    low, high = np.log(DELAY)
    return _Shapes(
        form_S=form_S,
        share_S=np.where(form_S == CONSTANT, 0.0, share_S),
        exponent_S=EXPONENT[0] * np.exp(EXPONENT[1] * stats.norm.ppf(exponent_S)),
        delay_S=np.where(form_S == RECTIFIED, np.exp(low + (high - low) * delay_S), 0.0),
        run_S=RUN_SD[0] * np.exp(RUN_SD[1] * stats.norm.ppf(run_S)),
        widening_S=WIDENING[0] + (WIDENING[1] - WIDENING[0]) * widening_S,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveFit:
    """The forms, averaged, after the points were seen."""

    num_train: int
    """The most rows measured, n0."""
    num_dev: int
    weight_S: Floats
    """Posterior weight of every shape; they sum to 1."""
    error_S: Floats
    """Posterior mean of the error at n0, given the shape."""
    error_var_S: Floats
    run_var_S: Floats
    """Variance between runs at n0."""
    flat_p: float
    """`flat_p_value` of the points."""

    @property
    def form_weights(self) -> dict[str, float]:
        """How much each form explains, 0-1."""
        form_S = _shapes().form_S
        return {name: float(self.weight_S[form_S == i].sum()) for i, name in enumerate(FORMS)}

    def mean(self, num_train: int) -> float:
        """Expected score at a number of train rows, 0-1."""
        return float(np.clip(1 - self.weight_S @ (self.error_S * _shapes().relative(num_train / self.num_train)), 0, 1))

    def forecast(self, num_train: int, *, level: float = 0.8, num_rows: int | None = None) -> Forecast:
        """Where the score of one run on `num_train` rows will lie with probability `level`.

        On the rows the points were scored on; with `num_rows`, on so many new ones.

        Raises:
            DataError: more than four times the rows that were measured.
        """
        low, high = (self.quantile(num_train, (1 + sign * level) / 2, num_rows=num_rows) for sign in (-1, 1))
        return Forecast(num_train=num_train, low=low, high=high, level=level)

    def quantile(self, num_train: int, probability: float, *, num_rows: int | None = None) -> float:
        """The score that one run on `num_train` rows stays below with this probability."""
        self._require_near(num_train)
        found = _mixture_quantile(self.weight_S, *self._predicted(num_train, num_rows), probability)
        return min(1.0, max(0.0, found))

    def forecast_gain(
        self,
        gain: GainEstimate,
        num_train: int,
        *,
        level: float = 0.8,
        rival: CurveFit | None = None,
        most: float = 1.0,
    ) -> Forecast:
        """Where the gain of a model tuned on `num_train` rows will lie, from the gain of the one tuned on n0.

        What the curve says the tuned arm gains is added to what was measured, and what the rival gains by so many
        rows is taken off: nothing where it has learned from as many already, as where a budget let the tuning take
        a part of the rows at hand. Without a curve the rival stays as it is. No band ends above `most`.
        """
        mean_S, var_S = self._rise(num_train / self.num_train)
        if rival is not None and num_train > rival.num_train:
            rise_S, spread_S = rival._rise(num_train / rival.num_train)
            rise = float(rival.weight_S @ rise_S)
            mean_S = mean_S - rise
            var_S = var_S + float(rival.weight_S @ (spread_S + (rise_S - rise) ** 2))
        self._require_near(num_train)
        mean_S, sd_S = mean_S + gain.estimate, np.sqrt(var_S + gain.stderr**2)
        low, high = (_mixture_quantile(self.weight_S, mean_S, sd_S, (1 + sign * level) / 2) for sign in (-1, 1))
        return Forecast(num_train=num_train, low=max(-1.0, min(low, most)), high=min(most, high), level=level)

    def _rise(self, times: float) -> tuple[Floats, Floats]:
        """Mean and variance, under every shape, of the score at `times` the rows less that of the run at n0.

        Both models, the one at hand and the one to come, lie off the curve by what runs differ.
        """
        shapes = _shapes()
        relative_S = shapes.relative(times)
        runs_S = self.run_var_S * (1 + times ** (-2 * shapes.widening_S))
        return self.error_S * (1 - relative_S), self.error_var_S * (1 - relative_S) ** 2 + runs_S

    def _require_near(self, num_train: int) -> None:
        if num_train > MAX_TIMES * self.num_train:
            raise DataError(
                f"learning curve: asked for {num_train:,} train rows, measured up to {self.num_train:,}; expected at "
                f"most {MAX_TIMES:g} times as many. Collect some of them and measure again."
            )

    def _predicted(self, num_train: int, num_rows: int | None) -> tuple[Floats, Floats]:
        """Mean and sd of the score under every shape."""
        shapes, times = _shapes(), num_train / self.num_train
        relative_S = shapes.relative(times)
        error_S = self.error_S * relative_S
        var_S = self.error_var_S * relative_S**2 + self.run_var_S * times ** (-2 * shapes.widening_S)
        if num_rows is not None:
            inside_S = np.clip(error_S, 0.01, 0.99)
            var_S = var_S + inside_S * (1 - inside_S) * (1 / num_rows + 1 / self.num_dev)
        return 1 - error_S, np.sqrt(var_S)


def forecasts(
    fit: CurveFit,
    scores: ScoreTable,
    *,
    times: Sequence[float] = (1.5, 2.0, 3.0, 4.0),
    rivals: Mapping[str, CurveFit] | None = None,
) -> dict[str, GainForecast]:
    """What more train rows would make of the gain over every rival; one without a curve is taken to stay as it is.

    A curve that is not shown to rise (`flat_p_value` above `FLAT`) forecasts no more rows: noise alone would reach any
    margin at the upper end of a wide band. No band ends above what is left over the rival: nobody scores more than 1.
    """
    times = times if fit.flat_p < FLAT else ()
    num_groups, found = len(np.unique(scores.group_N)), {}
    for name, rival_N in scores.rivals.items():
        gain = paired_gain(scores.tuned_N, rival_N, scores.group_N, binary=scores.binary, num_groups=num_groups)
        rival = (rivals or {}).get(name)
        most = most_over(rival_N)
        points = tuple(fit.forecast_gain(gain, round(each * fit.num_train), rival=rival, most=most) for each in times)
        found[name] = GainForecast(num_train=fit.num_train, points=points)
    return found


def most_over(rival_N: Floats) -> float:
    """The most that can be gained over a rival: 1 less what it may really score at least (Wilson, 80 %)."""
    from metier.core.stats import wilson

    return 1 - wilson(round(float(rival_N.sum())), len(rival_N), FORECAST_LEVEL).low


def _mixture_quantile(weight_S: Floats, mean_S: Floats, sd_S: Floats, probability: float) -> float:
    """Quantile of a mixture of normals, by bisection: it has no closed form."""
    from scipy.special import ndtr

    seen = weight_S > 1e-9 * weight_S.max()
    weight_S, mean_S, sd_S = weight_S[seen], mean_S[seen], sd_S[seen]
    low, high = float((mean_S - 9 * sd_S).min()), float((mean_S + 9 * sd_S).max())
    for _ in range(50):
        middle = (low + high) / 2
        below = float(weight_S @ ndtr((middle - mean_S) / sd_S)) / float(weight_S.sum())
        low, high = (middle, high) if below < probability else (low, middle)
    return (low + high) / 2


def fit_curve(points: Sequence[CurvePoint], *, num_dev: int) -> CurveFit:
    """Average the forms over scores at several numbers of train rows, all on the same `num_dev` dev rows.

    Raises:
        DataError: fewer than three different numbers of train rows, or a score outside 0-1.
    """
    anchors = sorted({point.num_train for point in points})
    if len(anchors) < MIN_ANCHORS or anchors[0] < 1 or num_dev < 1:
        raise DataError(
            f"learning curve: {len(anchors)} different numbers of train rows on {num_dev} dev rows; expected at least "
            f"{MIN_ANCHORS} and 1. Measure at smaller parts of the rows as well."
        )
    for point in points:
        if not 0 <= point.score <= 1:
            raise DataError(f"learning curve: score {point.score} at {point.num_train:,} rows; expected 0 to 1.")
    shapes, reference = _shapes(), anchors[-1]
    error_P = 1 - np.array([point.score for point in points])
    times_P = np.array([point.num_train / reference for point in points])
    at_top = float(error_P[times_P == 1].mean())
    binomial_sd = np.sqrt(max(at_top * (1 - at_top), 1 / (num_dev + 2)) / num_dev)
    run_var_S = (shapes.run_S * binomial_sd) ** 2
    relative_SP = np.stack([shapes.relative(times) for times in times_P], axis=1)
    var_SP = run_var_S[:, None] * times_P ** (-2 * shapes.widening_S[:, None])
    # e0 has a flat prior and is integrated out: y = e0 g + noise.
    precision_S = (relative_SP**2 / var_SP).sum(1)
    error_S = (relative_SP * error_P / var_SP).sum(1) / precision_S
    misfit_S = ((error_P - error_S[:, None] * relative_SP) ** 2 / var_SP).sum(1)
    log_S = -0.5 * (misfit_S + np.log(var_SP).sum(1) + np.log(precision_S))
    log_S = log_S + np.log(np.array(list(FORMS.values())))[shapes.form_S]
    return CurveFit(
        num_train=reference,
        num_dev=num_dev,
        weight_S=_weights(log_S),
        error_S=error_S,
        error_var_S=1 / precision_S,
        run_var_S=run_var_S,
        flat_p=flat_p_value(points),
    )


def _weights(log_S: Floats) -> Floats:
    """Posterior weights, spread over `MIN_EFFECTIVE` shapes at least.

    Points with hardly any noise would rest on the one shape that happens to lie nearest: their likelihood is flattened
    until more of them count.
    """

    def flattened(power: float) -> Floats:
        weight_S = np.exp(power * (log_S - log_S.max()))
        return np.asarray(weight_S / weight_S.sum())

    low, high = 0.0, 1.0
    if 1 / (flattened(1.0) ** 2).sum() < MIN_EFFECTIVE:
        for _ in range(30):
            middle = (low + high) / 2
            enough = 1 / (flattened(middle) ** 2).sum() >= MIN_EFFECTIVE
            low, high = (middle, high) if enough else (low, middle)
    else:
        low = 1.0
    return flattened(low)


def flat_p_value(points: Sequence[CurvePoint]) -> float:
    """One-sided p-value against "more rows change nothing": small means that the score rises with them.

    With three chains or more, a t test of their slopes over log n: points of one chain share rows and are no
    independent evidence. With fewer, the slope of the regression over all points.

    Raises:
        DataError: fewer than three different numbers of train rows.
    """
    from scipy.special import stdtr

    if len({point.num_train for point in points}) < MIN_ANCHORS:
        raise DataError(
            f"learning curve: expected {MIN_ANCHORS} different numbers of train rows or more to see a slope."
        )
    chains = {
        (point.chain_seed, point.train_seed): [p for p in points if _chain(p) == _chain(point)] for point in points
    }
    slopes = [_slope(chain) for chain in chains.values() if len({point.num_train for point in chain}) > 1]
    if len(slopes) >= MIN_CHAINS:
        mean, error = float(np.mean(slopes)), float(np.std(slopes, ddof=1)) / len(slopes) ** 0.5
        df = len(slopes) - 1
    else:
        times_P, score_P = np.log([point.num_train for point in points]), np.array([point.score for point in points])
        centred_P = times_P - times_P.mean()
        mean, df = _slope(points), len(points) - 2
        residual_P = score_P - score_P.mean() - mean * centred_P
        error = float(np.sqrt((residual_P**2).sum() / df / (centred_P**2).sum()))
    if np.ptp([point.score for point in points]) == 0:
        return 1.0
    if error == 0:
        return 0.0 if mean > 0 else 1.0
    return float(stdtr(df, -mean / error))


def _chain(point: CurvePoint) -> tuple[int, int]:
    return point.chain_seed, point.train_seed


def _slope(points: Sequence[CurvePoint]) -> float:
    """Least-squares slope of the score over log n."""
    times_P, score_P = np.log([point.num_train for point in points]), np.array([point.score for point in points])
    centred_P = times_P - times_P.mean()
    return float((centred_P * score_P).sum() / (centred_P**2).sum())
