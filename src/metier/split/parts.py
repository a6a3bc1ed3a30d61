"""Rows into train, dev and a hold-out that stands for what the verdict is claimed for.

    result = split_rows(rows, SplitConfig(generalise_to="later"), seed=0, near_dup=0.8)
    result.certificate.max_similarity < 0.8

Whatever the mode: the hold-out is cut first, rows that would give it away are quarantined, dev is cut from what is
left, and rows of train that would give dev away are quarantined too. Nothing is transformed here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from posixpath import normpath

import numpy as np

from metier.core.errors import DataError, counted
from metier.core.report import SplitReport
from metier.core.rows import Row, TargetKind
from metier.core.seeds import derived_seed
from metier.core.settings import SplitConfig
from metier.split.certificate import Certificate, assert_disjoint, broken_promises, certify
from metier.split.cut import (
    Chosen,
    by_time,
    enough_groups,
    group_key,
    group_of,
    newest,
    newest_groups,
    time_of,
    whole_groups,
)
from metier.split.purge import Purged, purge_groups, purge_near

__all__ = ["SplitResult", "from_files", "split_report", "split_rows"]

MIN_TRAIN_ROWS = MIN_PART_ROWS = 10


@dataclass(frozen=True, slots=True)
class SplitResult:
    """The parts, what is in none of them, and the certificate."""

    train: list[Row]
    dev: list[Row]
    holdout: list[Row]
    purged: list[Purged]
    certificate: Certificate

    @property
    def parts(self) -> dict[str, list[Row]]:
        """Rows by the name of their part."""
        return {"train": self.train, "dev": self.dev, "holdout": self.holdout}


def split_rows(rows: Sequence[Row], config: SplitConfig, *, seed: int, near_dup: float) -> SplitResult:
    """Every row in exactly one of train, dev, hold-out or purged; the same for the same rows in any order.

    Hold-out and dev have the rows asked for (whole groups may overshoot, to at most twice as many).

    Raises:
        DataError: the rows cannot give the parts asked for, or more than `max_purge` of train would have to leave.
    """
    _check_origins(rows)
    holdout, rest, purged = _cut_holdout(rows, config, seed)
    _check_labels(holdout, rest, config)
    rest, close = _purge(rest, holdout, config, near_dup, "near_holdout")
    rest, late = _purge_late(rest, holdout, config)
    dev, train = _cut(rest, config.dev_rows, config, seed, "dev", key=group_key(rows))
    train, close_to_dev = _purge(train, dev, config, near_dup, "near_dev")
    _check_purge(close + close_to_dev + ([] if config.generalise_to == "later_and_new_groups" else late), train, config)
    if len(train) < MIN_TRAIN_ROWS:
        raise DataError(
            f"train: {len(train)} of {len(rows)} rows are left after {len(holdout)} for the hold-out, {len(dev)} for "
            f"dev and {len(close + late + close_to_dev)} too close to them; expected at least {MIN_TRAIN_ROWS}. "
            "Collect more rows, or lower [split] holdout_rows or dev_rows."
        )
    purged = sorted(purged + close + late + close_to_dev, key=lambda item: _place(item.row))
    train, dev, holdout = (sorted(part, key=_place) for part in (train, dev, holdout))
    certificate = certify(
        {"train": train, "dev": dev, "holdout": holdout}, mode=config.generalise_to, near_dup=near_dup
    )
    result = SplitResult(train, dev, holdout, purged, certificate)
    _prove(result, rows)
    return result


def _place(row: Row) -> tuple[str, int]:
    return row.meta.source, row.meta.source_row


def _check_origins(rows: Sequence[Row]) -> None:
    twice = [origin for origin, num in Counter(row.origin_id for row in rows).items() if num > 1]
    if twice:
        row = next(row for row in rows if row.origin_id == twice[0])
        raise DataError(
            f"{row.meta.source}:{row.meta.source_row}: {counted(len(twice), 'record')} more than once among the rows "
            "to split; expected each once. Clean the rows before splitting."
        )


def from_files(source: str, patterns: Sequence[str]) -> bool:
    """Whether a row's source is one of the named files, lies in a named folder, or matches a named glob."""
    for pattern in map(normpath, patterns):
        if source == pattern or source.startswith(f"{pattern}/") or fnmatchcase(source, pattern):
            return True
    return False


def _cut_holdout(rows: Sequence[Row], config: SplitConfig, seed: int) -> tuple[list[Row], list[Row], list[Purged]]:
    """Hold-out, the rest, and rows of a given test set that were not asked for."""
    key = group_key(rows)
    if not config.holdout_files:
        return *_cut(rows, config.holdout_rows, config, seed, "hold-out", key=key), []
    given = sorted(
        (row for row in rows if from_files(row.meta.source, config.holdout_files)), key=lambda r: r.origin_id
    )
    rest = [row for row in rows if not from_files(row.meta.source, config.holdout_files)]
    if len(given) < config.holdout_rows:
        do = f"Set [split] holdout_rows = {len(given)}, or add files." if len(given) >= MIN_PART_ROWS else "Add files."
        raise DataError(
            f"hold-out: {config.holdout_rows} rows asked for, but {', '.join(config.holdout_files)} gives {len(given)} "
            f"after cleaning. {do}"
        )
    order = np.random.default_rng(derived_seed(seed, "holdout_files")).permutation(len(given))
    picked = {given[i].origin_id for i in order[: config.holdout_rows]}
    holdout = [row for row in given if row.origin_id in picked]
    unused = [Purged(row, "holdout_unused", "") for row in given if row.origin_id not in picked]
    if config.generalise_to != "new_groups":
        by_time(rows, seed, config.generalise_to)
    if config.generalise_to != "later" and key:
        num_groups, of = (len({group_of(row, key) for row in part}) for part in (holdout, given))
        enough_groups(num_groups, config.min_holdout_groups, of, "hold-out")
    return holdout, rest, unused


