"""Controls before any model is scored: the gold reply must pass, and replies that know nothing must not.

A grader that accepts the empty reply, the echoed prompt or another row's gold reply measures nothing; every
number after it would look fine. So they are scored first, in every evaluation, with the same grader.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metier.conventions import fold, gold_reply, row_name
from metier.core.errors import DataError, counted
from metier.core.rows import Row
from metier.core.seeds import generator
from metier.core.trials import RowScore
from metier.evaluate.grader import Grader, collected

__all__ = [
    "GOLD_FAILS", "MAX_GOLD_FAILS", "NOTHING_TO_CHECK", "ControlsResult", "GoldGrader", "other_golds", "run_controls",
]  # fmt: skip

GOLD_FAILS = "gold_fails_grader"
"""Reason code of rows whose gold reply fails its own grader."""
NOTHING_TO_CHECK = "nothing_to_check"
"""Reason code of rows in which a row-specific convention finds nothing, so that every reply would pass it."""
MAX_GOLD_FAILS = 0.05
"""Largest share of rows with either reason; above it the conventions and the data do not belong together."""
MAX_CONTROL_ROWS = 5000
"""Rows the three replies that know nothing are tried on; their means move by less than a point from here on."""

_MEANING = {
    "empty": "An empty reply passes: the metric rewards saying nothing. Add a convention that asks for something "
    "(starts_with, contains, word_count with min).",
    "shuffled": "Another row's gold reply passes: the metric sees form, not whether the answer is right for this row. "
    "Add a row-specific convention (contains with from_prompt or from_gold) or raise [metric] pass_mark.",
    "echo": "The echoed prompt passes: the metric is satisfied by repeating the question. Add a convention that the "
    "prompt does not obey (starts_with, word_count with max, forbids).",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlsResult:
    """Mean scores of replies whose worth is known, over the rows that can be graded and whose gold reply passes."""

    gold: float
    """Mean score of the gold replies."""
    empty: float
    """Mean score of the empty reply."""
    echo: float
    """Mean score of the prompt's own text as reply."""
    shuffled: float
    """Mean score of another row's gold reply."""
    pass_mark: float
    """What empty, echo and shuffled had to stay below."""
    num_rows: int
    """Rows the means are over."""
    quarantined: Mapping[str, str]
    """Row id to where the row stands and what is wrong with it, for rows that must not be used."""
    reasons: Mapping[str, str]
    """Row id to reason code, for the same rows: `gold_fails_grader` or `nothing_to_check`."""

    def as_json(self) -> dict[str, Any]:
        """The numbers as JSON values, for the report; quarantined rows as a count."""
        num_by_reason = Counter(self.reasons.values())
        return {
            "gold": self.gold, "empty": self.empty, "echo": self.echo, "shuffled": self.shuffled,
            "pass_mark": self.pass_mark, "num_rows": self.num_rows, "num_gold_fails": num_by_reason[GOLD_FAILS],
            "num_nothing_to_check": num_by_reason[NOTHING_TO_CHECK],
        }  # fmt: skip


def run_controls(rows: Sequence[Row], grader: Grader, *, seed: int, sealed: bool = False) -> ControlsResult:
    """Score gold, empty, echoed and another row's reply; `sealed` keeps text of the rows out of every message.

    Raises:
        DataError: fewer than two rows, a row-specific convention with nothing to check in more than 5 % of them,
            more than 5 % of the golds failing, every gold the same, or a control at or above the pass mark.
    """
    if len(rows) < 2:
        raise DataError(f"The controls need at least 2 rows to compare, found {len(rows)}. Give more rows.")
    vague = _vague(rows, grader)
    _few_vague(vague, len(rows))
    graded = [row for row in rows if row.row_id not in vague]
    gold_scores = grader.score_all(graded, [gold_reply(row) for row in graded])
    failed = _below_mark(graded, gold_scores, grader, sealed=sealed)
    _few_failed(failed, len(graded))
    kept = [row for row in graded if row.row_id not in failed]
    means = {
        "empty": _mean(grader.score_all(kept, [""] * len(kept))),
        "shuffled": _mean(grader.score_all(kept, other_golds(kept, seed=seed))),
        "echo": _mean(grader.score_all(kept, [row.prompt_text for row in kept])),
    }
    for control, mean in means.items():
        if mean >= grader.pass_mark:
            raise DataError(
                f"Control {control!r}: mean score {mean:.3f} over {len(kept)} rows; expected below the pass mark "
                f"{grader.pass_mark:g}. {_MEANING[control]}"
            )
    gold_mean = _mean([score for score in gold_scores if score.row_id not in failed])
    return ControlsResult(
        gold=gold_mean,
        empty=means["empty"],
        echo=means["echo"],
        shuffled=means["shuffled"],
        pass_mark=grader.pass_mark,
        num_rows=len(kept),
        quarantined={**vague, **failed},
        reasons={**dict.fromkeys(vague, NOTHING_TO_CHECK), **dict.fromkeys(failed, GOLD_FAILS)},
    )


