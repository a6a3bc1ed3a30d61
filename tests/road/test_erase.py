"""A person leaves: files, objects, caches and report hold nothing of them, models are named, what stays still verifies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metier.core.hashing import canonical_json
from metier.ledger import (
    Ledger,
    ModelIdentity,
    ModelState,
    find_model,
    move_alias,
    record_parent,
    record_training,
    register_model,
    registered_models,
)
from tests.road.running import copy_of, metier, one_core
from tests.road.small_project import LEAN, rows, write_project

PERSON = "Zuzana Quill-77"
TEXT = LEAN.replace('groups = ["customer"]', 'groups = ["customer"]\nsubject = ["customer"]')
TEXT = TEXT.replace("passes = 1.0", "passes = 2.0")  # rows that are read once are not stored
TRUNK = ".metier/trunk"
MARKS = ("Zuzana", "zuzana", "Quill-77", "quill-77")


def people() -> list[dict[str, str]]:
    """Orders of which some, in every part of the split, are of one person; one other row mentions her."""
    made = rows(90)
    for number in (3, 20, 41, 58, 66, 70, 79, 83, 88):
        order = f"A-{1000 + 7 * number}"
        made[number] |= {
            "customer": PERSON,
            "ask": f"{order}: my lamp is lost. Zuzana",
            "answer": f"Hi Zuzana: {order}.",
        }
    return made


@pytest.fixture(scope="module")
def with_person(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    project_dir = write_project(tmp_path_factory.mktemp("person") / "project", text=TEXT, records=people())
    with pytest.MonkeyPatch.context() as patch, one_core():
        patch.setenv("METIER_CACHE", str(cache_dir))
        ran = metier("run", "-C", project_dir, "--json")
    assert ran.code == 0, ran.err
    return project_dir


@pytest.fixture
def project(with_person: Path, tmp_path: Path) -> Iterator[Path]:
    project_dir = copy_of(with_person, tmp_path / "project")
    yield project_dir
    shutil.rmtree(project_dir)


def bytes_of(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()


def holding(folder: Path) -> list[str]:
    """Files in which a mark of the person stands."""
    return [
        str(path.relative_to(folder)) for path, data in bytes_of(folder) if any(mark.encode() in data for mark in MARKS)
    ]


def erase(project_dir: Path, *options: str) -> dict[str, Any]:
    ran = metier("erase", PERSON, "-C", project_dir, "--json", *options)
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def test_a_dry_run_says_what_would_go_and_changes_nothing(project: Path) -> None:
    before = dict(bytes_of(project))
    told = erase(project, "--dry-run")
    assert told["num_records"] == {"rows.jsonl": 9}
    assert sum(told["tombstones"].values()) == 9
    assert set(told["tombstones"]) == {"train", "dev", "holdout"}
    assert [model["action"] for model in told["models"]] == ["retire"]
    assert (told["is_done"], told["signature"]) == (False, "")
    after = dict(bytes_of(project))
    assert {str(p) for p in before if before[p] != after[p]} <= {str(project / ".metier" / "ledger.db")}
    assert "rows.jsonl" in holding(project)


def test_nothing_of_the_person_is_left_and_everything_still_verifies(project: Path) -> None:
    assert "rows.jsonl" in holding(project)
    (tune_dir,) = (project / ".metier" / "stages" / "tune").iterdir()
    said_dir = tune_dir / ".run.job"  # of a killed run in several processes
    said_dir.mkdir()
    (said_dir / "torchrun.log").write_text(f"rank 0: row {PERSON}: no trained token\n")
    done = erase(project)
    assert holding(project) == []
    assert tune_dir.exists() and not said_dir.exists()
    assert done["is_done"]
    assert len(done["rows"]) == 9
    verified = metier("verify", "-C", project, "--json")
    assert (verified.code, json.loads(verified.out)["problems"]) == (0, [])
    with Ledger.open(project) as ledger:
        assert [model.state for model in registered_models(ledger)] == [ModelState.RETIRED]
    talk = metier("chat", "where is it", "-C", project)
    assert talk.code == 1
    assert "was retired: it was trained on a row that was erased since. Train it anew: metier run" in talk.err
    assert not (project / ".metier/report/data.html").exists()


def test_hidden_states_of_the_rows_go_with_the_person(project: Path) -> None:
    assert list((project / TRUNK).glob("*/states-*.bin")), "the run stored what enters its adapted layers"
    erase(project, "--dry-run")
    assert (project / TRUNK).exists()
    erase(project)
    assert not (project / TRUNK).exists()


def test_the_certificate_is_signed_and_an_edited_one_does_not_check(project: Path) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    done = erase(project)
    assert json.loads((project / done["path"]).read_text()) == done
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(done["public_key"]))
    unsigned = {**done, "signature": "", "public_key": "", "path": ""}
    key.verify(bytes.fromhex(done["signature"]), canonical_json(unsigned))
    with pytest.raises(InvalidSignature):
        key.verify(bytes.fromhex(done["signature"]), canonical_json({**unsigned, "num_copies": 7}))


def test_the_other_rows_keep_their_ids_and_a_new_run_goes_on_without_the_person(project: Path) -> None:
    from metier.core.settings import DataConfig
    from metier.curate import read_rows
    from metier.ledger import project_key

    data = DataConfig(files=("rows.jsonl",), columns={"prompt": "ask", "reply": "answer"}, subject=("customer",))
    key = project_key(project)
    before = {row.meta.source_row: row.row_id for row in read_rows(data, project, key=key).rows}
    done = erase(project)
    after = {row.meta.source_row: row.row_id for row in read_rows(data, project, key=key).rows}
    assert len(after) == 81
    assert after.items() <= before.items()
    ran = metier("run", "-C", project, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["data"]["read"] == 81
    assert holding(project) == []
    assert metier("verify", "-C", project).code == 0
    again = metier("erase", PERSON, "-C", project, "--json")
    assert again.code == 0, "the second time finds the tombstones and certifies them"
    assert json.loads(again.out)["rows"] == done["rows"]


def test_a_record_that_comes_back_in_a_new_file_is_not_read(project: Path) -> None:
    erase(project)
    text = (project / "rows.jsonl").read_text()
    (project / "rows.jsonl").write_text(text + json.dumps(people()[3]) + "\n")
    ran = metier("check", "-C", project, "--json")
    told = json.loads(ran.out)["data"]
    assert told["failed"] == 1
    assert "about a person who was erased from this project; not read" in told["failures"][0]


def test_a_killed_erasure_is_finished_by_the_same_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metier.road import erase as room

    for step in ("_rewrite_objects", "_redact_report", "_certify"):
        with monkeypatch.context() as patch:

            def die(*_args: object, **_options: object) -> None:
                raise KeyboardInterrupt

            patch.setattr(room, step, die)
            assert metier("erase", PERSON, "-C", project).code == 130
    done = erase(project)
    assert len(done["rows"]) == 9
    assert holding(project) == []
    assert metier("verify", "-C", project).code == 0


def test_an_unknown_person_and_a_project_without_subjects_are_told(project: Path) -> None:
    ran = metier("erase", "Nobody", "-C", project)
    assert ran.code == 1
    assert "'Nobody': no record of rows.jsonl and none in the ledger has it in customer; expected the value" in ran.err
    text = (project / "metier.toml").read_text().replace('subject = ["customer"]\n', "")
    (project / "metier.toml").write_text(text)
    ran = metier("erase", PERSON, "-C", project)
    assert "[data] subject names no column, so no row says whom it is about" in ran.err


def test_models_of_a_chain_are_planned_parents_first(project: Path) -> None:
    with Ledger.open(project) as ledger:
        (first,) = registered_models(ledger)

        def grown(parent: str, adapter: str) -> str:
            made = register_model(
                ledger,
                ModelIdentity(base_sha="b" * 64, adapter_sha=adapter * 64, template_sha="c" * 64,
                              tokenizer_sha="d" * 64, dataset="e" * 64, config_hash="f" * 64),
            )  # fmt: skip
            record_parent(ledger, made.model_id, parent)
            return made.model_id

        second = grown(first.model_id, "1")
        third = grown(second, "2")
        apart = register_model(ledger, ModelIdentity(base_sha="b" * 64, adapter_sha="9" * 64, template_sha="c" * 64,
                                                     tokenizer_sha="d" * 64, dataset="e" * 64, config_hash="f" * 64))  # fmt: skip
        record_training(ledger, third, dataset_version=first.identity.dataset, fraction=0.5, seed=1)
        move_alias(ledger, "champion", third)
    done = erase(project)
    assert [model["model_id"] for model in done["models"]] == [first.model_id, second, third]
    assert [model["action"] for model in done["models"]] == ["retire", "retire", "retrain"]
    assert [model["after"] for model in done["models"]] == [[], [first.model_id], [second]]
    assert "in use as champion" in done["models"][2]["why"]
    with Ledger.open(project) as ledger:
        assert find_model(ledger, apart.model_id).state is ModelState.CANDIDATE
        assert find_model(ledger, "champion").state is ModelState.RETIRED
