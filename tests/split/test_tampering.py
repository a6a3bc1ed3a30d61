"""Every way to tamper with a part or with its certificate is found, whichever row it is done to and in every mode."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from metier.core.rows import Message, Role, Row, make_row
from metier.core.settings import SplitConfig
from metier.split import verify_certificate
from tests.split.build import KEY, START, Parts, make, split, tables

_GROUPED = {"holdout_rows": 20, "dev_rows": 10, "min_holdout_groups": 5}
CONFIGS = [
    SplitConfig(generalise_to="later", holdout_rows=20, dev_rows=10),
    SplitConfig(generalise_to="new_groups", **_GROUPED),  # type: ignore[arg-type]  # a dict of ints
    SplitConfig(generalise_to="later_and_new_groups", **_GROUPED),  # type: ignore[arg-type]  # a mapping of plain settings
]
ROWS = [
    make(i, day=i, groups={"customer": f"c{i // 3}"}, attributes={"region": "north" if i % 5 else "south"})
    for i in range(90)
]
SPLITS = [split(ROWS, config) for config in CONFIGS]

Lists = dict[str, list[Row]]
Change = Callable[[Lists, random.Random], None]


def drawn(parts: Lists, name: str, rng: random.Random) -> int:
    return rng.randrange(len(parts[name]))


def move(start: str, end: str, *, keep: bool = False) -> Change:
    def change(parts: Lists, rng: random.Random) -> None:
        at = drawn(parts, start, rng)
        parts[end].append(parts[start][at] if keep else parts[start].pop(at))

    return change


def swap(first: str, second: str) -> Change:
    def change(parts: Lists, rng: random.Random) -> None:
        a, b = drawn(parts, first, rng), drawn(parts, second, rng)
        parts[first][a], parts[second][b] = parts[second][b], parts[first][a]

    return change


def remove(name: str) -> Change:
    return lambda parts, rng: parts[name].remove(rng.choice(parts[name]))


def add(name: str) -> Change:
    return lambda parts, rng: parts[name].append(make(1000 + rng.randrange(1000), day=rng.randrange(60)))


def double(name: str) -> Change:
    return lambda parts, rng: parts[name].append(rng.choice(parts[name]))


def replace_by_another(name: str) -> Change:
    def change(parts: Lists, rng: random.Random) -> None:
        a, b = rng.sample(range(len(parts[name])), 2)
        parts[name][a] = parts[name][b]

    return change


def edit(name: str, **made: Callable[[Row, random.Random], Any]) -> Change:
    """Metadata of one row changed; its ids stay."""

    def change(parts: Lists, rng: random.Random) -> None:
        at = drawn(parts, name, rng)
        row = parts[name][at]
        meta = row.meta.model_copy(update={field: value(row, rng) for field, value in made.items()})
        parts[name][at] = row.model_copy(update={"meta": meta})

    return change


def join(name: str, other: str) -> Change:
    """A row of one part into the group of a row of another."""

    def change(parts: Lists, rng: random.Random) -> None:
        groups = rng.choice(parts[other]).meta.groups
        edit(name, groups=lambda row, rng: groups)(parts, rng)

    return change


def exchange(name: str, field: str) -> Change:
    """One field of two rows of one part exchanged."""

    def change(parts: Lists, rng: random.Random) -> None:
        while True:  # two that differ in it
            a, b = rng.sample(range(len(parts[name])), 2)
            first, second = parts[name][a], parts[name][b]
            if field != "meta" or first.meta.groups != second.meta.groups:
                break
        parts[name][a] = first.model_copy(update={field: getattr(second, field)})  # getattr: a field by its name
        parts[name][b] = second.model_copy(update={field: getattr(first, field)})

    return change


def new_text(name: str) -> Change:
    def change(parts: Lists, rng: random.Random) -> None:
        at = drawn(parts, name, rng)
        row = parts[name][at]
        messages = (Message(role=Role.USER, content="words nobody wrote here"), row.messages[-1])
        parts[name][at] = make_row(KEY, messages=messages, meta=row.meta, parent=row)

    return change


def later(row: Row, rng: random.Random) -> Any:
    assert row.meta.collected_at is not None
    return row.meta.collected_at + timedelta(seconds=rng.choice([-1, 1]) * rng.randrange(1, 10**6))


def other_region(row: Row, rng: random.Random) -> dict[str, str]:
    return {"region": "south" if row.meta.attributes["region"] == "north" else "north"}


ON_ROWS: dict[str, Change] = {
    "train row moved to dev": move("train", "dev"),
    "hold-out row moved to train": move("holdout", "train"),
    "dev row moved to the hold-out": move("dev", "holdout"),
    "hold-out row copied to train": move("holdout", "train", keep=True),
    "train and hold-out rows swapped": swap("train", "holdout"),
    "dev and hold-out rows swapped": swap("dev", "holdout"),
    "train row removed": remove("train"),
    "hold-out row removed": remove("holdout"),
    "row added to train": add("train"),
    "row added to the hold-out": add("holdout"),
    "dev row doubled": double("dev"),
    "hold-out row replaced by another of it": replace_by_another("holdout"),
    "text of a train row replaced": new_text("train"),
    "text of a hold-out row replaced": new_text("holdout"),
    "time of a train row moved": edit("train", collected_at=later),
    "time of a dev row moved": edit("dev", collected_at=later),
    "time of a hold-out row moved": edit("holdout", collected_at=later),
    "time of a train row taken away": edit("train", collected_at=lambda row, rng: None),
    "dev row older than every other": edit("dev", collected_at=lambda row, rng: START - timedelta(days=1)),
    "group of a train row changed": edit("train", groups=lambda row, rng: {"customer": f"c{rng.randrange(90, 99)}"}),
    "train row into a group of the hold-out": join("train", "holdout"),
    "group of a dev row taken away": edit("dev", groups=lambda row, rng: {}),
    "second group of a hold-out row": edit("holdout", groups=lambda row, rng: {**row.meta.groups, "house": "h1"}),
    "attribute of a hold-out row changed": edit("holdout", attributes=other_region),
    "metadata of two train rows exchanged": exchange("train", "meta"),
    "records of two hold-out rows exchanged": exchange("holdout", "origin_id"),
    "texts' ids of two train rows exchanged": exchange("train", "row_id"),
    "dev emptied": lambda parts, rng: parts["dev"].clear(),
}


@pytest.mark.parametrize("name", ON_ROWS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_part_that_was_tampered_with_is_found(name: str, seed: int) -> None:
    for result in SPLITS:
        parts = {part: list(rows) for part, rows in result.parts.items()}
        ON_ROWS[name](parts, random.Random(seed))
        assert parts != result.parts
        problems = verify_certificate(tables(parts), result.certificate)
        assert any(problem.startswith("certificate: ") for problem in problems), (name, result.certificate.mode)


def entry(field: str, key: str, value: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        values[field] = {**values[field], key: value(values[field][key])}

    return change


def put(field: str, value: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.__setitem__(field, value(values[field]))


def turned(field: str) -> Callable[[dict[str, Any]], None]:
    """The values of train and hold-out exchanged."""

    def change(values: dict[str, Any]) -> None:
        there = values[field]
        values[field] = {**there, "train": there["holdout"], "holdout": there["train"]}

    return change


ON_CERTIFICATE: dict[str, Callable[[dict[str, Any]], None]] = {
    "largest similarity raised": put("max_similarity", lambda x: x + 0.01),
    "one similarity raised": entry("similarity", "train-holdout", lambda x: x + 1e-9),
    "one similarity left out": put("similarity", lambda x: {k: v for k, v in x.items() if k != "train-dev"}),
    "prompts in common": put("exact", lambda x: x + 1),
    "shared groups": put("shared_groups", lambda x: x + 1),
    "newest train row older": put("newest_train", lambda x: "2025-12-31T00:00:00+00:00"),
    "oldest hold-out row newer": put("oldest_holdout", lambda x: "2027-12-31T00:00:00+00:00"),
    "no newest train row": put("newest_train", lambda x: None),
    "one row more": entry("counts", "holdout", lambda x: x + 1),
    "one group less": entry("groups", "dev", lambda x: x - 1),
    "another root": entry("roots", "train", lambda x: "0" * 64),
    "roots turned round": turned("roots"),
    "another hash of times and groups": entry("meta", "holdout", lambda x: "0" * 64),
    "hashes of times and groups turned round": turned("meta"),
    "another version": put("version", lambda x: x + 1),
    "a mode that is none": put("mode", lambda x: "random"),
    "a threshold that is none": put("near_dup", lambda x: None),
    "a field left out": lambda values: values.__delitem__("exact"),
    "a field added": lambda values: values.__setitem__("note", "all well"),
}


@pytest.mark.parametrize("name", ON_CERTIFICATE)
def test_a_certificate_that_was_tampered_with_is_found(name: str) -> None:
    for result in SPLITS:
        values = result.certificate.as_json()
        ON_CERTIFICATE[name](values)
        problems = verify_certificate(tables(result.parts), values)
        assert any(problem.startswith("certificate: ") for problem in problems), (name, result.certificate.mode)


def test_a_weaker_claim_that_still_holds_is_not_told_from_the_rows() -> None:
    # Mode and threshold are what was asked for. The rows cannot tell; the hash of the certificate in the ledger does.
    result: Parts = SPLITS[2]
    weaker = {**result.certificate.as_json(), "mode": "later", "near_dup": 0.9}
    assert verify_certificate(tables(result.parts), weaker) == []


def test_untouched_parts_verify_in_every_mode() -> None:
    assert [verify_certificate(tables(result.parts), result.certificate) for result in SPLITS] == [[], [], []]
