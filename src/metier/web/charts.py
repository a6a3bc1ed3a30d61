"""The charts of the report as coordinates for its template; each comes with the numbers of its table.

>>> frontier(report)["lines"][0]["beaten_by"]  # doctest: +SKIP
''
"""

from __future__ import annotations

import math
from typing import Any

from metier.core.report import ArmReport, Report

__all__ = ["dev_curve", "frontier", "learning_curve"]


def dev_curve(report: Report) -> dict[str, Any] | None:
    """Points of the dev loss as an SVG polyline in a 300 x 80 box, or None with fewer than two."""
    points = [(p["step"], p["dev_loss_nats"]) for p in report.dev_curve if "dev_loss_nats" in p]
    if len(points) < 2:
        return None
    steps, losses = [p[0] for p in points], [p[1] for p in points]
    span = max(losses) - min(losses) or 1.0
    width = max(steps) - min(steps) or 1
    pairs = [(300 * (s - min(steps)) / width, 75 - 70 * (v - min(losses)) / span) for s, v in points]
    is_pairs = report.model.get("config", {}).get("objective") == "dpo"
    return {
        "name": "Loss of pairs set aside" if is_pairs else "Dev loss",
        "unit": "nats a pair" if is_pairs else "nats a token",
        "num_steps": report.model.get("num_steps", 0),
        "line": " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs),
        "first": losses[0],
        "best": min(losses[1:]),  # step 0 is the model it started from, which is never kept
        "last_step": max(steps),
    }


LEFT, RIGHT, TOP, BOTTOM = 44.0, 322.0, 8.0, 122.0
"""Where the drawing lies in a box of 340 x 150; its axes are named beside and below it."""


def _across(share: float) -> str:
    """A place from left to right, 0-1."""
    return f"{LEFT + (RIGHT - LEFT) * share:.1f}"


def _down(share: float) -> str:
    """A place from the bottom to the top, 0-1."""
    return f"{BOTTOM - (BOTTOM - TOP) * share:.1f}"


def learning_curve(report: Report) -> dict[str, Any] | None:
    """Dev scores over train rows with the forecast band as SVG in a 340 x 150 box, and a table; None without points."""
    if not report.curve:
        return None
    rows = sorted({point.num_train for point in report.curve})
    scores = [point.score for point in report.curve]
    lows, highs = [each.low for each in report.forecast], [each.high for each in report.forecast]
    left, right = math.log(rows[0]), math.log(max([rows[-1], *(each.num_train for each in report.forecast)]))
    low, high = min([*scores, *lows]), max([*scores, *highs])

    def at(num_train: int, score: float) -> tuple[str, str]:
        share = (math.log(num_train) - left) / ((right - left) or 1.0)
        return _across(share), _down((score - low) / ((high - low) or 1.0))

    last = [point.score for point in report.curve if point.num_train == rows[-1]]
    top = [(rows[-1], max(last)), *((each.num_train, each.high) for each in report.forecast)]
    bottom = [(rows[-1], min(last)), *((each.num_train, each.low) for each in report.forecast)]
    return {
        "points": [at(point.num_train, point.score) for point in report.curve],
        "band": " ".join(f"{x},{y}" for x, y in (at(*each) for each in [*top, *bottom[::-1]])),
        "ends": {"low": low, "high": high, "first": rows[0], "last": round(math.exp(right))},
        "table": [
            {"rows": num, "scores": [point.score for point in report.curve if point.num_train == num]} for num in rows
        ],
        "level": f"{100 * report.forecast[0].level:g}" if report.forecast else "",
        "spread": report.retrain_spread,
    }


def frontier(report: Report) -> dict[str, Any] | None:
    """Score over cost of every arm that ran, in a 340 x 150 box, and which are beaten in both; None below two arms.

    Costs are on a logarithmic axis; arms that cost nothing measurable stand at its left end.
    """
    ran = [arm for arm in report.arms if arm.score is not None and arm.cost_per_1k_requests is not None]
    if len(ran) < 2:
        return None
    costs = [arm.cost_per_1k_requests or 0.0 for arm in ran]
    least = min([cost for cost in costs if cost > 0], default=1.0)
    places = [math.log(max(cost, least / 2)) for cost in costs]
    span = (max(places) - min(places)) or 1.0
    lines: list[dict[str, Any]] = []
    for arm, place in zip(ran, places, strict=True):
        lines.append(
            {
                "arm": arm,
                "x": _across(0.04 + 0.92 * (place - min(places)) / span),
                "y": _down(arm.score or 0.0),
                "top": _down(arm.high if arm.high is not None else arm.score or 0.0),
                "bottom": _down(arm.low if arm.low is not None else arm.score or 0.0),
                "beaten_by": _beaten_by(arm, ran),
            }
        )
    lines.sort(key=lambda line: line["arm"].cost_per_1k_requests or 0.0)
    for number, line in enumerate(lines, start=1):
        line["number"] = number
    return {"lines": lines, "grid": [(_down(share), f"{100 * share:g} %") for share in (0.0, 0.5, 1.0)]}


def _beaten_by(arm: ArmReport, others: list[ArmReport]) -> str:
    """The best arm that scores no less for no more, and is better in one of them; empty on the frontier."""
    mine = (arm.score or 0.0, -(arm.cost_per_1k_requests or 0.0))
    better = [
        other
        for other in others
        if (theirs := (other.score or 0.0, -(other.cost_per_1k_requests or 0.0))) != mine
        and theirs[0] >= mine[0]
        and theirs[1] >= mine[1]
    ]
    return max(better, key=lambda other: other.score or 0.0).name if better else ""
