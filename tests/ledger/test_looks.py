import pytest

from metier.core.errors import DataError, GateClosed, StoreError
from metier.ledger import (
    LookState,
    finish_look,
    freeze_question,
    looks_of,
    looks_on,
    open_look,
    record_split,
    seal_holdout,
    verify_chain,
)
from metier.ledger.keys import seal_key

from .conftest import HOLDOUT_BYTES, QUESTION


def look_at(project, *, arms="arms", alpha=0.05 / 3, split_id="", question="", budget=0.05, max_looks=None):
    return open_look(
        project.ledger, project.store, split_id=split_id or project.split_id,
        question_hash=question or project.question_hash, arms_hash=arms, alpha=alpha, alpha_budget=budget,
        max_looks=max_looks,
    )  # fmt: skip


def grown_split(project, number, question=""):
    """A split of the same question with another hold-out, sealed; o2 stays in it."""
    split = record_split(
        project.ledger, dataset_version=project.dataset, question_hash=question or project.question_hash,
        parts={"o0": "train", "o1": "dev", "o2": "holdout", f"new{number}": "holdout"}, certificate={},
    )  # fmt: skip
    seal_holdout(project.ledger, project.store, b"grown %d" % number, split_id=split.split_id, num_rows=2)
    return split.split_id


def test_a_look_gives_the_sealed_rows_and_is_recorded(project):
    opened = look_at(project)
    assert opened.pack == HOLDOUT_BYTES
    assert not opened.resumed
    (look,) = looks_of(project.ledger, project.question_hash)
    assert look == opened.look
    assert (look.k, look.alpha, look.state, look.result_hash) == (1, 0.05 / 3, LookState.OPENED, None)
    assert HOLDOUT_BYTES.decode() not in repr(opened)


def test_a_look_is_recorded_before_the_rows_are_decrypted(project, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(project.store), "get_encrypted", killed)
    with pytest.raises(KeyboardInterrupt):
        look_at(project)
    assert [look.k for look in looks_of(project.ledger, project.question_hash)] == [1]


def test_the_sealed_rows_cannot_be_read_from_any_file(project):
    for path in (project.ledger.project_dir / ".metier").rglob("*"):
        assert path.is_dir() or HOLDOUT_BYTES not in path.read_bytes()


def test_a_killed_look_resumes_as_the_same_look_at_its_first_alpha(project):
    first = look_at(project, alpha=0.01)
    again = look_at(project, alpha=0.05)
    assert again.resumed
    assert again.look == first.look
    assert again.look.alpha == 0.01
    assert len(looks_of(project.ledger, project.question_hash)) == 1
    kinds = [event.body["resumed_from"] for event in project.ledger.events(kind="look_opened")[1:]]
    assert kinds == ["opened"]


def test_a_finished_look_has_one_result(project):
    look_id = look_at(project).look.look_id
    done = finish_look(project.ledger, look_id, result_hash="scores")
    assert (done.state, done.result_hash) == (LookState.COMPLETE, "scores")
    assert done.finished_at is not None
    assert finish_look(project.ledger, look_id, result_hash="scores") == done
    with pytest.raises(StoreError, match=r"is complete with result scores; found better\. A look has one result"):
        finish_look(project.ledger, look_id, result_hash="better")
    assert looks_of(project.ledger, project.question_hash) == [done]
    assert verify_chain(project.ledger) == []


def test_a_finished_look_may_be_read_again_and_that_is_recorded(project):
    finish_look(project.ledger, look_at(project).look.look_id, result_hash="scores")
    again = look_at(project)
    assert (again.resumed, again.look.state, again.pack) == (True, LookState.COMPLETE, HOLDOUT_BYTES)
    assert project.ledger.events(kind="look_opened")[-1].body["resumed_from"] == "complete"


def test_looks_end_when_alpha_is_spent(project):
    split_ids = [project.split_id, *(grown_split(project, n) for n in range(3))]
    for k, split_id in enumerate(split_ids[:3], 1):
        assert look_at(project, split_id=split_id).look.k == k
    with pytest.raises(
        GateClosed,
        match=r"3 looks have used 0\.05 of alpha 0\.05; one more at 0\.01667 is not covered\. Its verdict stands",
    ):
        look_at(project, split_id=split_ids[3])
    assert len(looks_of(project.ledger, project.question_hash)) == 3
    assert look_at(project, split_id=split_ids[2]).resumed  # what is paid for stays open


def test_new_models_on_the_same_rows_never_use_more_than_alpha(project):
    for k in range(1, 11):
        assert look_at(project, arms=f"model {k}", alpha=0.05 * 2**-k).look.k == k
    assert sum(look.alpha for look in looks_of(project.ledger, project.question_hash)) == 0.05 * (1 - 2**-10)
    with pytest.raises(GateClosed, match="10 looks have used 0.04995 of alpha 0.05"):
        look_at(project, arms="model 11", alpha=0.05 / 3)


