"""Codes and values of a report as words: reasons, next step, rows needed, looks, settings tried, plain facts.

>>> setting_words("model=nearest, analyzer=word, slots=True, masked=False")
'nearest reply, compared by words, values filled in'
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from metier.core.arm_config import TUNED_KINDS
from metier.core.report import Comparison, LooksReport, Outcome, Report
from metier.web.numbers import confidence, points

__all__ = [
    "DROP_REASONS", "NONE_DECIDES", "SKIP_REASONS", "SPLIT_REASONS", "Line", "base_label", "cross_check_lines",
    "fact_lines", "gain_levels", "looks_sentence", "method_words", "next_step", "quantity_words", "rows_needed_lines",
    "setting_words", "split_aside",
]  # fmt: skip

NONE_DECIDES = "no number of rows decides"
DROP_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "consent_denied": "without consent",
        "consent_unknown": "whose consent is not known",
        "licence_not_allowed": "under a licence that is not allowed",
        "expired": "past its expiry date",
        "retired_policy": "under a retired policy",
        "empty_reply": "with an empty reply",
        "too_few_words": "with a reply too short",
        "too_many_words": "with a reply too long",
        "exact_duplicate": "the same as another row",
        "near_duplicate": "nearly the same as another row",
        "private_data": "with private data",
        "gold_fails_grader": "with a reply that breaks your own conventions",
        "nothing_to_check": "in which one of your conventions finds nothing to check",
        "near_holdout": "nearly the same as a hold-out row",
        "near_dev": "nearly the same as a dev row",
        "shared_group": "of a group that is in the hold-out or dev",
        "not_older": "newer than the oldest hold-out row",
        "holdout_unused": "in the given test set, not asked for",
    }
)
"""Every reason for which a row is set aside; a test holds the keys to those the code gives."""
SPLIT_REASONS = ("near_holdout", "near_dev", "shared_group", "not_older", "holdout_unused")
"""Those of the split."""
SKIP_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "no_train_rows": "no train rows",
        "one_class": "all train rows have one label",
        "no_guidelines": "no guidelines, and no conventions to write them from",
        "prompt_too_long": "not even the shortest example fits before every prompt",
        "rows_use_tools": "rows use tools, which are not passed on to an endpoint",
        "not_labels": "not every target is a label",
        "labels_only": "every target is a label, so there are no replies to make templates of",
        "no_templates": "fewer than two forms of reply occur three times or more",
    }
)
_QUANTITIES = MappingProxyType(
    {
        "run_minutes": "run, minutes",
        "tune_minutes": "tuning, minutes",
        "peak_memory_gib": "peak memory, GiB",
        "tuned_score": "score of the tuned model, forecast from fewer rows",
    }
)
_METHODS = MappingProxyType({"bonett_price": "Bonett-Price", "cr2_t": "CR2 t over groups"})
_SETTINGS = MappingProxyType(
    {
        "model=nearest": "nearest reply",
        "model=classifier": "classifier",
        "analyzer=word": "compared by words",
        "analyzer=char_wb": "compared by characters",
        "slots=True": "values filled in",
        "slots=False": "values left as they are",
        "masked=True": "values replaced by their kind",
        "masked=False": "",
    }
)


class Line(NamedTuple):
    """One row of a table of facts."""

    label: str
    text: str


def next_step(report: Report) -> str:
    """What to do next, in one sentence."""
    outcome, reason = report.verdict.outcome, report.verdict.reason
    rival, (code, _, name) = report.gain.versus, reason.partition(":")
    if outcome is Outcome.WORTH_IT:
        return "Serve the tuned model (it is the release candidate); keep collecting rows, to see drift."
    if outcome is Outcome.NEED_HOLDOUT_ROWS:
        return _collect_holdout(report, code, name)
    if outcome is Outcome.NEED_TRAIN_ROWS:
        rows, at_hand = report.rows_needed.get("train"), report.rows_needed.get("train_at_hand", 0)
        if isinstance(rows, int) and rows <= at_hand:
            return (
                f"Give the tuning more minutes: {at_hand:,} training rows are at hand, and with {rows:,} of them the "
                "forecast says the gain may reach your margin."
            )
        wanted = f" until there are about {rows:,}" if isinstance(rows, int) else ""
        return f"Collect training rows{wanted}: the forecast says they can bring the gain above your margin."
    if code == "guard":
        return f"Do not serve this model: {name} got worse. Mend the rows behind it, then run again."
    if code == "not_cheaper":
        cheaper = report.provenance["before_look"]["guard_reference"]  # whose cost the tuned model's was held against
        return f'Use "{cheaper}" instead: the tuned model was to cost less, and does not.'
    if report.gave_up:
        return (
            f'Use "{rival}" for now{_how_good(report)}. The budget made this tuning smaller than wanted '
            f"({_given_up(report)}): give it more minutes before you drop it."
        )
    return f'Use "{rival}" instead{_how_good(report)}: on these rows tuning does not gain enough over it.'


def _how_good(report: Report) -> str:
    """How often the arm to be used is right itself: better than the tuned one is not yet good."""
    score = next((arm.score for arm in report.arms if arm.name == report.gain.versus), None)
    return "" if score is None else f" (it scores {100 * score:.0f} % itself)"


def _given_up(report: Report) -> str:
    """What the plan gave up, as a clause."""
    return "; ".join(sentence[0].lower() + sentence[1:].rstrip(".") for sentence in report.gave_up)


def _collect_holdout(report: Report, code: str, name: str) -> str:
    """The next step of an undecided verdict: how many rows, and which look they would be judged in."""
    if code == "cost_unproven":
        return (
            "Ask a changed question with token prices in [price], or with a larger volume in [decision.value] where "
            "you expect one: that the model is as good is shown, the lower cost is not."
        )
    if code == "guard_unproven":
        rows = next((guard.rows_needed for guard in report.guards if guard.name == name), None)
        if rows is None:
            return f"No number of hold-out rows proves that {name} is unharmed; give that guard a larger limit."
    else:
        rows = _count(report.rows_needed.get("holdout"))
        if rows is None:
            return "No number of hold-out rows you could collect decides this; choose a smaller margin or drop it."
    looks = report.looks
    again = f"look {looks.used + 1} of {looks.budget} at this question"
    if looks.used >= looks.budget:
        again = "its looks are used up, so with a changed question"
    return f"Collect hold-out rows until there are about {rows:,}, then run again ({again})."


def _count(value: Any) -> int | None:  # Any: a JSON value
    """A number of rows; anything else, as null or "none", says that no number would do."""
    return value if isinstance(value, int) else None


def rows_needed_lines(report: Report) -> list[Line]:
    """Hold-out rows that a decision would need in all, by what the true gain is; then against each rival alone."""
    needed, rival = report.rows_needed, report.rows_needed.get("versus", report.gain.versus)
    lines = [Line("to aim for next", _aim(report))]
    truths = {
        "if_plan_gain": f"if the true gain over {rival} is the planned {points(report.question.plan_gain)} points",
        "if_estimate": "if it is the measured one",
        "if_low": "if it is the lower end of its interval",
        "if_high": "if it is the upper end",
    }
    for key, label in truths.items():
        if key in needed:
            lines.append(Line(label, _rows(_count(needed[key]))))
    by_name = {comparison.versus: comparison for comparison in report.comparisons}
    for name, value in needed.get("by_rival", {}).items():
        lines.append(Line(f"against {name} alone", _against(_count(value), by_name[name], report.question.margin)))
    if (train := _count(needed.get("train"))) is not None:
        lines.append(Line("train rows in all, by the forecast", _rows(train)))
    return lines


def _rows(count: int | None) -> str:
    return NONE_DECIDES if count is None else f"{count:,} rows"


def _aim(report: Report) -> str:
    """Rows to collect next, in groups where groups count."""
    needed, at_hand = report.rows_needed, report.gain.num_rows
    rows, groups = _count(needed.get("holdout")), _count(needed.get("groups"))
    if rows is not None:
        return f"{groups:,} groups (about {rows:,} rows)" if groups not in (None, rows) else f"{rows:,} rows"
    enough = [_count(needed.get(key)) for key in ("if_plan_gain", "if_estimate")]
    if all(count is not None and count <= at_hand for count in enough):
        return f"the {at_hand:,} at hand are enough"
    return NONE_DECIDES


def _against(count: int | None, comparison: Comparison, margin: float) -> str:
    """Rows needed against one rival; none are where its bounds already decide."""
    if count is None and comparison.low >= margin:
        return "shown already"
    if count is None and comparison.high < margin:
        return "shown to fall short already"
    return _rows(count)


def gain_levels(report: Report) -> tuple[str, str]:
    """How sure the lower and the upper bound of a gain are; each is one-sided, at an error rate of its own."""
    return confidence(report.gain.side_alpha), confidence(report.gain.high_alpha)


def method_words(method: str) -> str:
    """The interval's name as its authors spell it."""
    return _METHODS.get(method, method.replace("_", " "))


