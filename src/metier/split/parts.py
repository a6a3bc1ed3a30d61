"""Rows into train, dev and a hold-out that stands for what the verdict is claimed for.

    result = split_rows(table, SplitConfig(generalise_to="later"), seed=0, near_dup=0.8)
    train = table.take(result.train)

Whatever the mode: the hold-out is cut first, rows that would give it away are quarantined, dev is cut from what is
left, and rows of train that would give dev away are quarantined too. Nothing is transformed here.
"""

# Shapes: N rows of the table, R rows of one part.

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from posixpath import normpath

import numpy as np

from metier.core.errors import DataError, counted
from metier.core.report import SplitReport
from metier.core.rows import TargetKind
from metier.core.seeds import derived_seed
from metier.core.settings import SplitConfig
from metier.core.table import RowTable
from metier.split.certificate import Certificate, broken_promises, certify
from metier.split.cut import (
    Chosen,
    Ints,
    Lot,
    check_times,
    enough_groups,
    lot_of,
    newest,
    newest_groups,
    whole_groups,
)
from metier.split.purge import Purged, purge_groups, purge_near

__all__ = ["SplitResult", "from_files", "split_report", "split_rows"]

MIN_TRAIN_ROWS = MIN_PART_ROWS = 10


@dataclass(frozen=True, slots=True, eq=False)
class SplitResult:
    """The parts as places in the table, what is in none of them, and the certificate."""

    train: Ints
    """In the order of source and record, as every part."""
    dev: Ints
    holdout: Ints
    purged: list[Purged]
    certificate: Certificate

    @property
    def parts(self) -> dict[str, Ints]:
        """Places in the table by the name of the part."""
        return {"train": self.train, "dev": self.dev, "holdout": self.holdout}


def split_rows(table: RowTable, config: SplitConfig, *, seed: int, near_dup: float) -> SplitResult:
    """Every row in exactly one of train, dev, hold-out or purged; the same for the same rows in any order.

    Hold-out and dev have the rows asked for (whole groups may overshoot, to at most twice as many).

    Raises:
        DataError: the rows cannot give the parts asked for, or more than `max_purge` of train would have to leave.
    """
    lot = lot_of(table, seed=seed)
    holdout, rest, purged = _cut_holdout(lot, config)
    _check_labels(table, holdout, rest, config)
    rest, close = _purge(lot, rest, holdout, config, near_dup, "near_holdout")
    rest, late = _purge_late(lot, rest, holdout, config)
    dev, train = _cut(lot, rest, config.dev_rows, config, "dev")
    train, close_to_dev = _purge(lot, train, dev, config, near_dup, "near_dev")
    not_free = [] if config.generalise_to == "later_and_new_groups" else late
    _check_purge(lot, close + close_to_dev + not_free, len(train), config)
    if len(train) < MIN_TRAIN_ROWS:
        raise DataError(
            f"train: {len(train)} of {len(table)} rows are left after {len(holdout)} for the hold-out, {len(dev)} for "
            f"dev and {len(close + late + close_to_dev)} too close to them; expected at least {MIN_TRAIN_ROWS}. "
            "Collect more rows, or lower [split] holdout_rows or dev_rows."
        )
    purged = sorted(purged + close + late + close_to_dev, key=lambda item: int(lot.place_N[item.row]))
    train, dev, holdout = (part[np.argsort(lot.place_N[part])] for part in (train, dev, holdout))
    parts = {"train": train, "dev": dev, "holdout": holdout}
    certificate = certify(
        {name: table.take(index) for name, index in parts.items()}, mode=config.generalise_to, near_dup=near_dup
    )
    result = SplitResult(train, dev, holdout, purged, certificate)
    _prove(result, len(table))
    return result


def from_files(source: str, patterns: Sequence[str]) -> bool:
    """Whether a row's source is one of the named files, lies in a named folder, or matches a named glob."""
    for pattern in map(normpath, patterns):
        if source == pattern or source.startswith(f"{pattern}/") or fnmatchcase(source, pattern):
            return True
    return False


