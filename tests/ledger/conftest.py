import shutil
from collections.abc import Callable, Iterator
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
    Transform,
    finish_look,
    freeze_question,
    move_alias,
    open_look,
    predict,
    record_dataset,
    record_edges,
    record_rows,
    record_source,
    record_split,
    record_training,
    record_transform,
    register_model,
    seal_holdout,
    spend,
    start_run,
)

from .servers import NO_SERVER, SERVER_URL, Place, Server

HOLDOUT_BYTES = b"the hold-out rows, as a pack"
QUESTION = {"decision": {"alpha": 0.05, "margin": 0.03}, "metric": {"name": "all_pass"}}


class Project(NamedTuple):
    """A ledger with its store; of four rows one is held out."""

    ledger: Ledger
    store: ObjectStore
    split_id: str
    question_hash: str
    dataset: str
    place: Place


def fill(ledger: Ledger) -> None:
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


def fill_more(project: Project) -> None:
    """One finished look, one model under a name, one run with its prediction and spending."""
    ledger = project.ledger
    opened = open_look(
        ledger, project.store, split_id=project.split_id, question_hash=project.question_hash, arms_hash="arms",
        alpha=0.05 / 3, alpha_budget=0.05,
    )  # fmt: skip
    finish_look(ledger, opened.look.look_id, result_hash="scores")
    model_id = register_model(ledger, _identity(project, "a")).model_id
    record_training(ledger, model_id, dataset_version=project.dataset, fraction=1.0, seed=0)
    move_alias(ledger, "champion", model_id)
    run_id = start_run(ledger, stage="tune", inputs_hash="i", config_hash="c", stage_version="1")
    predict(ledger, run_id, "tune_minutes", predicted=6, low=4, high=8)
    spend(ledger, run_id, "machine_hour", 0.5)
    _fill_rest(project, model_id)


def _identity(project: Project, adapter_sha: str) -> ModelIdentity:
    return ModelIdentity(
        base_sha="b", adapter_sha=adapter_sha, template_sha="t", tokenizer_sha="k", dataset=project.dataset,
        config_hash="c",
    )  # fmt: skip


def _fill_rest(project: Project, model_id: str) -> None:
    """A changed row, a vote, an erased person and a model that went on from another: no table stays empty."""
    from metier.ledger import record_parent
    from metier.ledger.schema import erasure, row_subject, subject_key, vote

    ledger = project.ledger
    transform = record_transform(ledger, Transform(op="private_replaced", version="1", params={}))
    record_edges(ledger, transform, [("r1", "r0")])
    record_parent(ledger, register_model(ledger, _identity(project, "z")).model_id, model_id)
    key = {"subject_hash": "s", "key_ref": "subjects.keys", "destroyed_at": None}
    with ledger.writing("subjects_recorded") as transaction:
        transaction.put(subject_key, [key])
        transaction.put(row_subject, [{"row_id": "r3", "subject_hash": "s"}])
    cast = {"row_id": "r0", "annotator": "ben", "at": "2026-03-01T09:30:00Z", "value": "good", "seconds": 4.5}
    with ledger.writing("votes_recorded") as transaction:
        transaction.put(vote, [{**cast, "guideline_version": "1"}])
    with ledger.writing("subject_key_destroyed") as transaction:
        transaction.put(subject_key, [{**key, "destroyed_at": "2026-03-02T09:30:00Z"}])
    certificate = {
        "erasure_id": "e", "subject_hash": "s", "certificate_hash": "h",
        "object_ref": project.store.put(b"certificate"), "at": "2026-03-02T09:30:00Z",
    }  # fmt: skip
    with ledger.writing("subject_erased") as transaction:
        transaction.put(erasure, [certificate])


class Places:
    """Makes places for tests: on files by copying a folder, on PostgreSQL by copying a database as well."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.masters: dict[tuple[str, bool], Place] = {}
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        """The server, connected to when the first test needs it."""
        self._server = self._server or Server(self.root)
        return self._server

    def fresh(self, backend: str, project_dir: Path) -> Place:
        """An empty project."""
        return Place(project_dir, self.server.create(self.server.empty) if backend == "postgresql" else "")

    def copied(self, backend: str, project_dir: Path, *, is_full: bool) -> Place:
        """A copy of a filled project, made once for all tests."""
        if (backend, is_full) not in self.masters:
            self.masters[backend, is_full] = self._master(backend, is_full)
        master = self.masters[backend, is_full]
        shutil.copytree(master.project_dir, project_dir)
        return Place(project_dir, self.server.create(master.url) if master.url else "")

    def _master(self, backend: str, is_full: bool) -> Place:
        project_dir = self.root / f"{backend}-{is_full}"
        place = self.copied(backend, project_dir, is_full=False) if is_full else self.fresh(backend, project_dir)
        with place.open("ana") as ledger:
            if is_full:
                fill_more(project_of(place, ledger))
            else:
                fill(ledger)
        return place

    def close(self) -> None:
        """Remove the databases."""
        if self._server is not None:
            self._server.close()


def project_of(place: Place, ledger: Ledger) -> Project:
    """The filled project of a place."""
    (split,) = ledger.events(kind="split_recorded")
    (question,) = ledger.events(kind="question_frozen")
    (dataset,) = {member["dataset"] for member in ledger.records(_members())}
    store = ObjectStore(place.project_dir)
    return Project(ledger, store, split.body["split"], question.body["question"], dataset, place)


def _members():  # imported late, so that collecting tests stays light
    from sqlalchemy import select

    from metier.ledger.schema import member

    return select(member.c.dataset)


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.skipif(not SERVER_URL, reason=NO_SERVER))]
)
def backend(request: pytest.FixtureRequest) -> str:
    """Which database; a test that is about one of them names it with `only_sqlite` or `only_postgresql`."""
    return str(request.param)


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    made = Places(tmp_path_factory.mktemp("masters"))
    yield made
    made.close()


@pytest.fixture
def place(places: Places, backend: str, tmp_path: Path) -> Iterator[Place]:
    """An empty project of the test's own."""
    made = places.fresh(backend, tmp_path / "project")
    yield made
    _drop(places, made)


def _copy(places: Places, backend: str, tmp_path: Path, *, is_full: bool) -> Iterator[Project]:
    place = places.copied(backend, tmp_path / "project", is_full=is_full)
    with place.open("ana") as ledger:
        yield project_of(place, ledger)
    _drop(places, place)


def _drop(places: Places, place: Place) -> None:
    if place.url:
        places.server.drop(place.url)


@pytest.fixture
def project(places: Places, backend: str, tmp_path: Path) -> Iterator[Project]:
    """A sealed project of the test's own."""
    yield from _copy(places, backend, tmp_path, is_full=False)


@pytest.fixture
def full_project(places: Places, backend: str, tmp_path: Path) -> Iterator[Project]:
    """A project with a record in every table."""
    yield from _copy(places, backend, tmp_path, is_full=True)


@pytest.fixture
def found_in() -> Callable[..., str]:
    """What `verify_chain` finds, as text."""
    from metier.ledger import verify_chain

    return lambda ledger, **named: "\n".join(str(problem) for problem in verify_chain(ledger, **named))
