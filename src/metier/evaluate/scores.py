"""`scores.parquet`: the score of every arm on every row, keyed ids only; the verdict is recomputed from it.

Columns: row_id, arm, score, group, slice, tokens_in, tokens_out, seconds, and `check:<name>` for every
convention. No text: `group` is a keyed hash, `slice` holds only the attributes the caller names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metier.core.columns import parquet_bytes, read_parquet
from metier.core.errors import DataError
from metier.core.hashing import canonical_json, keyed_hash
from metier.core.rows import Row
from metier.core.trials import Reply, RowScore
from metier.evaluate.grader import Grader

__all__ = ["ArmScores", "ScoreTable", "group_ids", "score_arm"]

_SCHEMA = {
    "row_id": "String", "arm": "String", "score": "Float64", "group": "String", "slice": "String",
    "tokens_in": "Int64", "tokens_out": "Int64", "seconds": "Float64",
}  # fmt: skip
_CHECK = "check:"


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmScores:
    """The replies of one arm, scored; intervals are computed where the groups of the rows are known."""

    arm: str
    """Name of the arm."""
    scores: tuple[RowScore, ...]
    """One a row, in the order of the rows."""
    replies: tuple[Reply, ...]
    """What was scored."""
    mean: float
    """Mean primary score, 0-1."""
    checks: Mapping[str, float]
    """Mean score of every convention, 0-1."""

    @property
    def num_rows(self) -> int:
        """Rows the means are over."""
        return len(self.scores)


def score_arm(rows: Sequence[Row], replies: Sequence[Reply], grader: Grader, *, arm: str = "") -> ArmScores:
    """Score one arm's replies to rows.

    Raises:
        DataError: no rows, not one reply a row, or rows that cannot be scored.
    """
    if not rows:
        raise DataError(f"No rows to score the replies of {arm or 'an arm'} on; a mean of nothing is not 0.")
    scores = grader.score_all(rows, [reply.text for reply in replies])
    names = [convention.name for convention in grader.conventions]
    return ArmScores(
        arm=arm,
        scores=tuple(scores),
        replies=tuple(replies),
        mean=math.fsum(s.score for s in scores) / len(scores),
        checks={name: math.fsum(s.checks[name] for s in scores) / len(scores) for name in names},
    )


def group_ids(rows: Sequence[Row], group: str, *, key: bytes) -> list[str]:
    """Keyed hash of each row's group of a kind ("customer"); a row without one is a group of its own."""
    return [
        keyed_hash(key, ["group", group, row.meta.groups[group]]) if row.meta.groups.get(group) else row.row_id
        for row in rows
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTable:
    """The rows of `scores.parquet`, column by column."""

    row_id: tuple[str, ...] = ()
    arm: tuple[str, ...] = ()
    score: tuple[float, ...] = ()
    group: tuple[str, ...] = ()
    slice: tuple[str, ...] = ()
    tokens_in: tuple[int, ...] = ()
    tokens_out: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    checks: Mapping[str, tuple[float, ...]]
    """Column of every convention."""

    def __post_init__(self) -> None:
        _check_columns(self)

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms, in the order of their first row."""
        return tuple(dict.fromkeys(self.arm))

    def scores_of(self, arm: str, *, check: str = "") -> dict[str, float]:
        """Row id to score of one arm (of one convention where `check` names it), in the order of the table.

        Raises:
            DataError: no such arm or convention.
        """
        if arm not in self.arm:
            raise DataError(f"scores.parquet has no arm {arm!r}; it has: {', '.join(self.arms) or 'none'}.")
        if check and check not in self.checks:
            raise DataError(f"scores.parquet has no convention {check!r}; it has: {', '.join(self.checks) or 'none'}.")
        column = self.checks[check] if check else self.score
        return {row_id: value for row_id, name, value in zip(self.row_id, self.arm, column, strict=True) if name == arm}

    def groups(self) -> dict[str, str]:
        """Row id to its keyed group."""
        return dict(zip(self.row_id, self.group, strict=True))

    def in_slice(self, name: str, value: str) -> frozenset[str]:
        """Ids of the rows whose attribute has a value."""
        return frozenset(
            row_id for row_id, part in zip(self.row_id, self.slice, strict=True) if json.loads(part).get(name) == value
        )

    def to_parquet(self) -> bytes:
        """The table as Parquet bytes; the same table gives the same bytes."""
        columns: dict[str, Sequence[Any]] = {name: getattr(self, name) for name in _SCHEMA}  # getattr: a fixed list
        columns |= {_CHECK + name: values for name, values in self.checks.items()}
        return parquet_bytes(columns, _SCHEMA | dict.fromkeys((_CHECK + name for name in self.checks), "Float64"))

    @classmethod
    def from_parquet(cls, data: bytes) -> ScoreTable:
        """The table in Parquet bytes.

        Raises:
            DataError: not Parquet, missing or unknown columns, or a table that is not paired.
        """
        try:
            frame = read_parquet(data)
        except Exception as err:  # whatever the reader raises: recorded as this error, no table is made up
            raise DataError(
                f"scores.parquet cannot be read ({type(err).__name__}: {err}). Run the evaluation again."
            ) from err
        names = set(frame.columns)
        unknown = sorted(name for name in names - set(_SCHEMA) if not name.startswith(_CHECK))
        missing = sorted(set(_SCHEMA) - names)
        if unknown or missing:
            raise DataError(f"scores.parquet lacks the columns {missing} and has the unknown columns {unknown}.")
        columns = {name: tuple(frame[name].to_list()) for name in _SCHEMA}
        checks = {n.removeprefix(_CHECK): tuple(frame[n].to_list()) for n in frame.columns if n.startswith(_CHECK)}
        return cls(**columns, checks=checks)

    @classmethod
    def build(
        cls, rows: Sequence[Row], arms: Sequence[ArmScores], *, groups: Sequence[str], slices: Sequence[str] = ()
    ) -> ScoreTable:
        """The table of arms scored on the same rows; `groups` from `group_ids`, `slices` names attributes to keep.

        Raises:
            DataError: an arm's scores are not those of the rows, or not one group a row.
        """
        if len(groups) != len(rows):
            raise DataError(f"{len(groups)} groups for {len(rows)} rows; expected one a row.")
        row_ids = [row.row_id for row in rows]
        for arm in arms:
            if [score.row_id for score in arm.scores] != row_ids:
                raise DataError(
                    f"arm {arm.arm!r} was not scored on these {len(rows)} rows in this order; score it again."
                )
        parts = [
            canonical_json({name: row.meta.attributes[name] for name in slices if name in row.meta.attributes}).decode()
            for row in rows
        ]
        names = list(arms[0].checks) if arms else []
        scores = [score for arm in arms for score in arm.scores]
        replies = [reply for arm in arms for reply in arm.replies]
        return cls(
            row_id=tuple(row_ids * len(arms)),
            arm=tuple(arm.arm for arm in arms for _ in rows),
            score=tuple(score.score for score in scores),
            group=tuple(groups) * len(arms),
            slice=tuple(parts * len(arms)),
            tokens_in=tuple(reply.tokens_in for reply in replies),
            tokens_out=tuple(reply.tokens_out for reply in replies),
            seconds=tuple(reply.seconds for reply in replies),
            checks={name: tuple(score.checks[name] for score in scores) for name in names},
        )


def _check_columns(table: ScoreTable) -> None:
    """Columns of one length, scores in 0-1, one score of every arm on every row."""
    num = len(table.row_id)
    # getattr: a fixed list of column names
    named = {name: getattr(table, name) for name in _SCHEMA} | {_CHECK + k: v for k, v in table.checks.items()}
    for name, column in named.items():
        if len(column) != num:
            raise DataError(f"scores.parquet: column {name!r} has {len(column)} values; expected {num}.")
        if (name == "score" or name.startswith(_CHECK)) and not all(v is not None and 0 <= v <= 1 for v in column):
            raise DataError(f"scores.parquet: column {name!r} holds a value outside 0-1, or none; no score is made up.")
    pairs = set(zip(table.arm, table.row_id, strict=True))
    if len(pairs) != num or num != len(set(table.arm)) * len(set(table.row_id)):
        raise DataError(
            f"scores.parquet has {num} scores of {len(set(table.arm))} arms on {len(set(table.row_id))} rows; expected "
            "each arm once on each row, so that they can be compared in pairs."
        )
