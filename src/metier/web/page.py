"""The report as one self-contained HTML page: no script, no network, readable in print and without colour.

    write_report(report, Path(".metier/report/index.html"))

The page computes nothing: every number stands in `report.json`, with its unit, rows and interval.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metier.core.folders import write_bytes
from metier.core.report import ArmReport, Outcome, Report

__all__ = ["render_report", "write_report"]

TEMPLATES = Path(__file__).parent / "templates"

_HEADLINES = {
    Outcome.WORTH_IT: ("Worth it", "\u2714"),
    Outcome.NOT_WORTH_IT: ("Not worth it", "\u2716"),
    Outcome.NEED_TRAIN_ROWS: ("Not yet: collect more training rows", "\u2026"),
    Outcome.NEED_HOLDOUT_ROWS: ("Undecided: collect more hold-out rows", "?"),
}
_MARKS = {"tuned": "\u25a0"}
_KINDS = {
    "prompt": "base model, prompted with the full guidelines",
    "few_shot": "base model, guidelines and fixed examples",
    "retrieval": "base model, guidelines and the nearest examples",
    "small": "small task model, no language model",
    "tuned": "base model with the tuned adapter",
}


def render_report(report: Report) -> str:
    """The page as HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Undefined names raise: a page must never show an empty hole where a number belongs.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(pct=percent, signed=signed_points, num=number, money=money)
    headline, glyph = _HEADLINES[report.verdict.outcome]
    return environment.get_template("report.html").render(
        report=report,
        headline=headline,
        glyph=glyph,
        next_step=next_step(report),
        arms=arm_lines(report),
        ticks=[0, 25, 50, 75, 100],
        tuned=next((arm for arm in report.arms if arm.kind == "tuned"), None),
        rival=next((arm for arm in report.arms if arm.name == report.gain.versus), None),
        dropped=dropped_lines(report),
        curve=dev_curve(report),
        kinds=_KINDS,
        css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
    )


def write_report(report: Report, path: Path) -> Path:
    """Write the page atomically; returns its path."""
    write_bytes(path, render_report(report).encode())
    return path


def percent(value: float | None, digits: int = 1) -> str:
    """A 0-1 score as a person reads it; a missing one as a dash."""
    return "\u2013" if value is None else f"{100 * value:.{digits}f} %"


def signed_points(value: float) -> str:
    """A difference of 0-1 scores in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "\u2212") + " points"


def number(value: float | None, digits: int = 1) -> str:
    """A number with thousands separated."""
    return "\u2013" if value is None else f"{value:,.{digits}f}"


def money(value: float | None, currency: str) -> str:
    """An amount with enough digits to be told from zero."""
    if value is None:
        return "\u2013"
    digits = 2 if value == 0 or abs(value) >= 0.1 else 4
    return f"{currency} {value:,.{digits}f}"


def arm_lines(report: Report) -> list[dict[str, Any]]:
    """The arms that ran, best first, with where their marks stand on a 0-100 axis; then those skipped."""
    ran = sorted((arm for arm in report.arms if arm.score is not None), key=lambda arm: -(arm.score or 0.0))
    lines = [_line(arm) for arm in ran]
    skipped = [arm for arm in report.arms if arm.score is None]
    return lines + [{"arm": arm, "mark": "", "left": None} for arm in skipped]


def _line(arm: ArmReport) -> dict[str, Any]:
    assert arm.score is not None
    low = arm.score if arm.low is None else arm.low
    high = arm.score if arm.high is None else arm.high
    return {
        "arm": arm,
        "mark": _MARKS.get(arm.kind, "\u25cf"),
        "left": f"{100 * arm.score:.2f}",
        "low": f"{100 * max(low, 0.0):.2f}",
        "high": f"{100 * min(high, 1.0):.2f}",
    }


_REASONS = {
    "exact_duplicate": "the same text as another row",
    "near_duplicate": "nearly the same text as another row",
    "near_holdout": "nearly the same text as a hold-out or dev row",
    "expired": "past its expiry date",
    "stale_policy": "follows a retired policy",
    "retired_policy": "follows a retired policy",
    "stale": "out of date: expired, or under a retired policy",
    "too_few_words": "reply too short",
    "empty_reply": "reply empty",
    "too_many_words": "reply too long",
    "gold_fails_grader": "its own reply breaks the conventions",
    "private_data": "holds private data",
    "no_consent": "no consent",
    "too_long": "longer than the model may read",
}


def dropped_lines(report: Report) -> list[dict[str, Any]]:
    """Reasons with counts, most frequent first."""
    items = sorted(report.data.quarantined.items(), key=lambda item: -item[1])
    lines = [
        {"reason": reason, "text": _REASONS.get(reason, reason.replace("_", " ")), "n": n} for reason, n in items if n
    ]
    if report.data.failed:
        lines.append({"reason": "failed", "text": "not readable as a row", "n": report.data.failed})
    return lines


def next_step(report: Report) -> str:
    """What to do next, in one sentence."""
    outcome, reason = report.verdict.outcome, report.verdict.reason
    rows = report.rows_needed.get("holdout")
    if outcome is Outcome.WORTH_IT:
        return "Serve the adapter: it is the release candidate; keep collecting rows, so that drift can be seen."
    if outcome is Outcome.NEED_HOLDOUT_ROWS:
        if isinstance(rows, int):
            return f"Collect hold-out rows until there are about {rows:,}, then run again: the question is asked anew."
        return "No number of hold-out rows you could collect decides this; choose a smaller margin or drop the project."
    if outcome is Outcome.NEED_TRAIN_ROWS:
        return "Collect more training rows: the forecast says they can bring the gain above your margin."
    if reason.startswith("guard:"):
        return (
            f"Do not serve this adapter: {reason.partition(':')[2]} got worse. Mend the rows behind it, then run again."
        )
    return f"Use {report.gain.versus} instead, or change what is asked: tuning does not gain enough over it here."


def dev_curve(report: Report) -> dict[str, Any] | None:
    """Points of the dev loss as an SVG polyline in a 300 x 80 box, or None with fewer than two."""
    points = [(p["step"], p["dev_loss_nats"]) for p in report.dev_curve if "dev_loss_nats" in p]
    if len(points) < 2:
        return None
    steps, losses = [p[0] for p in points], [p[1] for p in points]
    span = max(losses) - min(losses) or 1.0
    width = max(steps) - min(steps) or 1
    pairs = [(300 * (s - min(steps)) / width, 75 - 70 * (v - min(losses)) / span) for s, v in points]
    return {
        "line": " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs),
        "first": losses[0],
        "best": min(losses),
        "last_step": max(steps),
    }
