import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from metier.ledger import (
    Ledger,
    ModelIdentity,
    ObjectStore,
    RowRecord,
    RowState,
    Source,
    finish_look,
    freeze_question,
    move_alias,
    open_look,
    predict,
    record_dataset,
    record_rows,
    record_source,
    record_split,
    record_training,
    register_model,
    seal_holdout,
    spend,
    start_run,
)

HOLDOUT_BYTES = b"the hold-out rows, as Parquet"
QUESTION = {"decision": {"alpha": 0.05, "margin": 0.03}, "metric": {"name": "all_pass"}}


class Project(NamedTuple):
    """A ledger with its store; of four rows one is held out."""

    ledger: Ledger
    store: ObjectStore
    split_id: str
    question_hash: str
    dataset: str


def fill(ledger: Ledger) -> Project:
    """A project whose hold-out is sealed and not looked at."""
    store = ObjectStore(ledger.project_dir)
    ref = store.put(b"row texts")
    record_source(ledger, Source(name="tickets.jsonl", sha256="5e", num_records=4))
    rows = [RowRecord(row_id=f"r{i}", origin_id=f"o{i}", object_ref=ref) for i in range(4)]
    record_rows(ledger, rows)
    stale = RowRecord(row_id="r3", origin_id="o3", object_ref=ref, state=RowState.QUARANTINED, reason="stale")
    record_rows(ledger, [stale])
    dataset = record_dataset(ledger, ["r0", "r1", "r2"])
    question = freeze_question(ledger, QUESTION)
    parts = {"o0": "train", "o1": "dev", "o2": "holdout"}
    split = record_split(
        ledger, dataset_version=dataset, question_hash=question.hash, parts=parts, certificate={"shared_groups": 0}
    )
    seal_holdout(ledger, store, HOLDOUT_BYTES, split_id=split.split_id, num_rows=1)
    return Project(ledger, store, split.split_id, question.hash, dataset)


def fill_more(project: Project) -> None:
    """One finished look, one model under a name, one run with its prediction and spending."""
    ledger = project.ledger
    opened = open_look(
        ledger, project.store, split_id=project.split_id, question_hash=project.question_hash, arms_hash="arms",
        alpha=0.05 / 3, alpha_budget=0.05,
    )  # fmt: skip
    finish_look(ledger, opened.look.look_id, result_hash="scores")
    identity = ModelIdentity(
        base_sha="b", adapter_sha="a", template_sha="t", tokenizer_sha="k", dataset=project.dataset, config_hash="c"
    )
    model_id = register_model(ledger, identity).model_id
    record_training(ledger, model_id, dataset_version=project.dataset, fraction=1.0, seed=0)
    move_alias(ledger, "champion", model_id)
    run_id = start_run(ledger, stage="tune", inputs_hash="i", config_hash="c", stage_version="1")
    predict(ledger, run_id, "tune_minutes", predicted=6, low=4, high=8)
    spend(ledger, run_id, "machine_hour", 0.5)


@pytest.fixture(scope="session")
def filled_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed, sealed project; copied for each test, as making one costs more than copying it."""
    project_dir = tmp_path_factory.mktemp("sealed")
    with Ledger.open(project_dir, actor="ana") as ledger:
        fill(ledger)
    return project_dir


@pytest.fixture
def project(filled_dir: Path, tmp_path: Path) -> Iterator[Project]:
    """A sealed project of the test's own."""
    project_dir = tmp_path / "project"
    shutil.copytree(filled_dir, project_dir)
    with Ledger.open(project_dir, actor="ana") as ledger:
        (split,) = ledger.events(kind="split_recorded")
        (question,) = ledger.events(kind="question_frozen")
        (dataset,) = {member["dataset"] for member in ledger.records(_members())}
        yield Project(ledger, ObjectStore(project_dir), split.body["split"], question.body["question"], dataset)


def _members():  # imported late, so that collecting tests stays light
    from sqlalchemy import select

    from metier.ledger.schema import member

    return select(member.c.dataset)
