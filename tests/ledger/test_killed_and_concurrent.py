"""Two processes at once, and processes killed in the middle: what a reader finds afterwards."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metier.ledger import Ledger, finish_look, looks_of, record_rows, verify_chain, verify_objects
from metier.ledger.rows import RowRecord
from metier.ledger.seal import find_seal, seal_holdout

from .conftest import HOLDOUT_BYTES

START = """
import os, signal, sys
from pathlib import Path
from metier.ledger import *
def kill(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
project_dir = Path(sys.argv[1])
"""


def child(code: str, *args: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", START + code, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def assert_killed(process: "subprocess.Popen[str]") -> None:
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err


APPENDS = """
with Ledger.open(project_dir, actor=sys.argv[2]) as ledger:
    for i in range(25):
        record_rows(ledger, [RowRecord(row_id=f"{sys.argv[2]}{i}-{j}", origin_id="o") for j in range(10)])
print(project_key(project_dir).hex(), seal_key(project_dir).hex())
"""


def test_two_processes_share_one_new_ledger(tmp_path):
    both = [child(APPENDS, tmp_path, name) for name in ("ana", "ben")]
    outs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert outs[0][0] == outs[1][0]  # one pair of keys, whoever was first
    with Ledger.open(tmp_path) as ledger:
        assert verify_chain(ledger) == []
        events = ledger.events(kind="rows_recorded")
        assert [event.actor for event in events].count("ana") == 25
        assert [event.actor for event in events].count("ben") == 25
        assert ledger.head().seq == 51


@pytest.mark.parametrize(
    "kill_where",
    [
        "from metier.core import folders; folders.os.fsync = kill",  # the object is half on the disk
        "from metier.ledger import seal; seal.utc_now = kill",  # the object is whole, the ledger does not know it
        "import metier.ledger.ledger as chain; chain.event_hash = kill",  # the record is in the open transaction
    ],
)
def test_a_seal_killed_in_its_write_is_no_seal(project, kill_where):
    split_id = unsealed_split(project)
    head, refs = project.ledger.head(), list(project.store.refs())
    code = f"""
with Ledger.open(project_dir) as ledger:
    {kill_where}
    seal_holdout(ledger, ObjectStore(project_dir), b"new hold-out", split_id=sys.argv[2], num_rows=1)
"""
    assert_killed(child(code, project.ledger.project_dir, split_id))
    assert find_seal(project.ledger, split_id) is None
    assert project.ledger.head() == head
    assert verify_chain(project.ledger) == []
    if "fsync" in kill_where:
        assert list(project.store.refs()) == refs
    seal = seal_holdout(project.ledger, project.store, b"new hold-out", split_id=split_id, num_rows=1)
    assert find_seal(project.ledger, split_id) == seal
    assert verify_objects(project.ledger, project.store) == []


def unsealed_split(project) -> str:
    from metier.ledger import record_split

    return record_split(
        project.ledger, dataset_version=project.dataset, question_hash=project.question_hash,
        parts={"o1": "dev", "o0": "holdout"}, certificate={},
    ).split_id  # fmt: skip


def test_a_look_killed_before_it_shows_anything_is_the_same_look_afterwards(project):
    code = """
with Ledger.open(project_dir) as ledger:
    ObjectStore.get_encrypted = kill
    open_look(ledger, ObjectStore(project_dir), split_id=sys.argv[2], question_hash=sys.argv[3], arms_hash="arms",
              alpha=0.05, alpha_budget=0.05)
"""
    assert_killed(child(code, project.ledger.project_dir, project.split_id, project.question_hash))
    from metier.ledger import LookState, open_look

    (look,) = looks_of(project.ledger, project.question_hash)
    assert (look.state, look.result_hash) == (LookState.OPENED, None)
    opened = open_look(
        project.ledger, project.store, split_id=project.split_id, question_hash=project.question_hash,
        arms_hash="arms", alpha=0.05, alpha_budget=0.05,
    )  # fmt: skip
    assert (opened.resumed, opened.look, opened.rows_parquet) == (True, look, HOLDOUT_BYTES)
    finish_look(project.ledger, look.look_id, result_hash="scores")
    assert len(looks_of(project.ledger, project.question_hash)) == 1


def test_a_first_opening_killed_in_the_migration_starts_afresh(tmp_path):
    code = """
from alembic.operations import Operations
Operations.create_index = kill
import alembic.op; alembic.op.create_index = kill
Ledger.open(project_dir)
"""
    assert_killed(child(code, tmp_path))
    with Ledger.open(tmp_path) as ledger:
        assert ledger.head().seq == 1
        assert verify_chain(ledger) == []


def test_appends_killed_at_random_moments_are_whole_or_absent(tmp_path):
    code = """
ledger = Ledger.open(project_dir)
print("ready", flush=True)
i = ledger.head().seq
while True:
    record_rows(ledger, [RowRecord(row_id=f"{i}-{j}", origin_id="o") for j in range(200)])
    i += 1
"""
    wait = random.Random(5)
    for _ in range(4):
        process = child(code, tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(wait.uniform(0.02, 0.25))
        process.kill()
        assert_killed(process)
        with Ledger.open(tmp_path) as ledger:
            assert verify_chain(ledger) == []
            num_rows = sum(event.body["wrote"]["row"]["n"] for event in ledger.events(kind="rows_recorded"))
            assert len(ledger.records(_rows())) == num_rows == 200 * (ledger.head().seq - 1)
    with Ledger.open(tmp_path) as ledger:
        assert record_rows(ledger, [RowRecord(row_id="last", origin_id="o")]) == 1
        assert verify_chain(ledger) == []


def _rows():
    from sqlalchemy import select

    from metier.ledger.schema import row

    return select(row.c.row_id)


def test_a_reader_sees_one_state_while_another_writes(project, tmp_path):
    process = child(APPENDS, project.ledger.project_dir, "ben")
    while process.poll() is None:
        assert verify_chain(project.ledger) == []
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert Path(project.ledger.where).exists()


def test_threads_of_one_process_take_turns(project):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        heads = list(pool.map(lambda i: project.ledger.append("noted", {"i": i}), range(40)))
    assert len(heads) == 40
    assert sorted(event.body["i"] for event in project.ledger.events(kind="noted")) == list(range(40))
    assert verify_chain(project.ledger) == []