class GoldGrader:
    """Grades gold replies as rows come by, so that a million of them need not be read again."""

    def __init__(self, grader: Grader) -> None:
        self._grader = grader
        self._vague: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._scores: dict[str, float] = {}

    def add(self, rows: Sequence[Row]) -> None:
        """Grade the gold replies of these rows; the same content twice counts once."""
        self._vague |= _vague(rows, self._grader)
        graded = [row for row in rows if row.row_id not in self._vague]
        scores = self._grader.score_all(graded, [gold_reply(row) for row in graded])
        self._failed |= _below_mark(graded, scores, self._grader, sealed=False)
        self._scores |= {score.row_id: score.score for score in scores}

    def controls(
        self, kept: Sequence[str], read: Callable[[Sequence[int]], Sequence[Row]], seed: int
    ) -> ControlsResult:
        """`run_controls` over the kept rows, given by id; `read` gives the rows at some places among them.

        Up to 5,000 rows all of them take part in the other controls, above it 5,000 drawn at random.

        Raises:
            DataError: as `run_controls`.
        """
        if len(kept) <= MAX_CONTROL_ROWS:
            return run_controls(read(range(len(kept))), self._grader, seed=seed)
        drawn = generator(seed, "controls", "sample").choice(len(kept), size=MAX_CONTROL_ROWS, replace=False)
        controls = run_controls(read(sorted(drawn.tolist())), self._grader, seed=seed)
        vague = {row_id: self._vague[row_id] for row_id in kept if row_id in self._vague}
        failed = {row_id: self._failed[row_id] for row_id in kept if row_id in self._failed}
        _few_vague(vague, len(kept))
        _few_failed(failed, len(kept) - len(vague))
        golds = [self._scores[row_id] for row_id in kept if row_id not in vague and row_id not in failed]
        return replace(
            controls,
            gold=math.fsum(golds) / len(golds),
            num_rows=len(golds),
            quarantined={**vague, **failed},
            reasons={**dict.fromkeys(vague, NOTHING_TO_CHECK), **dict.fromkeys(failed, GOLD_FAILS)},
        )


def _vague(rows: Sequence[Row], grader: Grader) -> dict[str, str]:
    """Row id to sentence, for rows in which a row-specific convention has nothing to check."""
    return {row.row_id: fault for row in rows for c in grader.conventions if (fault := c.nothing_to_check(row))}


def _few_vague(faults: Mapping[str, str], of: int) -> None:
    """Refuse a pattern that finds nothing in more than 5 % of the rows: it is wrong, not the rows."""
    head = f"a row-specific convention has nothing to check in {len(faults)} of {counted(of, 'row')}"
    _few(len(faults), of, f"{head}; at most {MAX_GOLD_FAILS:.0%} may. The first:", list(faults.values()))


def _below_mark(rows: Sequence[Row], scores: Sequence[RowScore], grader: Grader, *, sealed: bool) -> dict[str, str]:
    """Row id to sentence, for rows whose gold reply fails; a sealed row is named by its id alone."""
    name_by_id = {row.row_id: f"row {row.row_id}" if sealed else row_name(row) for row in rows}
    faults = {
        score.row_id: f"{name_by_id[score.row_id]}: {_fault(score, grader, sealed=sealed)}"
        for score in scores
        if score.score < grader.pass_mark
    }
    return faults


def _few_failed(faults: Mapping[str, str], of: int) -> None:
    """Refuse golds of which more than 5 % fail their own grader."""
    head = (
        f"{len(faults)} of {of} gold replies fail their own grader; at most {MAX_GOLD_FAILS:.0%} may. "
        "Correct the conventions, the replies, or [data] columns if they name the wrong one. The first:"
    )
    _few(len(faults), of, head, list(faults.values()))


def _few(num: int, of: int, head: str, faults: Sequence[str]) -> None:
    """Refuse so many rows set aside that the rule, not the rows, must be wrong."""
    if num > MAX_GOLD_FAILS * of:
        raise DataError(collected(head, faults))


def other_golds(rows: Sequence[Row], *, seed: int) -> list[str]:
    """For every row the gold reply of another row, one that differs from its own, drawn at random.

    Drawn with replacement: with one class in nine rows of ten no one-to-one exchange gives each row another gold.

    Raises:
        DataError: all gold replies are the same.
    """
    golds = [gold_reply(row) for row in rows]
    folded = [fold(gold) for gold in golds]
    if len(set(folded)) < 2:
        raise DataError(
            f"All {len(rows)} rows have the same gold reply; there is nothing to learn or grade. Check [data] columns."
        )
    order = sorted(range(len(rows)), key=folded.__getitem__)
    first: dict[str, int] = {}
    for place, i in enumerate(order):
        first.setdefault(folded[i], place)
    sizes = Counter(folded)
    rng = generator(seed, "controls", "other_golds")
    others = []
    for gold in folded:
        place = int(rng.integers(len(rows) - sizes[gold]))
        # Equal golds stand together in `order`: step over the row's own ones.
        others.append(golds[order[place if place < first[gold] else place + sizes[gold]]])
    return others


def _mean(scores: Sequence[RowScore]) -> float:
    return math.fsum(score.score for score in scores) / len(scores)


def _fault(score: RowScore, grader: Grader, *, sealed: bool) -> str:
    """What is wrong with a gold reply; of a sealed row only the names of what it fails."""
    if sealed:
        return f"fails {', '.join(score.reasons) or grader.metric}"
    return " ".join(f"{name}: {why}" for name, why in score.reasons.items()) or f"scores {score.score:.3f}"