def quantity_words(quantity: str) -> str:
    """A quantity of the plan, its unit after a comma."""
    return _QUANTITIES.get(quantity, quantity.replace("_", " "))


def looks_sentence(looks: LooksReport) -> str:
    """How often these hold-out rows were opened, and whether choices could know of it."""
    others, opened = looks.other_questions, looks.on_these_rows
    if looks.used == 1 and opened <= 1 and not others:
        return "Opened once, after every choice was made."
    sentence = f"Look {looks.used} of {looks.budget} at this question; rows of this hold-out were opened {opened} times"
    if others:
        sentence += f", for {others} other {'question' if others == 1 else 'questions'} too"
    return f"{sentence}: choices made since the first look could know its result."


def split_aside(report: Report) -> str:
    """How many rows the split set aside and, where the report counts them by reason, why."""
    num = report.split.purged
    why = [f"{n:,} {DROP_REASONS[reason]}" for reason in SPLIT_REASONS if (n := report.data.quarantined.get(reason))]
    rows = f"{num:,} {'row' if num == 1 else 'rows'} set aside by the split"
    return f"{rows}: {', '.join(why)}" if why else rows


def cross_check_lines(report: Report) -> list[dict[str, str]]:
    """Mid-p McNemar and bootstrap-t of each comparison as words; what was not computed says why."""
    return [_cross_check(check) for check in report.cross_checks]


