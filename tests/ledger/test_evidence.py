"""What a verdict rests on besides the scores: recorded before the look, unchanged after it."""

import pytest

from metier.core.errors import StoreError
from metier.ledger import (
    RowRecord,
    WrittenReport,
    before_look,
    find_look,
    find_question,
    findings_of,
    finish_look,
    first_opened,
    freeze_question,
    look_id_of,
    looks_on,
    open_look,
    record_before_look,
    record_report,
    record_rows,
    record_split,
    seal_holdout,
    verify_chain,
    written_reports,
)

from .conftest import QUESTION

FACTS = {"margin": 0.03, "comparators": ["prompt"], "cost_ratio": None}


def id_of(project):
    return look_id_of(split_id=project.split_id, question_hash=project.question_hash, arms_hash="arms")


def opened(project):
    return open_look(
        project.ledger, project.store, split_id=project.split_id, question_hash=project.question_hash,
        arms_hash="arms", alpha=0.01, alpha_budget=0.05,
    ).look  # fmt: skip


def test_facts_of_a_shut_look_may_change_and_those_of_an_open_one_stay(project):
    look_id = id_of(project)
    assert before_look(project.ledger, look_id) is None
    record_before_look(project.ledger, look_id=look_id, facts={**FACTS, "margin": 0.5})
    recorded = record_before_look(project.ledger, look_id=look_id, facts=FACTS)
    assert recorded.facts == FACTS
    assert opened(project).look_id == look_id
    again = record_before_look(project.ledger, look_id=look_id, facts={**FACTS, "margin": 0.0})
    assert again == recorded == before_look(project.ledger, look_id)
    first = first_opened(project.ledger, look_id)
    assert first is not None
    assert recorded.seq < first
    assert verify_chain(project.ledger) == []


def test_the_same_facts_again_write_nothing(project):
    record_before_look(project.ledger, look_id=id_of(project), facts=FACTS)
    head = project.ledger.head()
    record_before_look(project.ledger, look_id=id_of(project), facts=FACTS)
    assert project.ledger.head() == head


def test_facts_that_come_after_the_look_are_refused(project):
    look = opened(project)
    with pytest.raises(StoreError, match=r"was opened before what it is judged by was recorded.*freeze a new question"):
        record_before_look(project.ledger, look_id=look.look_id, facts=FACTS)
    assert before_look(project.ledger, look.look_id) is None


def test_what_a_look_found_beside_its_scores_is_kept(project):
    look = opened(project)
    with pytest.raises(StoreError, match="is not finished; run again to finish it"):
        findings_of(project.ledger, look.look_id)
    finish_look(project.ledger, look.look_id, result_hash="r", found_beside={"controls": {"gold": 1.0}})
    assert findings_of(project.ledger, look.look_id) == {"controls": {"gold": 1.0}}
    found = find_look(project.ledger, look.look_id)
    assert found is not None
    assert found.result_hash == "r"
    assert find_look(project.ledger, "none") is None


def test_a_report_is_recorded_once(project):
    first = WrittenReport(report_sha256="a", page_sha256="b", look_id="l")
    other_page = WrittenReport(report_sha256="a", page_sha256=None, look_id="l")
    for written in (first, first, other_page, first):
        record_report(project.ledger, written)
    assert written_reports(project.ledger) == [first, other_page]


def test_a_frozen_question_is_read_back_with_its_body(project):
    assert find_question(project.ledger, project.question_hash).body == QUESTION
    with pytest.raises(StoreError, match="no question 'none'; freeze it with freeze_question"):
        find_question(project.ledger, "none")


def test_a_hold_out_row_is_known_again_under_another_record(project):
    look = opened(project)
    record_rows(project.ledger, [RowRecord(row_id="r2", origin_id="renamed", object_ref="")])  # the content of o2
    changed = freeze_question(project.ledger, {**QUESTION, "metric": {"name": "mean"}})
    for number, (origin, expected) in enumerate({"renamed": [look], "o0": []}.items()):
        split = record_split(
            project.ledger, dataset_version=project.dataset, question_hash=changed.hash, parts={origin: "holdout"},
            certificate={"number": number},
        )  # fmt: skip
        seal_holdout(project.ledger, project.store, origin.encode(), split_id=split.split_id, num_rows=1)
        assert looks_on(project.ledger, split.split_id) == expected
