"""The report as one self-contained HTML page: no script, no network, readable in print and without colour.

    write_report(report, Path(".metier/report/index.html"))

The page computes nothing: every number stands in `report.json`, with its unit, rows and interval.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metier.core.folders import write_bytes
from metier.core.report import ArmReport, Outcome, Report
from metier.web import sentences, worth_words
from metier.web.charts import dev_curve, frontier, learning_curve
from metier.web.sentences import DROP_REASONS, SKIP_REASONS
from metier.web.templating import environment, styles, without_control

__all__ = ["render_report", "write_report"]

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
    "retrieval": "base model, guidelines and nearest examples",
    "small": "small task model, no language model",
    "encoder": "small sentence model, tuned on these rows to give labels",
    "template": "standard replies found in the rows, one chosen and filled, no language model",
    "endpoint": "model behind an endpoint, prompted with the full guidelines",
    "tuned": "base model, tuned on these rows",
    "tuned_retrieval": "the tuned model and nearest examples; not part of the verdict",
}
_SHOWN_REASONS = 3


def render_report(report: Report) -> str:
    """The page as HTML text."""
    headline, glyph = _HEADLINES[report.verdict.outcome]
    templates = environment()
    templates.filters.update(
        facts=sentences.fact_lines,
        setting=sentences.setting_words,
        method=sentences.method_words,
        quantity=sentences.quantity_words,
        size=worth_words.size,
    )
    page = templates.get_template("report.html").render(
        report=report,
        headline=headline,
        glyph=glyph,
        next_step=sentences.next_step(report),
        next_is_estimated=report.verdict.outcome in (Outcome.NEED_TRAIN_ROWS, Outcome.NEED_HOLDOUT_ROWS),
        levels=sentences.gain_levels(report),
        currency=report.prices[0].currency,
        price_kind="dated" if report.prices[0].date else "assumed",
        priced_by="tokens" if any(price.item.startswith("million_tokens") for price in report.prices) else "time",
        arms=arm_lines(report),
        arm_level=next((f"{100 * arm.level:g}" for arm in report.arms if arm.score is not None), ""),
        ticks=[0, 25, 50, 75, 100],
        tuned=next((arm for arm in report.arms if arm.kind == "tuned"), None),
        rival=next((arm for arm in report.arms if arm.name == report.gain.versus), None),
        dropped=dropped_lines(report),
        num_shown=_SHOWN_REASONS,
        looks_sentence=sentences.looks_sentence(report.looks),
        split_aside=sentences.split_aside(report),
        base_label=sentences.base_label(report),
        rows_needed=sentences.rows_needed_lines(report),
        cross_checks=sentences.cross_check_lines(report),
        curve=dev_curve(report),
        learning=learning_curve(report),
        frontier=frontier(report),
        money_lines=worth_words.money_lines(report),
        turns=worth_words.turn_lines(report),
        missing=worth_words.missing_lines(report),
        forecasts=worth_words.forecast_lines(report),
        past=worth_words.past_lines(report),
        kinds=_KINDS,
        skip_reasons=SKIP_REASONS,
        css=styles("report.css"),
    )  # fmt: skip
    return without_control(page)


def write_report(report: Report, path: Path) -> Path:
    """Write the page atomically; returns its path."""
    write_bytes(path, render_report(report).encode())
    return path


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


def dropped_lines(report: Report) -> list[dict[str, Any]]:
    """Reasons with counts, most frequent first."""
    items = sorted(report.data.quarantined.items(), key=lambda item: -item[1])
    lines = [
        {"reason": reason, "text": DROP_REASONS.get(reason, reason.replace("_", " ")), "n": n}
        for reason, n in items
        if n
    ]
    if report.data.failed:
        lines.append({"reason": "failed", "text": "not readable as a row", "n": report.data.failed})
    return lines