def _cross_check(check: Mapping[str, Any]) -> dict[str, str]:  # Any: JSON values
    low, high, mid_p = check["bootstrap_low"], check["bootstrap_high"], check["mid_p"]
    bounds = "none: every row differs by the same"
    if low is not None and high is not None:
        bounds = f"{points(low)} to {points(high)} points, {confidence(check['side_alpha'])} sure of either end"
    return {
        "versus": str(check["versus"]),
        "gains": f"{check['gains']:,}",
        "losses": f"{check['losses']:,}",
        "mid_p": "does not apply: rows share groups, or scores between 0 and 1" if mid_p is None else f"{mid_p:.2g}",
        "bounds": bounds,
    }


def setting_words(name: str) -> str:
    """A candidate tried on dev, its settings in words; names of a person's own files stay as they are."""
    words = [_setting(piece) for piece in name.split(", ")]
    return ", ".join(word for word in words if word)


def _setting(piece: str) -> str:
    if piece in _SETTINGS:
        return _SETTINGS[piece]
    if match := re.fullmatch(r"passes=(\d+)", piece):
        return f"{match[1]} {'pass' if match[1] == '1' else 'passes'}"
    if match := re.fullmatch(r"templates=(\d+)", piece):
        return f"{match[1]} templates"
    if match := re.fullmatch(r"lr=(\S+)", piece):
        return f"learning rate {match[1]}"
    if match := re.fullmatch(r"k=(\d+)", piece):
        return f"{match[1]} {'example' if match[1] == '1' else 'examples'}"
    if match := re.fullmatch(r"strength=(\d+)(?:\.0)?", piece):
        return f"inverse regularisation {match[1]}"
    return piece


def base_label(report: Report) -> str:
    """Whose reply stands in the base column of the examples: the first prompted arm that ran, else the first arm."""
    ran = [arm for arm in report.arms if arm.status == "ran" and arm.kind not in TUNED_KINDS]
    shown = next((arm for arm in ran if arm.kind == "prompt"), ran[0] if ran else None)
    if shown is None:
        return "Base model"
    return "Base model, prompted" if shown.kind == "prompt" else f"Not tuned: {shown.name}"


def fact_lines(values: Mapping[str, Any], before: str = "") -> list[Line]:  # Any: JSON values
    """Every value of a nested JSON object on a line of its own, its path as the label."""
    lines: list[Line] = []
    for key, value in values.items():
        label = before + str(key).replace("_", " ")
        if isinstance(value, Mapping):
            lines += fact_lines(value, f"{label}, ")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            lines += fact_lines({str(place): item for place, item in enumerate(value, 1)}, f"{label} ")
        else:
            lines.append(Line(label, _plain(value)))
    return lines


def _plain(value: Any) -> str:  # Any: a JSON value
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value) or "none"
    return str(value) or "not given"