def _cut_holdout(lot: Lot, config: SplitConfig) -> tuple[Ints, Ints, list[Purged]]:
    """Hold-out, the rest, and rows of a given test set that were not asked for."""
    everything = np.arange(len(lot.table))
    if not config.holdout_files:
        return *_cut(lot, everything, config.holdout_rows, config, "hold-out"), []
    sources = lot.table.source
    is_given = np.asarray([from_files(name, config.holdout_files) for name in sources.names], dtype=bool)
    given = everything[is_given[sources.code_N]]
    given = given[np.argsort(lot.origin_N[given])]
    if len(given) < config.holdout_rows:
        do = f"Set [split] holdout_rows = {len(given)}, or add files." if len(given) >= MIN_PART_ROWS else "Add files."
        raise DataError(
            f"hold-out: {config.holdout_rows} rows asked for, but {', '.join(config.holdout_files)} gives {len(given)} "
            f"after cleaning. {do}"
        )
    order = np.random.default_rng(derived_seed(lot.seed, "holdout_files")).permutation(len(given))
    holdout = given[np.sort(order[: config.holdout_rows])]
    unused = [Purged(row, "holdout_unused", "") for row in given[np.sort(order[config.holdout_rows :])].tolist()]
    if config.generalise_to != "new_groups":
        check_times(lot, everything, config.generalise_to)
    if config.generalise_to != "later" and lot.key:
        num_groups, of = (len(np.unique(lot.unit_N[part])) for part in (holdout, given))
        enough_groups(num_groups, config.min_holdout_groups, of, "hold-out")
    return holdout, everything[~is_given[sources.code_N]], unused


def _check_labels(table: RowTable, holdout: Ints, rest: Ints, config: SplitConfig) -> None:
    """Refuse a hold-out that knows one label where the rows know several: it cannot tell right from always the same.

    Raises:
        DataError: it does, as in a file sorted by label, whose newest rows are of the last one.
    """
    labels, others = (_labels(table, part) for part in (holdout, rest))
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


def _labels(table: RowTable, index_R: Ints) -> set[str]:
    """The different labels of the rows that ask for one."""
    labelled = [i for i, kind in enumerate(table.kind.names) if kind == TargetKind.LABEL]
    codes = np.unique(table.label.code_N[index_R[np.isin(table.kind.code_N[index_R], labelled)]])
    return {table.label.names[code] if code >= 0 else "" for code in codes.tolist()}


def _cut(lot: Lot, index_R: Ints, wanted: int, config: SplitConfig, what: str) -> Chosen:
    """The rows of one part by the mode."""
    min_groups = config.min_holdout_groups if what == "hold-out" and lot.key else 0
    if config.generalise_to == "later":
        return newest(lot, index_R, wanted, what=what)
    if config.generalise_to == "new_groups":
        return whole_groups(lot, index_R, wanted, what=what, stratify=config.stratify, min_groups=min_groups)
    return newest_groups(lot, index_R, wanted, what=what, min_groups=min_groups)


def _purge(
    lot: Lot, index_R: Ints, kept: Ints, config: SplitConfig, near_dup: float, reason: str
) -> tuple[Ints, list[Purged]]:
    """Rows without those too close to a part already cut."""
    left, purged = purge_near(lot, index_R, kept, near_dup, reason)
    if config.generalise_to == "later":
        return left, purged
    left, shared = purge_groups(lot, left, kept)
    return left, purged + shared


def _purge_late(lot: Lot, index_R: Ints, holdout: Ints, config: SplitConfig) -> tuple[Ints, list[Purged]]:
    """Rows without those newer than the oldest hold-out row, where the claim is about later rows."""
    if config.generalise_to == "new_groups":
        return index_R, []
    time_N = lot.table.time_N
    first = int(holdout[time_N[holdout].argmin()])
    is_late = time_N[index_R] > time_N[first]
    other = lot.table.origin(first)
    return index_R[~is_late], [Purged(row, "not_older", other) for row in index_R[is_late].tolist()]


def _check_purge(lot: Lot, purged: list[Purged], num_train: int, config: SplitConfig) -> None:
    share = len(purged) / max(1, len(purged) + num_train)
    if share > config.max_purge:
        reasons = ", ".join(f"{reason} {num}" for reason, num in sorted(Counter(p.reason for p in purged).items()))
        example = min(purged, key=lambda item: int(lot.place_N[item.row]))
        do = "name [data] groups and use generalise_to = 'new_groups', " if config.generalise_to == "later" else ""
        raise DataError(
            f"split: {len(purged)} of {len(purged) + num_train} train rows ({share:.0%}) are too close to the "
            f"hold-out or dev ({reasons}; for example {lot.table.where(example.row)}); expected at most "
            f"{config.max_purge:.0%}. The rows repeat one another: {do}remove repeats, or raise [clean] near_dup or "
            "[split] max_purge."
        )


def _prove(result: SplitResult, num_rows: int) -> None:
    """Every row is in one place, and the certificate keeps what the mode promises."""
    purged = np.asarray([item.row for item in result.purged], dtype=np.int64)
    places = np.sort(np.concatenate([*result.parts.values(), purged]))
    problems = broken_promises(result.certificate.as_json())
    if not np.array_equal(places, np.arange(num_rows)):
        problems.append(f"split: {num_rows} rows went in and {len(places)} came out.")
    if problems:
        raise DataError(f"{problems[0]} This is a defect of metier; please report it.")


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
