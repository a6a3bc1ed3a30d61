"""The certificate: recomputed from the rows, and every way of breaking it found."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from metier.core.errors import DataError
from metier.core.rows import Message, Role, Row, make_row
from metier.core.settings import SplitConfig
from metier.split import SplitResult, assert_disjoint, certify, split_rows, verify_certificate
from tests.split.build import KEY, make

ROWS = [make(i, day=i, groups={"customer": f"c{i}"}) for i in range(60)]


@pytest.fixture
def result() -> SplitResult:
    return split_rows(ROWS, SplitConfig(holdout_rows=20, dev_rows=10), seed=0, near_dup=0.8)


def moved(row: Row, **meta: Any) -> Row:
    return row.model_copy(update={"meta": row.meta.model_copy(update=meta)})


def test_certificate_by_hand() -> None:
    # Conversations "a b c d" + "x" and "a b c e" + "x": shingles abc bcd cdx and abc bce cex, one of five shared.
    parts = {
        "train": [make(1, prompt="a b c d", reply="x", day=1, groups={"customer": "1"})],
        "dev": [make(2, prompt="k l m", reply="n", day=2, groups={"customer": "1"})],
        "holdout": [make(3, prompt="a b c e", reply="x", day=3, groups={"customer": "3", "house": "4"})],
    }
    certificate = certify(parts, mode="later", near_dup=0.8)
    assert certificate.similarity == {"train-dev": 0.0, "train-holdout": 0.2, "dev-holdout": 0.0}
    assert (certificate.max_similarity, certificate.exact, certificate.shared_groups) == (0.2, 0, 1)
    assert (certificate.newest_train, certificate.oldest_holdout) == (
        "2026-01-02T00:00:00+00:00",
        "2026-01-04T00:00:00+00:00",
    )
    assert certificate.groups == {"train": 1, "dev": 1, "holdout": 2}


def test_equal_prompts_across_parts_are_counted_once_a_row() -> None:
    parts = {
        "train": [make(1, prompt="Same?", reply="one")],
        "dev": [make(2, prompt="same?", reply="two")],
        "holdout": [make(3, prompt=" SAME?", reply="six")],
    }
    assert certify(parts, mode="new_groups", near_dup=0.8).exact == 2


def test_certificate_survives_json(result: SplitResult) -> None:
    values = json.loads(json.dumps(result.certificate.as_json()))
    assert verify_certificate(result.parts, values) == []
    assert verify_certificate(result.parts, result.certificate) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_similarity", 0.1),
        ("exact", 1),
        ("shared_groups", 3),
        ("newest_train", None),
        ("oldest_holdout", "2020-01-01"),
        ("counts", {}),
        ("roots", {}),
    ],
)
def test_an_edited_field_is_found(result: SplitResult, field: str, value: Any) -> None:
    problems = verify_certificate(result.parts, {**result.certificate.as_json(), field: value})
    assert [problem.startswith(f"certificate: {field} is {value!r}, but the rows give") for problem in problems] == [
        True
    ]


def test_unknown_and_missing_fields_are_found(result: SplitResult) -> None:
    values = result.certificate.as_json()
    values["maximum"] = values.pop("max_similarity")
    assert verify_certificate(result.parts, values) == [
        "certificate: fields max_similarity, maximum are missing or unknown; it was not written by this version."
    ]


def test_a_row_moved_between_parts_is_found(result: SplitResult) -> None:
    parts = {**result.parts, "train": [*result.train, result.holdout[0]]}
    problems = verify_certificate(parts, result.certificate)
    assert any(problem.startswith("certificate: roots is") for problem in problems)
    assert any("of train is also in holdout" in problem for problem in problems)
    assert "split: 1 prompt in two parts; expected 0." in problems


def test_a_certificate_of_broken_promises_is_no_certificate(result: SplitResult) -> None:
    newer = moved(result.train[0], collected_at=result.holdout[-1].meta.collected_at)
    parts = {**result.parts, "train": [newer, *result.train[1:]]}
    honest = certify(parts, mode="later", near_dup=0.8)
    assert verify_certificate(parts, honest) == [
        "split: the newest train row is of 2026-03-01T00:00:00+00:00, the oldest hold-out row of 2026-02-10T00:00:00+00:00."
    ]
    shared = moved(result.train[0], groups=result.holdout[0].meta.groups)
    parts = {**result.parts, "train": [shared, *result.train[1:]]}
    assert verify_certificate(parts, certify(parts, mode="later", near_dup=0.8)) == []
    assert verify_certificate(parts, certify(parts, mode="new_groups", near_dup=0.8)) == [
        "split: 1 group with rows in two parts; expected 0 in 'new_groups'."
    ]
    near = verify_certificate(result.parts, replace(certify(result.parts, mode="later", near_dup=0.8), near_dup=0.0))
    assert near == ["split: two parts hold rows of similarity 0.0; expected below 0.0."]


def changed(row: Row, text: str, **ids: str) -> Row:
    messages = (Message(role=Role.USER, content=text), row.messages[-1])
    return make_row(KEY, messages=messages, meta=row.meta, parent=row).model_copy(update=ids)


def test_parts_of_a_split_are_disjoint(result: SplitResult) -> None:
    assert_disjoint(result.train, result.dev, result.holdout)
    assert_disjoint([], [], [])


def test_any_version_of_a_leaked_row_is_named(result: SplitResult) -> None:
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
