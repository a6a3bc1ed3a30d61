"""A certificate after an erasure: what is left verifies with the ids of what is gone, and with nothing else."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.core.rows import Row
from metier.core.settings import SplitConfig
from metier.split import certify, verify_certificate
from tests.split.build import START, make, split, tables
from tests.split.crowd import CONFIGS, NEAR, crowd

ROWS = [make(i, day=i, groups={"customer": f"c{i // 3}"}) for i in range(90)]
BOTH = SplitConfig(generalise_to="later_and_new_groups", holdout_rows=20, dev_rows=10, min_holdout_groups=5)
RESULT = split(ROWS, BOTH)
CROWDS = {name: split(crowd(), CONFIGS[name], near_dup=NEAR) for name in ("later", "new_groups", "both")}

Lists = dict[str, list[Row]]


def without(parts: Lists, gone: dict[str, list[int]]) -> tuple[Lists, dict[str, list[str]]]:
    """The rows left, and the ids of those erased."""
    left = {name: [row for i, row in enumerate(rows) if i not in gone.get(name, ())] for name, rows in parts.items()}
    return left, {name: [parts[name][i].row_id for i in places] for name, places in gone.items()}


def problems_of(parts: Lists, erased: dict[str, list[str]], **edits: Any) -> list[str]:
    return verify_certificate(tables(parts), {**RESULT.certificate.as_json(), **edits}, erased=erased)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(name=st.sampled_from(sorted(CROWDS)), seed=st.integers(0, 10**6), share=st.sampled_from([0.02, 0.3, 0.9, 1.0]))
def test_whatever_is_erased_the_rest_verifies_and_one_more_row_gone_does_not(
    name: str, seed: int, share: float
) -> None:
    rng = random.Random(seed)
    result = CROWDS[name]
    gone = {
        part: rng.sample(range(len(rows)), max(1, int(share * len(rows))))
        for part, rows in result.parts.items()
        if rng.random() < 0.7
    }
    left, erased = without(result.parts, gone)
    assert verify_certificate(tables(left), result.certificate, erased=erased) == []
    part = rng.choice([part for part, rows in left.items() if rows] or [""])
    if part:
        left[part].pop(rng.randrange(len(left[part])))
        problems = verify_certificate(tables(left), result.certificate, erased=erased)
        assert any(problem.startswith(f"certificate: roots of {part} is ") for problem in problems) == bool(gone)
        assert problems


def test_nothing_erased_is_the_full_check() -> None:
    assert problems_of(RESULT.parts, {}) == []
    assert problems_of(RESULT.parts, {"train": []}) == []
    assert problems_of(RESULT.parts, {}, exact=1)[0].startswith("certificate: exact is 1, but the rows give 0.")


def test_erased_rows_that_are_not_told_are_missed_and_told_ones_must_have_been_there() -> None:
    left, erased = without(RESULT.parts, {"train": [3, 4], "dev": [0]})
    assert problems_of(left, erased) == []
    for wrong in (
        {"train": erased["train"]},
        {**erased, "train": erased["train"][:1]},
        {**erased, "train": [*erased["train"], "0" * 32]},
        {**erased, "train": [erased["train"][0], left["train"][0].row_id]},
        {"train": erased["dev"] + erased["train"][:1], "dev": erased["train"][1:]},
        {"dev": erased["train"], "train": erased["dev"]},
    ):
        assert any("roots" in problem for problem in problems_of(left, wrong)), wrong
    assert problems_of(left, {**erased, "rest": ["0" * 32]}) == [
        "erased rows of rest; expected parts named train, dev, holdout."
    ]


def test_a_row_erased_on_paper_and_still_there_is_counted_twice() -> None:
    row = RESULT.holdout[0]
    assert problems_of(RESULT.parts, {"holdout": [row.row_id]}) == [
        "certificate: counts of holdout is 21, but the rows left and 1 erased row give 22."
    ]


def later(row: Row, day: float) -> Row:
    return row.model_copy(update={"meta": row.meta.model_copy(update={"collected_at": START + timedelta(days=day)})})


def test_facts_about_a_part_that_lost_rows_are_bounds() -> None:
    left, erased = without(RESULT.parts, {"train": [0], "holdout": [0]})
    newer = {**left, "train": [later(left["train"][0], 58.5), *left["train"][1:]]}
    assert problems_of(newer, erased) == [
        "certificate: newest_train is '2026-02-26T00:00:00+00:00', but the rows left and 2 erased rows give "
        "'2026-02-28T12:00:00+00:00'; erasing rows of train can only lower it."
    ]
    timeless = left["train"][7].model_copy(
        update={"meta": left["train"][7].meta.model_copy(update={"collected_at": None})}
    )
    assert problems_of({**left, "train": [*left["train"][:7], timeless, *left["train"][8:]]}, erased)[0] == (
        "certificate: newest_train is '2026-02-26T00:00:00+00:00', but the rows left and 2 erased rows give None; "
        "erasing rows of train can only lower it."
    )
    older = {**left, "holdout": [later(left["holdout"][0], 60), *left["holdout"][1:]]}
    assert problems_of(older, erased) == [
        "certificate: oldest_holdout is '2026-03-11T00:00:00+00:00', but the rows left and 2 erased rows give "
        "'2026-03-02T00:00:00+00:00'; erasing rows of holdout can only raise it."
    ]


def test_facts_about_a_part_that_lost_none_are_checked_in_full() -> None:
    left, erased = without(RESULT.parts, {"train": [0]})
    edited = {**left, "dev": [later(left["dev"][0], 57.25), *left["dev"][1:]]}
    (problem,) = problems_of(edited, erased)
    assert problem.startswith("certificate: meta of dev is ")
    assert problem.endswith("'.") and "; erasing" not in problem


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ({"max_similarity": 0.5}, "certificate: max_similarity is 0.5, but the rows left and 1 erased row give 0.0."),
        ({"similarity": {"train-dev": 0.0}}, "certificate: similarity is {'train-dev': 0.0}, but the rows give "),
        ({"counts": None}, "certificate: counts is None, but the rows give "),
        ({"roots": {"train": 1, "dev": 2, "holdout": 3}}, "certificate: roots is {'train': 1, "),
        ({"groups": {"train": 18.5, "dev": 4, "holdout": 7}}, "certificate: groups of train is 18.5, but the rows left "),
        ({"newest_train": 7}, "certificate: newest_train is 7, but the rows left "),
        ({"exact": -1}, "certificate: exact is -1, but the rows left and 1 erased row give 0; erasing rows of a part can"),
        ({"exact": 1}, "split: 1 prompt in two parts; expected 0."),
        ({"shared_groups": 1}, "split: 1 group with rows in two parts; expected 0 in 'later_and_new_groups'."),
        ({"version": 1}, "certificate: version is 1, but the rows left and 1 erased row give 2."),
        ({"newest_train": None}, "split: the newest train row is of None, the oldest hold-out row of "),
    ],
)  # fmt: skip
def test_an_edited_field_is_found_after_an_erasure_too(edits: dict[str, Any], told: str) -> None:
    left, erased = without(RESULT.parts, {"train": [5]})
    problems = problems_of(left, erased, **edits)
    assert [problem for problem in problems if problem.startswith(told)], problems


def test_similar_rows_smuggled_in_under_an_erasure_are_found() -> None:
    left, erased = without(RESULT.parts, {"train": [0, 1]})
    twin = make(500, prompt=left["holdout"][0].messages[0].content, day=1, groups={"customer": "c999"})
    left["train"][0] = twin.model_copy(update={"row_id": left["train"][0].row_id})  # under the id of another row
    problems = problems_of(left, erased)
    assert any(p.startswith("certificate: similarity of train-holdout is 0.0") for p in problems)
    assert "split: 1 prompt in two parts; expected 0." in problems


def test_a_certificate_issued_again_for_what_is_left_is_another_one() -> None:
    left, erased = without(RESULT.parts, {"train": [0]})
    again = certify(tables(left), mode="later_and_new_groups", near_dup=0.8)
    assert again.roots["train"] != RESULT.certificate.roots["train"]
    assert verify_certificate(tables(left), again) == []
    assert verify_certificate(tables(left), again, erased=erased) != []
