from dataclasses import replace

import pytest

from metier.core.errors import DataError, StoreError
from metier.core.hashing import value_hash
from metier.ledger import (
    ModelIdentity,
    ModelState,
    Prediction,
    RunState,
    aliases,
    descendants,
    fail_run,
    find_model,
    finish_run,
    move_alias,
    predict,
    predictions_of,
    record_actual,
    record_parent,
    record_training,
    register_model,
    registered_models,
    runs_of,
    scored_predictions,
    set_model_state,
    spend,
    spent,
    start_run,
    verify_chain,
)

IDENTITY = ModelIdentity(
    base_sha="b", adapter_sha="a", template_sha="t", tokenizer_sha="k", dataset="d", config_hash="c", seed=3
)


def started(ledger) -> str:
    return start_run(ledger, stage="tune", inputs_hash="i", config_hash="c", stage_version="1")


def test_a_model_is_registered_once_as_a_candidate(project):
    model = register_model(project.ledger, IDENTITY)
    head = project.ledger.head()
    assert model.model_id == value_hash(
        {"base_sha": "b", "adapter_sha": "a", "template_sha": "t", "tokenizer_sha": "k", "dataset": "d",
         "config_hash": "c", "seed": 3}
    )  # fmt: skip
    assert model.state is ModelState.CANDIDATE
    assert register_model(project.ledger, IDENTITY) == model
    assert project.ledger.head() == head
    assert registered_models(project.ledger) == [model]


@pytest.mark.parametrize("part", ["base_sha", "adapter_sha", "template_sha", "tokenizer_sha", "dataset", "config_hash"])
def test_every_part_of_a_model_is_in_its_id(part):
    assert replace(IDENTITY, **{part: "z"}).model_id != IDENTITY.model_id
    assert replace(IDENTITY, seed=4).model_id != IDENTITY.model_id


def test_an_alias_moves_only_with_an_event(project):
    first = register_model(project.ledger, IDENTITY)
    second = register_model(project.ledger, replace(IDENTITY, adapter_sha="z"))
    assert move_alias(project.ledger, "champion", first.model_id) == ""
    assert move_alias(project.ledger, "champion", second.model_id) == first.model_id
    assert move_alias(project.ledger, "champion", second.model_id) == second.model_id
    moves = [event.body for event in project.ledger.events(kind="alias_moved")]
    assert [(move["before"], move["after"]) for move in moves] == [
        ("", first.model_id),
        (first.model_id, second.model_id),
    ]
    assert aliases(project.ledger) == {"champion": second.model_id}
    assert find_model(project.ledger, "champion") == find_model(project.ledger, second.model_id) == second


def test_names_that_could_hide_a_model_are_refused(project):
    model = register_model(project.ledger, IDENTITY)
    for name in ("", "0" * 64):
        with pytest.raises(DataError, match="is no name for a model; give it a word"):
            move_alias(project.ledger, name, model.model_id)
    for action in (
        lambda: move_alias(project.ledger, "champion", "none"),
        lambda: find_model(project.ledger, "none"),
        lambda: set_model_state(project.ledger, "none", ModelState.RELEASED),
        lambda: record_training(project.ledger, "none", dataset_version="d", fraction=1.0, seed=0),
    ):
        with pytest.raises(StoreError, match="no model 'none'; register it with register_model"):
            action()


def test_a_model_changes_its_state_and_is_still_consistent(project):
    model = register_model(project.ledger, IDENTITY)
    record_training(project.ledger, model.model_id, dataset_version="d", fraction=0.25, seed=1)
    released = set_model_state(project.ledger, model.model_id, ModelState.RELEASED)
    assert released == replace(model, state=ModelState.RELEASED) == find_model(project.ledger, model.model_id)
    with pytest.raises(DataError, match=r"fraction is 0; expected a number in \(0, 1\]"):
        record_training(project.ledger, model.model_id, dataset_version="d", fraction=0, seed=1)
    with pytest.raises(StoreError, match=r"fraction is recorded as 0\.25 and cannot become 0\.5"):
        record_training(project.ledger, model.model_id, dataset_version="d", fraction=0.5, seed=1)
    assert verify_chain(project.ledger) == []


def test_models_that_went_on_from_a_model_are_found_over_all_levels(project):
    ledger = project.ledger
    first, second, third, other = (
        register_model(ledger, replace(IDENTITY, adapter_sha=name)).model_id for name in ("1", "2", "3", "other")
    )
    record_parent(ledger, second, first)
    record_parent(ledger, third, second)
    head = ledger.head()
    record_parent(ledger, third, second)
    assert ledger.head() == head
    assert descendants(ledger, first) == [(second, first), (third, second)]
    assert descendants(ledger, third) == descendants(ledger, other) == []
    record_parent(ledger, third, first)  # merged from two
    assert descendants(ledger, first) == [*sorted([(second, first), (third, first)]), (third, second)]
    move_alias(ledger, "champion", second)
    assert descendants(ledger, "champion") == [(third, second)]
    assert ledger.events(kind="parent_recorded")[0].body["parent"] == first
    assert verify_chain(ledger) == []


