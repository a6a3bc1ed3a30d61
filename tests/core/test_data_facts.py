"""Facts of the data survive JSON, add up, and refuse what could show a person."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from metier.core import DataError
from metier.core.data_facts import (
    SEALED_REASONS,
    Drop,
    Example,
    PrivateFacts,
    Readiness,
    data_facts_from_json,
)
from tests.web.sample_facts import bare_facts, one_row_facts, sample_facts, wide_facts


@pytest.mark.parametrize("facts", [sample_facts, wide_facts, bare_facts, one_row_facts])
def test_facts_survive_json(facts) -> None:
    assert data_facts_from_json(json.loads(json.dumps(facts().as_json()))) == facts()


def test_kept_set_aside_and_failed_are_all_that_was_read() -> None:
    assert sample_facts().set_aside == 108
    with pytest.raises(DataError, match=r"kept 689 \+ set aside 108 \+ failed 2 is not the 800 read"):
        replace(sample_facts(), kept=689)


def test_an_example_that_is_not_masked_is_refused() -> None:
    for text in ("call 0171", "\u0661", "anna@example", "y" * 161):
        with pytest.raises(DataError, match=r"the example of a.jsonl:1 is not masked.*Make it with Example\.of"):
            Example(where="a.jsonl:1", text=text)
    assert Example.of("a.jsonl:1", "call 0171", keep_words={"call"}).text == "call 000"


@pytest.mark.parametrize("reason", SEALED_REASONS)
def test_no_text_and_no_place_of_the_hold_out_is_shown(reason: str) -> None:
    shown = Example.of("a.jsonl:1", "please")
    for example in (shown, replace(shown, text="", survivor="a.jsonl:2")):
        with pytest.raises(DataError, match=f"{reason}: an example shows text, or which row is in the hold-out"):
            Drop(reason=reason, num=3, rule="Near.", examples=(example,))
    assert Drop(reason=reason, num=3, rule="Near.", examples=(replace(shown, text=""),))
    assert Drop(reason="expired", num=3, rule="Past.", examples=(shown,))


def test_more_examples_than_three_or_than_rows_are_refused() -> None:
    example = Example(where="a.jsonl:1")
    with pytest.raises(DataError, match="expired: 4 examples of 9 rows; expected at most 3"):
        Drop(reason="expired", num=9, rule="Past.", examples=(example,) * 4)
    with pytest.raises(DataError, match="expired: 2 examples of 1 rows"):
        Drop(reason="expired", num=1, rule="Past.", examples=(example,) * 2)


def test_ready_with_problems_and_not_ready_without_one_are_refused() -> None:
    for ready, problems in ((True, ("No.",)), (False, ())):
        with pytest.raises(DataError, match=f"ready is {ready} with {len(problems)} problems"):
            Readiness(ready=ready, sentence="So.", problems=problems)


def test_another_version_or_shape_is_refused_and_named() -> None:
    values = json.loads(json.dumps(sample_facts().as_json()))
    for changed, message in (
        ({"schema_version": 2}, "schema_version 2; this metier reads 1. Run again"),
        ({"schema_version": None}, "schema_version None"),
        ({"colour": "red"}, "data facts: unknown field 'colour'"),
        ({"kept": "690"}, "data facts.kept is str; expected a whole number"),
        ({"kept": 690.0}, "data facts.kept is float; expected a whole number"),
        ({"kept": True}, "data facts.kept is bool; expected a whole number"),
        ({"project": None}, "data facts.project is null; expected a text"),
        ({"labels": {}}, "data facts.labels is dict; expected a list"),
        ({"labels": [[]]}, r"data facts.labels\[0\] is list; expected an object"),
        ({"labels": [{"name": "refund"}]}, r"data facts.labels\[0\]: .*'num'"),
        ({"repaired": []}, "data facts.repaired is list; expected an object"),
        ({"repaired": {"nfc": "3"}}, "data facts.repaired.nfc is str; expected a whole number"),
        (
            {"private": {"found": {}, "action": "sell"}},
            "private.action is str; expected one of replace, quarantine, keep",
        ),
        ({"age": {**values["age"], "days": {"p50": "old"}}}, "data facts.age.days.p50 is str; expected a number"),
        ({"readiness": {**values["readiness"], "ready": 1}}, "readiness.ready is int; expected true or false"),
    ):
        with pytest.raises(DataError, match=message):
            data_facts_from_json({**values, **changed})
    with pytest.raises(DataError, match=r"data facts: .*'readiness'"):
        data_facts_from_json({key: value for key, value in values.items() if key != "readiness"})


def test_a_message_about_a_wrong_value_does_not_repeat_it() -> None:
    values = {**sample_facts().as_json(), "kept": "Anna Silva"}
    with pytest.raises(DataError) as caught:
        data_facts_from_json(values)
    assert "Anna" not in str(caught.value)


def test_a_whole_number_is_a_number() -> None:
    values = json.loads(json.dumps(sample_facts().as_json()))
    values["groups"][0]["effective_n"] = 2
    assert data_facts_from_json(values).groups[0].effective_n == 2


def test_facts_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        sample_facts().kept = 1
    with pytest.raises(AttributeError):
        PrivateFacts(found={}, action="keep").action = "replace"