def _check_labels(holdout: Sequence[Row], rest: Sequence[Row], config: SplitConfig) -> None:
    """Refuse a hold-out that knows one label where the rows know several: it cannot tell right from always the same.

    Raises:
        DataError: it does, as in a file sorted by label, whose newest rows are of the last one.
    """
    labels, others = (
        {row.target.label or "" for row in part if row.target.kind is TargetKind.LABEL} for part in (holdout, rest)
    )
    if len(labels) != 1 or others <= labels:
        return
    do = {
        "new_groups": "Set [split] stratify = 'label', or raise holdout_rows.",
        "later": "Is the file sorted by label? Use generalise_to = 'new_groups', which draws at random, or raise "
        "holdout_rows.",
    }.get(config.generalise_to, "Raise [split] holdout_rows, or use generalise_to = 'new_groups'.")
    if config.holdout_files:
        do = "Name [split] holdout_files with rows of every label."
    raise DataError(
        f"hold-out: all {len(holdout)} rows have the label {min(labels)!r}, the {len(rest)} others have "
        f"{counted(len(others), 'label')}; expected more than one label. {do}"
    )


def _cut(rows: Sequence[Row], wanted: int, config: SplitConfig, seed: int, what: str, *, key: str) -> Chosen:
    """The rows of one part by the mode."""
    min_groups = config.min_holdout_groups if what == "hold-out" and key else 0
    if config.generalise_to == "later":
        return newest(rows, wanted, seed=seed, what=what)
    if config.generalise_to == "new_groups":
        return whole_groups(
            rows, wanted, key=key, seed=seed, what=what, stratify=config.stratify, min_groups=min_groups
        )
    return newest_groups(rows, wanted, key=key, seed=seed, what=what, min_groups=min_groups)


def _purge(
    rows: list[Row], kept: list[Row], config: SplitConfig, near_dup: float, reason: str
) -> tuple[list[Row], list[Purged]]:
    """Rows without those too close to a part already cut."""
    left, purged = purge_near(rows, kept, near_dup, reason)
    if config.generalise_to == "later":
        return left, purged
    left, shared = purge_groups(left, kept)
    return left, purged + shared


def _purge_late(rows: list[Row], holdout: list[Row], config: SplitConfig) -> tuple[list[Row], list[Purged]]:
    """Rows without those newer than the oldest hold-out row, where the claim is about later rows."""
    if config.generalise_to == "new_groups":
        return rows, []
    first = min(holdout, key=time_of)
    late = [Purged(row, "not_older", first.origin_id) for row in rows if time_of(row) > time_of(first)]
    return [row for row in rows if time_of(row) <= time_of(first)], late


def _check_purge(purged: list[Purged], train: list[Row], config: SplitConfig) -> None:
    share = len(purged) / max(1, len(purged) + len(train))
    if share > config.max_purge:
        reasons = ", ".join(f"{reason} {num}" for reason, num in sorted(Counter(p.reason for p in purged).items()))
        example = purged[0].row.meta
        do = "name [data] groups and use generalise_to = 'new_groups', " if config.generalise_to == "later" else ""
        raise DataError(
            f"split: {len(purged)} of {len(purged) + len(train)} train rows ({share:.0%}) are too close to the "
            f"hold-out or dev ({reasons}; for example {example.source}:{example.source_row}); expected at most "
            f"{config.max_purge:.0%}. The rows repeat one another: {do}remove repeats, or raise [clean] near_dup or "
            "[split] max_purge."
        )


def _prove(result: SplitResult, rows: Sequence[Row]) -> None:
    """Every row is in one place, and the certificate keeps what the mode promises."""
    places = Counter(row.origin_id for part in result.parts.values() for row in part)
    places.update(row.origin_id for row, _, _ in result.purged)
    problems = broken_promises(result.certificate.as_json())
    if places != Counter(row.origin_id for row in rows):
        problems.append(f"split: {len(rows)} rows went in and {places.total()} came out.")
    if problems:
        raise DataError(f"{problems[0]} This is a defect of metier; please report it.")
    assert_disjoint(result.train, result.dev, result.holdout)


def split_report(result: SplitResult) -> SplitReport:
    """The part of `report.json` about the split."""
    certificate = result.certificate
    return SplitReport(
        mode=certificate.mode,
        train=len(result.train),
        dev=len(result.dev),
        holdout=len(result.holdout),
        purged=len(result.purged),
        groups=dict(certificate.groups),
        certificate=certificate.as_json(),
    )