def test_a_question_sees_at_most_max_looks_states_of_the_holdout(project):
    look_at(project, alpha=0.001, max_looks=1)
    look_at(project, alpha=0.001, max_looks=1, arms="another model")
    with pytest.raises(GateClosed, match=r"2 looks have used .* at 1 of 1 states of the hold-out"):
        look_at(project, alpha=0.001, max_looks=1, split_id=grown_split(project, 1))


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.0, float("nan")])
def test_a_look_without_a_price_is_refused(project, alpha):
    with pytest.raises(DataError, match=r"open_look: alpha is .*; expected a number between 0 and 1"):
        look_at(project, alpha=alpha)
    assert looks_of(project.ledger, project.question_hash) == []


def test_a_changed_question_needs_its_own_split_and_its_looks_show_beside_the_others(project):
    changed = freeze_question(project.ledger, {**QUESTION, "metric": {"name": "mean"}})
    with pytest.raises(StoreError, match=r"was made for question .*A changed question needs its own split"):
        look_at(project, question=changed.hash)
    first = look_at(project).look
    second = look_at(project, question=changed.hash, split_id=grown_split(project, 1, changed.hash)).look
    assert second.k == 1
    assert looks_of(project.ledger, changed.hash) == [second]
    assert looks_on(project.ledger, project.split_id) == [first, second]


def test_an_unknown_split_and_an_unsealed_one_are_refused(project):
    with pytest.raises(StoreError, match="split 'none' is not recorded"):
        look_at(project, split_id="none")
    split = record_split(
        project.ledger, dataset_version=project.dataset, question_hash=project.question_hash,
        parts={"o1": "holdout"}, certificate={},
    )  # fmt: skip
    with pytest.raises(StoreError, match=r"is not sealed; use seal_holdout"):
        look_at(project, split_id=split.split_id)
    with pytest.raises(StoreError, match="no look 'none'; open it with open_look"):
        finish_look(project.ledger, "none", result_hash="x")


def test_a_damaged_seal_costs_no_look(project):
    (seal,) = project.ledger.events(kind="holdout_sealed")
    from metier.ledger import find_seal

    path = project.store.path_of(find_seal(project.ledger, seal.body["split"]).object_ref)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"the bytes changed; found \d+ bytes"):
        look_at(project)
    assert looks_of(project.ledger, project.question_hash) == []


def test_sealing_again_keeps_the_seal_and_other_rows_are_refused(project):
    first = seal_holdout(project.ledger, project.store, HOLDOUT_BYTES, split_id=project.split_id, num_rows=1)
    head = project.ledger.head()
    again = seal_holdout(project.ledger, project.store, HOLDOUT_BYTES, split_id=project.split_id, num_rows=1)
    assert first == again
    assert project.ledger.head() == head
    with pytest.raises(StoreError, match=r"is sealed with other rows \(1 rows, .*Other rows are another split"):
        seal_holdout(project.ledger, project.store, b"easier rows", split_id=project.split_id, num_rows=1)
    with pytest.raises(StoreError, match="no split 'none'; record it with record_split before sealing"):
        seal_holdout(project.ledger, project.store, HOLDOUT_BYTES, split_id="none", num_rows=1)
    with pytest.raises(DataError, match="seal_holdout: 0 rows"):
        seal_holdout(project.ledger, project.store, b"", split_id=project.split_id, num_rows=0)


def test_the_seal_opens_with_the_seal_key_alone(project):
    from metier.ledger import find_seal, project_key

    ref = find_seal(project.ledger, project.split_id).object_ref
    assert project.store.get_encrypted(ref, seal_key(project.ledger.project_dir)) == HOLDOUT_BYTES
    with pytest.raises(StoreError, match="cannot be opened with this key"):
        project.store.get_encrypted(ref, project_key(project.ledger.project_dir))


def test_rows_another_question_trains_on_are_not_counted_as_looked_at(project):
    changed = freeze_question(project.ledger, {**QUESTION, "metric": {"name": "mean"}})
    split = record_split(
        project.ledger, dataset_version=project.dataset, question_hash=changed.hash,
        parts={"o2": "train", "o0": "holdout"}, certificate={},
    )  # fmt: skip
    seal_holdout(project.ledger, project.store, b"o0", split_id=split.split_id, num_rows=1)
    other = look_at(project, question=changed.hash, split_id=split.split_id).look
    assert looks_on(project.ledger, project.split_id) == []
    assert looks_on(project.ledger, split.split_id) == [other]
