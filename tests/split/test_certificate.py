"""The certificate: recomputed from the rows, by hand, and through JSON; what it does not promise; rows after a transform."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from metier.core.errors import DataError
from metier.core.hashing import keyed_hash
from metier.core.rows import Message, Role, Row, make_row
from metier.core.table import RowTable, table_of
from metier.split import Certificate, assert_disjoint, certify, verify_certificate
from tests.split.build import KEY, Parts, make, split, tables

ROWS = [make(i, day=i, groups={"customer": f"c{i}"}) for i in range(60)]


@pytest.fixture
def result() -> Parts:
    return split(ROWS)


def certificate_of(parts: dict[str, list[Row]], mode: str = "later") -> Certificate:
    return certify(tables(parts), mode=mode, near_dup=0.8)


def moved(row: Row, **meta: Any) -> Row:
    return row.model_copy(update={"meta": row.meta.model_copy(update=meta)})


BY_HAND = {
    "train": [make(1, prompt="a b c d", reply="x", day=1, groups={"customer": "1"})],
    "dev": [make(2, prompt="k l m", reply="n", day=2, groups={"customer": "1"})],
    "holdout": [make(3, prompt="a b c e", reply="x", day=3, groups={"customer": "3", "house": "4"})],
}


def test_certificate_by_hand() -> None:
    # Conversations "a b c d" + "x" and "a b c e" + "x": shingles abc bcd cdx and abc bce cex, one of five shared.
    certificate = certificate_of(BY_HAND)
    assert certificate.similarity == {"train-dev": 0.0, "train-holdout": 0.2, "dev-holdout": 0.0}
    assert (certificate.max_similarity, certificate.exact, certificate.shared_groups) == (0.2, 0, 1)
    assert (certificate.newest_train, certificate.oldest_holdout) == (
        "2026-01-02T00:00:00+00:00",
        "2026-01-04T00:00:00+00:00",
    )
    assert certificate.counts == {"train": 1, "dev": 1, "holdout": 1}
    assert certificate.groups == {"train": 1, "dev": 1, "holdout": 2}


def test_one_value_of_two_keys_is_two_groups() -> None:
    parts = {
        "train": [make(1, groups={"customer": "7"})],
        "dev": [make(2, groups={"house": "7"})],
        "holdout": [make(3)],
    }
    certificate = certificate_of(parts)
    assert (certificate.shared_groups, certificate.groups) == (0, {"train": 1, "dev": 1, "holdout": 0})


def test_equal_prompts_across_parts_are_counted_once_a_row() -> None:
    parts = {
        "train": [make(1, prompt="Same?", reply="one")],
        "dev": [make(2, prompt="same?", reply="two")],
        "holdout": [make(3, prompt=" SAME?", reply="six")],
    }
    assert certificate_of(parts).exact == 2
    assert certificate_of({**parts, "train": [make(1)]}).exact == 1
    assert certificate_of({**parts, "dev": [make(2)]}).exact == 1


def test_a_part_with_a_row_without_time_has_no_first_and_no_last() -> None:
    parts = {"train": [make(1, day=1), make(2)], "dev": [make(3)], "holdout": [make(4, day=9), make(5, day=8.5)]}
    certificate = certificate_of(parts)
    assert (certificate.newest_train, certificate.oldest_holdout) == (None, "2026-01-09T12:00:00+00:00")


def test_parts_of_one_table_and_tables_of_their_own_have_one_certificate(result: Parts) -> None:
    apart = certify(tables(result.parts), mode="later", near_dup=0.8)
    assert apart == result.certificate
    backwards = {name: list(reversed(rows)) for name, rows in result.parts.items()}
    assert certify(tables(backwards), mode="later", near_dup=0.8) == result.certificate


def test_certificate_survives_json(result: Parts) -> None:
    values = json.loads(json.dumps(result.certificate.as_json()))
    assert verify_certificate(tables(result.parts), values) == []
    assert verify_certificate(tables(result.parts), result.certificate) == []


def test_a_table_read_back_has_the_same_certificate(result: Parts) -> None:
    stored = {name: RowTable.from_bytes(table.to_bytes(), where=name) for name, table in tables(result.parts).items()}
    assert verify_certificate(stored, result.certificate) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_similarity", 0.1),
        ("similarity", {}),
        ("exact", 1),
        ("shared_groups", 3),
        ("newest_train", None),
        ("oldest_holdout", "2020-01-01"),
        ("counts", {}),
        ("groups", None),
        ("roots", {}),
        ("meta", {}),
        ("version", 1),
    ],
)
def test_an_edited_field_is_found(result: Parts, field: str, value: Any) -> None:
    problems = verify_certificate(tables(result.parts), {**result.certificate.as_json(), field: value})
    assert [problem.startswith(f"certificate: {field} is {value!r}, but the rows give") for problem in problems] == [
        True
    ]


def test_unknown_and_missing_fields_are_found(result: Parts) -> None:
    values = result.certificate.as_json()
    values["maximum"] = values.pop("max_similarity")
    assert verify_certificate(tables(result.parts), values) == [
        "certificate: fields max_similarity, maximum are missing or unknown; it was not written by this version."
    ]


@pytest.mark.parametrize("near_dup", ["0.8", None, True, -0.1, 1.5, float("nan")])
def test_what_rows_cannot_tell_must_at_least_make_sense(result: Parts, near_dup: Any) -> None:
    values = result.certificate.as_json()
    assert verify_certificate(tables(result.parts), {**values, "mode": "random"}) == [
        "certificate: mode is 'random'; expected one of later, new_groups, later_and_new_groups."
    ]
    assert verify_certificate(tables(result.parts), {**values, "near_dup": near_dup}) == [
        f"certificate: near_dup is {near_dup!r}; expected a number from 0 to 1."
    ]


def test_a_row_moved_between_parts_is_found(result: Parts) -> None:
    parts = {**result.parts, "train": [*result.train, result.holdout[0]]}
    problems = verify_certificate(tables(parts), result.certificate)
    leaked = result.holdout[0]
    where = f"rows.jsonl:{leaked.meta.source_row}"
    assert any(problem.startswith("certificate: roots is") for problem in problems)
    for how in ("same record", "same content"):
        assert (
            f"{where}: row {leaked.row_id} of train is also in holdout ({how} as {where}); expected parts without a "
            "common row. A transform mixed them up: run the split again."
        ) in problems
    assert "split: 1 prompt in two parts; expected 0." in problems


def test_a_certificate_of_broken_promises_is_no_certificate(result: Parts) -> None:
    equal = moved(result.train[0], collected_at=result.holdout[0].meta.collected_at)
    parts = {**result.parts, "train": [equal, *result.train[1:]]}
    assert verify_certificate(tables(parts), certificate_of(parts)) == [], "rows of one moment may be on two sides"
    newer = moved(result.train[0], collected_at=result.holdout[-1].meta.collected_at)
    parts = {**result.parts, "train": [newer, *result.train[1:]]}
    assert verify_certificate(tables(parts), certificate_of(parts)) == [
        "split: the newest train row is of 2026-03-01T00:00:00+00:00, the oldest hold-out row of 2026-02-10T00:00:00+00:00."
    ]
    shared = moved(result.train[0], groups=result.holdout[0].meta.groups)
    parts = {**result.parts, "train": [shared, *result.train[1:]]}
    assert verify_certificate(tables(parts), certificate_of(parts)) == []
    assert verify_certificate(tables(parts), certificate_of(parts, "new_groups")) == [
        "split: 1 group with rows in two parts; expected 0 in 'new_groups'."
    ]
    near = verify_certificate(tables(result.parts), replace(result.certificate, near_dup=0.0))
    assert near == ["split: two parts hold rows of similarity 0.0; expected below 0.0."]


def test_what_a_row_says_besides_its_text_is_in_the_hash_and_absent_keys_are_not() -> None:
    row = make(1, day=1, groups={"customer": "1"}, attributes={"region": "north"})

    def hash_of(*rows: Row) -> str:
        return certificate_of({**BY_HAND, "train": list(rows)}).meta["train"]

    same = hash_of(row)
    changed = [
        moved(row, collected_at=None),
        moved(row, groups={"customer": "2"}),
        moved(row, groups={"house": "1"}),
        moved(row, groups={}),
        moved(row, attributes={"customer": "1"}),
        moved(row, attributes={"region": "south"}),
        moved(row, groups={}, attributes={"region": "north", "customer": keyed_hash(KEY, "1")}),
        row.model_copy(update={"origin_id": "0" * 32}),
        row.model_copy(update={"row_id": "0" * 32}),
    ]
    assert len({same, *map(hash_of, changed)}) == 1 + len(changed)
    # Alone in its part, or taken from a table in which others have more keys.
    whole = table_of([row, make(2, groups={"house": "9"}, attributes={"tone": "rough"})], key=KEY)
    taken = {**tables(BY_HAND), "train": whole.take(np.asarray([0]))}
    assert certify(taken, mode="later", near_dup=0.8).meta["train"] == same


def changed(row: Row, text: str, **ids: str) -> Row:
    messages = (Message(role=Role.USER, content=text), row.messages[-1])
    return make_row(KEY, messages=messages, meta=row.meta, parent=row).model_copy(update=ids)


def test_parts_of_a_split_are_disjoint(result: Parts) -> None:
    assert_disjoint(result.train, result.dev, result.holdout)
    assert_disjoint([], [], [])


def test_any_version_of_a_leaked_row_is_named(result: Parts) -> None:
    leaked = result.holdout[0]
    leaks = {
        "same record": changed(leaked, "quite another text"),
        "same content": changed(leaked, "quite another text", origin_id="elsewhere"),
        "same text": leaked.model_copy(update={"origin_id": "elsewhere", "row_id": "other"}),
    }
    for how, row in leaks.items():
        with pytest.raises(DataError) as caught:
            assert_disjoint([*result.train, row], result.dev, result.holdout)
        assert str(caught.value).startswith(
            f"rows.jsonl:{leaked.meta.source_row}: row {row.row_id} of train is also in holdout ({how} as rows.jsonl:{leaked.meta.source_row})"
        )
    with pytest.raises(DataError, match="of dev is also in holdout"):
        assert_disjoint(result.train, [*result.dev, leaked], result.holdout)
    with pytest.raises(DataError, match="of train is also in dev"):
        assert_disjoint([*result.train, result.dev[0]], result.dev, result.holdout)
