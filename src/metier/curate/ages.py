"""How old the rows are, whether the oldest look like the newest, and which policy versions are superseded.

    found = staleness(table.time_N, now=now, policies=versions, labels=table.label, shingles=table.conversation, seed=0)
    found.sentence    # "Half of 812 dated rows are older than 210 days; ..."

Works on columns (`metier.core.table`), without text. Rows are counted as if they were independent: where one customer
wrote many of them, a difference looks surer than it is. Nothing is dropped here; `[data] expires` drops by date.
"""

# Shapes: N rows, E rows of both ends, K labels, V versions, R random draws.

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metier.core.errors import DataError, counted
from metier.core.readiness import AgeFacts
from metier.core.seeds import generator
from metier.core.similarity import Shingles
from metier.core.stats import Interval, z_quantile
from metier.core.table import NO_TIME, Values

__all__ = ["LabelShift", "ShareChange", "Staleness", "Superseded", "WordShift", "auc_interval", "staleness"]

END_SHARE = 0.2
"""The oldest and the newest fifth of the dated rows are compared."""
MIN_END_ROWS = 20
"""Rows an end needs to be compared."""
MAX_END_ROWS = 2_000
"""Rows of an end that the word test reads: more would cost time and change little."""
NUM_DRAWS = 2_000
MAX_PERIODS = 24
NUM_CHANGES = 5
CLEAR_P_VALUE = 0.01
CLEAR_DISTANCE = 0.1
CLEAR_AUC = 0.6
"""A shift is called clear when its lower bound says that the newer of two rows is recognised six times in ten."""
_DAY = 86_400_000_000
_LEVEL = 0.95

Ints = npt.NDArray[np.int64]


class ShareChange(NamedTuple):
    """A label whose share differs between the ends."""

    label: str
    old: float
    """Share of the oldest rows that bear it."""
    new: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelShift:
    """Labels of the oldest against those of the newest rows."""

    rows_old: int
    rows_new: int
    distance: float
    """Share of one end that would need another label to look like the other end (total variation)."""
    distance_by_chance: float
    """Mean of the same when old and new are drawn at random: few rows and many labels make it large."""
    p_value: float
    """Chance of a difference this large (chi-square) when old and new are drawn at random."""
    changes: tuple[ShareChange, ...]
    """The largest changes, at most five."""

    @property
    def clear(self) -> bool:
        """Whether the difference is both certain and large."""
        return self.p_value < CLEAR_P_VALUE and self.distance - self.distance_by_chance >= CLEAR_DISTANCE


@dataclass(frozen=True, kw_only=True, slots=True)
class WordShift:
    """Whether a small model tells the newest rows from the oldest by their words."""

    rows_old: int
    rows_new: int
    auc: float
    """How often it recognises the newer of two rows it has not seen: .5 is guessing, 1 is always."""
    low: float
    high: float
    level: float = _LEVEL

    @property
    def clear(self) -> bool:
        """Whether the ends differ clearly."""
        return self.low >= CLEAR_AUC


