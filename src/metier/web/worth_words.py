"""Money, what would turn the verdict, and the rows that are missing, as lines of tables.

>>> significant(1234.5), significant(0.04567)
('1,230', '0.0457')
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import floor, log10
from types import MappingProxyType

from metier.core.report import Assumption, Forecast, MissingRows, MoneyReport, Outcome, Report
from metier.web.numbers import DASH, money, percent, points
from metier.web.sentences import Line, quantity_words

__all__ = ["forecast_lines", "missing_lines", "money_lines", "past_lines", "significant", "size", "turn_lines"]

_OUTCOMES: Mapping[Outcome, str] = MappingProxyType(
    {
        Outcome.WORTH_IT: "worth it",
        Outcome.NEED_HOLDOUT_ROWS: "undecided",
        Outcome.NOT_WORTH_IT: "not worth it",
    }
)
_ASSUMED: Mapping[str, str] = MappingProxyType(
    {
        "margin": "gain asked for, in points",
        "limit": "loss accepted, in points",
        "worth": "worth of a right reply",
        "requests_per_month": "requests a month",
        "horizon_months": "months it is to pay in",
        "tuning_cost": "cost of the tuning",
        "prices": "prices, times those of the table",
    }
)
_PURPOSES: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("hold-out", "decide"): "hold-out rows, to decide",
        ("train", "double"): "training rows, twice as many",
        ("train", "reach_margin"): "training rows, for the upper end of the band to reach what was asked for",
        ("hold-out", "prove_guard"): "hold-out rows that the unproven guard watches",
    }
)


def significant(value: float, digits: int = 3) -> str:
    """A number to so many digits that count, thousands separated."""
    if not value:
        return "0"
    places = digits - 1 - floor(log10(abs(value)))
    shown = f"{round(value, places):,.{max(0, places)}f}"
    return shown.rstrip("0").rstrip(".") if places > 0 else shown


def size(num_weights: int | None) -> str:
    """The size of a model as people say it: 135M, 1.7B; a dash where there is none or it is not known."""
    if num_weights is None:
        return DASH
    for unit, one in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if num_weights >= one:
            return f"{significant(num_weights / one)}{unit}"
    return str(num_weights)


def money_lines(report: Report) -> list[Line]:
    """What tuning costs and brings; empty where the report holds no money."""
    found = report.money
    if found is None:
        return []

    def amount(value: float | None) -> str:
        return money(value, found.currency)

    lines = [Line("one tuning", amount(found.tuning)), Line("measuring around it", amount(found.evaluation))]
    if found.num_retrainings:
        again = found.num_retrainings * (found.tuning + found.evaluation)
        lines.append(Line(f"{found.num_retrainings} more tunings within the horizon, each measured", amount(again)))
    if found.upkeep_per_month:
        lines.append(Line("upkeep, a month", amount(found.upkeep_per_month)))
    lines.append(Line("1,000 requests, tuned", amount(1000 * found.request_after)))
    lines.append(Line(f"1,000 requests, {found.versus}", amount(1000 * found.request_before)))
    none = "no price was set in [price] label_minute before the look"
    row = none if found.label_row is None else amount(found.label_row)
    lines.append(Line("one more row, a person's time", row))
    if found.break_even:
        lines.append(Line(f"requests a month from which it pays, over {found.versus}", _break_even(found)))
        low, middle, high = (amount(found.net[name]) for name in ("low", "estimate", "high"))
        lines.append(Line(f"left at the declared volume, over {found.versus}", f"{middle} ({low} to {high})"))
    else:
        lines.append(Line("what a right reply is worth", "not declared: [decision.value] turns gain into money"))
    return lines


def _break_even(found: MoneyReport) -> str:
    """The volume from the lower end of the gain to the upper, where there is one."""
    ends = [found.break_even[name] for name in ("estimate", "high", "low")]
    middle, least, most = ("at no volume" if end is None else significant(end) for end in ends)
    if ends[1] is None:
        return middle
    if ends[0] is None:
        return f"at no volume; at the upper end of the gain {least}"
    if ends[2] is None:
        return f"{middle} ({least} to no volume at all)"
    return f"{middle} ({least} to {most})"


def turn_lines(report: Report) -> list[Line]:
    """For each assumption the outcome at other values of it."""
    if report.money is None:
        return []
    return [
        Line(f"{_assumed(each, report)}: {_shown(each.name, report)(each.value)}", _zones(each, report))
        for each in report.money.assumptions
    ]


def _assumed(assumption: Assumption, report: Report) -> str:
    """What is assumed, in words; under as_good_for_less a volume turns the cost alone, whatever a reply is worth."""
    words = _ASSUMED[assumption.name]
    by_cost = assumption.name == "requests_per_month" and report.verdict.claim == "as_good_for_less"
    return f"{words}, for the cost alone to be lower" if by_cost else words


def _shown(name: str, report: Report) -> Callable[[float], str]:
    """How values of an assumption are written."""
    if name in ("margin", "limit"):
        return lambda value: f"{100 * value:.1f}"
    if name in ("worth", "tuning_cost"):
        return lambda value: money(value, report.money.currency if report.money else "")
    return significant


def _zones(assumption: Assumption, report: Report) -> str:
    """The outcomes in words, smallest values first."""
    show, zones = _shown(assumption.name, report), assumption.zones
    if len(zones) == 1:
        return f"{_OUTCOMES[zones[0].outcome]} at every value"
    parts = []
    for zone in zones:
        word = _OUTCOMES[zone.outcome]
        if zone.low is None and zone.high is not None:
            parts.append(f"{word} below {show(zone.high)}")
        elif zone.high is None and zone.low is not None:
            parts.append(f"{word} from {show(zone.low)}")
        elif zone.low is not None and zone.high is not None:
            parts.append(f"{word} from {show(zone.low)} to {show(zone.high)}")
    return ", ".join(parts)


def missing_lines(report: Report) -> list[tuple[str, str, str, str]]:
    """Rows to collect: what for, how many more, what they cost, what they would bring."""
    if report.money is None:
        return []
    return [_missing(each, report) for each in report.money.missing]


def _missing(each: MissingRows, report: Report) -> tuple[str, str, str, str]:
    cost = "not priced" if each.cost is None or report.money is None else money(each.cost, report.money.currency)
    brings = "a decision" if each.gain is None else f"a gain of {_band(each.gain)} over {report.gain.versus}"
    rows = f"{each.rows:,}" if each.groups is None else f"{each.groups:,} groups ({each.rows:,} rows)"
    return _PURPOSES[each.part, each.purpose], rows, cost, brings


def _band(gain: Forecast) -> str:
    """The band of a gain in points with its level."""
    return f"{points(gain.low)} to {points(gain.high)} points ({100 * gain.level:g} %)"


def forecast_lines(report: Report) -> list[tuple[str, str, str]]:
    """Train rows, score and gain over the strongest rival that are forecast for them."""
    gains = {each.num_train: each for each in report.gain_forecast.get(report.gain.versus, ())}
    lines = []
    for each in report.forecast:
        found = gains.get(each.num_train)
        gain = f"{points(found.low)} to {points(found.high)} points" if found else ""
        lines.append((f"{each.num_train:,}", f"{percent(each.low)} to {percent(each.high)}", gain))
    return lines


def past_lines(report: Report) -> list[Line]:
    """How good earlier predictions of this project were, by quantity."""
    lines = []
    for name, past in report.past_predictions.items():
        told = f"{past['within']:.0f} of {past['runs']:.0f} within their range"
        if (ratio := past.get("median_ratio")) is not None:
            told += f"; what happened was {ratio:.2f} times the prediction (median)"
        if (difference := past.get("median_difference")) is not None:
            told += (
                f"; what came lay {points(abs(difference))} points {'above' if difference > 0 else 'below'} (median)"
            )
        lines.append(Line(quantity_words(name), told))
    return lines