def test_a_model_cannot_come_from_itself(project):
    ledger = project.ledger
    first, second, third = (
        register_model(ledger, replace(IDENTITY, adapter_sha=name)).model_id for name in ("1", "2", "3")
    )
    record_parent(ledger, second, first)
    record_parent(ledger, third, second)
    head = ledger.head()
    with pytest.raises(DataError, match=rf"model {first[:16]} cannot go on from {third[:16]}, which went on from it"):
        record_parent(ledger, first, third)
    with pytest.raises(DataError, match="which is itself; expected an older model"):
        record_parent(ledger, first, first)
    for pair in ((first, "none"), ("none", first)):
        with pytest.raises(StoreError, match="no model 'none'; register it with register_model"):
            record_parent(ledger, *pair)
    with pytest.raises(StoreError, match="no model 'none'"):
        descendants(ledger, "none")
    assert ledger.head() == head


def test_a_seed_has_64_bits(project):
    seed = 2**63 - 1
    model = register_model(project.ledger, replace(IDENTITY, seed=seed))
    assert find_model(project.ledger, model.model_id).identity.seed == seed
    with pytest.raises(DataError, match=r"seed is 9223372036854775808; expected a whole number of at most 64 bits"):
        register_model(project.ledger, replace(IDENTITY, seed=2**63))
    assert verify_chain(project.ledger) == []


def test_a_run_ends_once(project):
    good, bad, killed = (started(project.ledger) for _ in range(3))
    finish_run(project.ledger, good)
    fail_run(project.ledger, bad, "disk full")
    by_id = {run.run_id: run for run in runs_of(project.ledger, "tune")}
    assert {run.state for run in by_id.values()} == set(RunState)
    assert (by_id[bad].note, by_id[killed].state, by_id[killed].finished) == ("disk full", RunState.STARTED, None)
    assert by_id[good].finished is not None
    with pytest.raises(StoreError, match="ended as 'finished'; expected a started run"):
        fail_run(project.ledger, good, "late")
    with pytest.raises(StoreError, match="run 'none' was never started"):
        finish_run(project.ledger, "none")
    assert runs_of(project.ledger, "evaluate") == []
    assert verify_chain(project.ledger) == []


def test_a_prediction_is_made_once_and_scored(project):
    run_id = started(project.ledger)
    for _ in range(2):
        predict(project.ledger, run_id, "tune_minutes", predicted=6, low=4.5, high=8)
    with pytest.raises(StoreError, match=r"predicted is recorded as 6\.0 and cannot become 7\.0"):
        predict(project.ledger, run_id, "tune_minutes", predicted=7, low=4.5, high=8)
    record_actual(project.ledger, run_id, "tune_minutes", 5)
    predict(project.ledger, run_id, "tune_minutes", predicted=6, low=4.5, high=8)  # a resumed run predicts again
    assert predictions_of(project.ledger, run_id) == [
        Prediction(quantity="tune_minutes", predicted=6.0, low=4.5, high=8.0, actual=5.0)
    ]
    with pytest.raises(StoreError, match="'peak_memory_gib' was not predicted for run"):
        record_actual(project.ledger, run_id, "peak_memory_gib", 3.0)
    assert verify_chain(project.ledger) == []


def test_past_predictions_are_those_beside_which_something_happened_and_not_of_the_same_run_begun_again(project):
    for inputs, predicted, actual in (("a", 6, 5.0), ("b", 7, 9.0), ("c", 8, None)):
        run_id = start_run(project.ledger, stage="run", inputs_hash=inputs, config_hash="k", stage_version="1")
        predict(project.ledger, run_id, "run_minutes", predicted=predicted, low=4, high=8)
        if actual is not None:
            record_actual(project.ledger, run_id, "run_minutes", actual)
    assert sorted(one.predicted for one in scored_predictions(project.ledger)) == [6, 7]
    assert [one.predicted for one in scored_predictions(project.ledger, but=("a", "k"))] == [7]
    assert len(scored_predictions(project.ledger, but=("a", "other config"))) == 2
    again = start_run(project.ledger, stage="run", inputs_hash="a", config_hash="k", stage_version="1")
    predict(project.ledger, again, "run_minutes", predicted=6.5, low=4, high=8)
    record_actual(project.ledger, again, "run_minutes", 5.0)
    assert sorted(one.predicted for one in scored_predictions(project.ledger)) == [6.5, 7], "one run, reported twice"


@pytest.mark.parametrize("band", [(4, 1, 3), (4, 5, 6), (float("nan"), 1, 2), (4, 1, float("inf"))])
def test_a_prediction_lies_in_its_finite_band(project, band):
    predicted, low, high = band
    with pytest.raises(DataError, match="minutes: predicted .* expected finite low <= predicted <= high"):
        predict(project.ledger, "r", "minutes", predicted=predicted, low=low, high=high)
    with pytest.raises(DataError, match="minutes: actual value is nan"):
        record_actual(project.ledger, "r", "minutes", float("nan"))


def test_spending_adds_up_by_price(project):
    for run_id, price, quantity in (("a", "machine_hour", 0.5), ("a", "machine_hour", 0.5), ("b", "token_in", 40)):
        spend(project.ledger, run_id, price, quantity)
    assert spent(project.ledger) == {"machine_hour": 1.0, "token_in": 40.0}
    assert spent(project.ledger, "b") == {"token_in": 40.0}
    assert spent(project.ledger, "c") == {}
    with pytest.raises(DataError, match="spend: token_in quantity is -1; expected a finite number"):
        spend(project.ledger, "a", "token_in", -1)