@dataclass(frozen=True, kw_only=True, slots=True)
class Superseded:
    """A policy version whose rows are all older than the first row of another version."""

    version: str
    rows: int
    last_row: str
    """Day of its newest row."""
    replaced_by: str
    """The version that starts next after it."""
    first_row: str
    """Day of the oldest row of that version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Staleness:
    """The age of the rows and what changed between the oldest and the newest."""

    num_rows: int
    num_dated: int
    num_future: int
    """Rows dated later than now; they count as new."""
    age_days: Mapping[str, float]
    """Days: newest, quarter (the newest quarter is younger), median, three_quarters, oldest; empty without any."""
    period: str
    """month, quarter or year; empty without times."""
    rows_by_period: Mapping[str, int]
    labels: LabelShift | None
    words: WordShift | None
    not_compared: str
    """Why the ends were not compared; empty when they were."""
    superseded: tuple[Superseded, ...]

    @property
    def sentence(self) -> str:
        """What was found, for a person."""
        if not self.num_dated:
            return f"None of {counted(self.num_rows, 'row')} has a time: how old they are is not known."
        kind = "dated rows" if self.num_dated < self.num_rows else "rows"
        parts = [f"Half of {self.num_dated:,} {kind} are older than {self.age_days['median']:,.0f} days"]
        if self.num_future:
            parts.append(f"{counted(self.num_future, 'row')} dated in the future")
        parts.append(self._shift())
        if self.superseded:
            rows = sum(s.rows for s in self.superseded)
            versions = counted(len(self.superseded), "superseded policy version")
            parts.append(f"{counted(rows, 'row')} of {versions}")
        return "; ".join(parts) + "."

    def _shift(self) -> str:
        if self.not_compared:
            return f"oldest and newest were not compared: {self.not_compared}"
        found = []
        if self.labels and self.labels.clear:
            found.append(f"labels differ between the oldest and the newest fifth on {self.labels.distance:.0%} of rows")
        if self.words and self.words.clear:
            found.append(f"the newer of two rows is recognised by its words {self.words.auc:.0%} of the time")
        return " and ".join(found) or "no clear difference between the oldest and the newest fifth"

    def facts(self) -> AgeFacts:
        """What the readiness of the data needs to know."""
        return AgeFacts(
            num_rows=self.num_rows,
            num_dated=self.num_dated,
            num_future=self.num_future,
            median_days=self.age_days.get("median"),
            num_superseded=sum(s.rows for s in self.superseded),
            shifted=bool((self.labels and self.labels.clear) or (self.words and self.words.clear)),
            sentence=self.sentence,
        )

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """The fields and the sentence."""
        values = asdict(self)
        if self.labels:
            values["labels"]["changes"] = [change._asdict() for change in self.labels.changes]
        return {**values, "superseded": [asdict(s) for s in self.superseded], "sentence": self.sentence}


def staleness(
    time_N: npt.ArrayLike,
    *,
    now: datetime,
    policies: Values | None = None,
    labels: Values | None = None,
    shingles: Shingles | None = None,
    seed: int,
) -> Staleness:
    """Age profile, oldest against newest fifth, and superseded policy versions of N rows.

    `time_N` is in microseconds since 1970, UTC, `NO_TIME` where unknown; a `now` without zone is UTC.

    Raises:
        DataError: no rows, or a column of another length.
    """
    times = np.asarray(time_N, dtype=np.int64)
    columns = {"policies": policies, "labels": labels, "shingles": shingles}
    for name, column in columns.items():
        num = len(column.code_N) if isinstance(column, Values) else len(times) if column is None else len(column)
        if num != len(times):
            raise DataError(f"staleness: {len(times)} times and {num} {name}; expected one for each row.")
    if not len(times):
        raise DataError("staleness: 0 rows; expected at least one row.")
    now_micros = int((now if now.tzinfo else now.replace(tzinfo=UTC)).timestamp() * 1e6)
    dated = np.flatnonzero(times != NO_TIME)
    age_N = np.maximum(now_micros - times[dated], 0) / _DAY
    names = {"newest": 0.0, "quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "oldest": 1.0}
    period, counts = _profile(times[dated])
    old, new, reason = _ends(times, dated)
    return Staleness(
        num_rows=len(times),
        num_dated=len(dated),
        num_future=int((times[dated] > now_micros).sum()),
        age_days={name: float(np.quantile(age_N, at)) for name, at in names.items()} if len(dated) else {},
        period=period,
        rows_by_period=counts,
        labels=None if reason or labels is None else _label_shift(labels, old, new, seed),
        words=None if reason or shingles is None else _word_shift(shingles, old, new, seed),
        not_compared=reason,
        superseded=() if policies is None else _superseded(times, policies),
    )


def _day(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).date().isoformat()


def _profile(time_N: Ints) -> tuple[str, dict[str, int]]:
    """Rows by month, or by quarter or year where months would be too many; periods without rows are zero."""
    if not len(time_N):
        return "", {}
    month_N = time_N.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
    span = int(month_N.max() - month_N.min())
    months = 1 if span < MAX_PERIODS else 3 if span < 3 * MAX_PERIODS else 12
    count_P = np.bincount(month_N // months - month_N.min() // months)
    first = int(month_N.min() // months)
    counts = {}
    for step, count in enumerate(count_P.tolist()):
        year, part = divmod((first + step) * months, 12)
        year += 1970
        name = {1: f"{year}-{part + 1:02}", 3: f"{year}-Q{part // 3 + 1}", 12: f"{year}"}[months]
        counts[name] = count
    return {1: "month", 3: "quarter", 12: "year"}[months], counts


def _ends(time_N: Ints, dated: Ints) -> tuple[Ints, Ints, str]:
    """Places of the oldest and the newest rows, or why they cannot be told apart."""
    none = np.zeros(0, dtype=np.int64)
    if not len(dated):
        return none, none, "no row has a time"
    ordered = np.sort(time_N[dated])
    num = int(len(dated) * END_SHARE)
    if num < MIN_END_ROWS:
        return none, none, f"a fifth of {counted(len(dated), 'dated row')} is fewer than {MIN_END_ROWS} rows"
    until, since = ordered[num - 1], ordered[-num]
    if until >= since:
        return none, none, "most dated rows have one and the same time"
    return dated[time_N[dated] <= until], dated[time_N[dated] >= since], ""


def _label_shift(labels: Values, old: Ints, new: Ints, seed: int) -> LabelShift | None:
    """The labels of both ends; None where an end has too few labelled rows or all rows have one label.

    Old and new are redrawn at random with the labels as they are (a permutation test), which holds at any row count.
    """
    code_old, code_new = (labels.code_N[end][labels.code_N[end] >= 0] for end in (old, new))
    if min(len(code_old), len(code_new)) < MIN_END_ROWS:
        return None
    old_K, new_K = (np.bincount(code, minlength=len(labels.names)) for code in (code_old, code_new))
    found_K = np.flatnonzero(old_K + new_K)
    if len(found_K) < 2:
        return None
    old_K, total_K = old_K[found_K], (old_K + new_K)[found_K]
    draw_RK = generator(seed, "label shift").multivariate_hypergeometric(
        total_K, len(code_old), size=NUM_DRAWS, method="marginals"
    )
    expected_K = total_K * len(code_old) / total_K.sum()
    chi_R = ((draw_RK - expected_K) ** 2 / expected_K).sum(axis=1)
    chi = ((old_K - expected_K) ** 2 / expected_K).sum()
    share_old, share_new = old_K / len(code_old), (total_K - old_K) / len(code_new)
    by_chance = np.abs(draw_RK / len(code_old) - (total_K - draw_RK) / len(code_new)).sum(axis=1).mean() / 2
    largest = np.argsort(-np.abs(share_old - share_new), kind="stable")[:NUM_CHANGES]
    return LabelShift(
        rows_old=len(code_old),
        rows_new=len(code_new),
        distance=float(np.abs(share_old - share_new).sum() / 2),
        distance_by_chance=float(by_chance),
        p_value=float((1 + (chi_R >= chi - 1e-9).sum()) / (1 + NUM_DRAWS)),
        changes=tuple(ShareChange(labels.names[found_K[i]], float(share_old[i]), float(share_new[i])) for i in largest),
    )


def _word_shift(shingles: Shingles, old: Ints, new: Ints, seed: int) -> WordShift | None:
    """How well old and new are told apart by their word shingles: two halves, each judged by a model of the other.

    Source: Lopez-Paz & Oquab 2017 (classifier two-sample test), with an interval instead of a threshold.
    """
    import scipy.sparse as sp
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    rng = generator(seed, "word shift")
    ends = [rng.permutation(end[shingles.size_N[end] > 0])[:MAX_END_ROWS] for end in (old, new)]
    if min(len(end) for end in ends) < MIN_END_ROWS:
        return None
    read = shingles.take(np.concatenate(ends))
    column = np.unique(read.code_S, return_inverse=True)[1]
    matrix = sp.csr_matrix((np.ones(len(column)), column, read.start_N))
    weight = TfidfTransformer().fit_transform(matrix)
    new_E = np.repeat([False, True], [len(end) for end in ends])
    half_E = np.concatenate([np.arange(len(end)) % 2 for end in ends]) == 0
    aucs = []
    for train_E in (half_E, ~half_E):
        model = LogisticRegression(C=10.0, solver="liblinear", random_state=0).fit(weight[train_E], new_E[train_E])
        aucs.append(roc_auc_score(new_E[~train_E], model.decision_function(weight[~train_E])))
    auc = float(np.mean(aucs))
    # Both halves lean the same way by chance, so together they know little more than one of them does: counted in
    # full, 9 to 15 % of 95 % intervals missed .5 on rows without a shift.
    low, high = auc_interval(auc, len(ends[0]) // 2, len(ends[1]) // 2)
    return WordShift(rows_old=len(ends[0]), rows_new=len(ends[1]), auc=auc, low=low, high=high)


def auc_interval(auc: float, rows_old: int, rows_new: int, level: float = _LEVEL) -> Interval:
    """Interval of an area under the curve; finite width at 0 and 1 too.

    Source: Newcombe 2006, method 5: the values whose own standard error (Hanley & McNeil 1982, with both ends of the
    mean size) reaches from them to the estimate.
    """
    z = z_quantile((1 + level) / 2)
    rest = (rows_old + rows_new) / 2 - 1

    def stderr(value: float) -> float:
        spread = 1 + rest * (1 - value) / (2 - value) + rest * value / (1 + value)
        return math.sqrt(value * (1 - value) * spread / (rows_old * rows_new))

    def end(far: float) -> float:
        near = auc
        for _ in range(60):  # halving: 60 steps are exact in floating point
            middle = (near + far) / 2
            if abs(middle - auc) <= z * stderr(middle):
                near = middle
            else:
                far = middle
        return near

    return Interval(end(0.0), end(1.0))


def _superseded(time_N: Ints, policies: Values) -> tuple[Superseded, ...]:
    """Versions that end before another begins, oldest first; by the dates of their rows alone."""
    spans = []
    for code, name in enumerate(policies.names):
        of_version = time_N[(policies.code_N == code) & (time_N != NO_TIME)]
        if len(of_version):
            rows = int((policies.code_N == code).sum())
            spans.append((name, rows, int(of_version.min()), int(of_version.max())))
    found = []
    for name, rows, _, last in sorted(spans, key=lambda span: (span[3], span[0])):
        later = [(first, other) for other, _, first, _ in spans if first > last]
        if later:
            first, other = min(later)
            found.append(
                Superseded(version=name, rows=rows, last_row=_day(last), replaced_by=other, first_row=_day(first))
            )
    return tuple(found)
