"""Many processes at once, and processes killed in the middle: what a reader finds afterwards, on both databases."""

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from metier.ledger import (
    LookState,
    RowRecord,
    finish_look,
    looks_of,
    open_look,
    record_rows,
    record_split,
    verify_chain,
    verify_objects,
)
from metier.ledger.seal import find_seal, seal_holdout

from . import writers
from .conftest import HOLDOUT_BYTES

NUM_PROCESSES = 8
NUM_KILLS = 20


def assert_killed(process, pipe) -> None:
    process.join(60)
    pipe.close()
    assert process.exitcode == -signal.SIGKILL


def test_eight_processes_at_once_lose_nothing(place):
    """All of them open the ledger for the first time, and write 10 batches of 20 rows each."""
    started = [writers.start(writers.write_batches, place, f"p{i}", 10, 20) for i in range(NUM_PROCESSES)]
    said = [writers.heard(pipe) for _, pipe in started]
    for process, _ in started:
        process.join(60)
        assert process.exitcode == 0
    assert len({keys for keys, *_ in said}) == 1  # one pair of keys, whoever was first
    heads = [head for _, *heads in said for head in heads]
    with place.open() as ledger:
        assert verify_chain(ledger, known_heads=[head.hash for head in heads]) == []
        events = ledger.events(kind="rows_recorded")
        assert sorted(heads) == [(event.seq, event.hash) for event in events]
        assert sorted(event.actor for event in events) == sorted(
            f"p{i}" for i in range(NUM_PROCESSES) for _ in range(10)
        )
        assert place.run_sql("SELECT count(*) FROM row") == [(NUM_PROCESSES * 10 * 20,)]
        assert ledger.head().seq == 1 + NUM_PROCESSES * 10


def test_writers_killed_at_random_moments_leave_whole_batches(place):
    """Two writers at a time, each killed within some 60 ms of commits; what was reported as written is there."""
    wait = random.Random(5)
    reported = []
    with place.open() as ledger:
        for number in range(NUM_KILLS // 2):
            pair = [writers.start(writers.write_batches, place, f"{side}{number}", 0, 40) for side in "ab"]
            for _, pipe in pair:
                assert len(pipe.recv()) == 2  # its keys: the ledger is open
                reported.append(pipe.recv())
            for process, pipe in pair:
                time.sleep(wait.uniform(0, 0.06))
                process.kill()
                said = writers.heard(pipe)
                assert_killed(process, pipe)
                reported += said
            assert verify_chain(ledger, known_heads=[head.hash for head in reported]) == []
            wrote = [event.body["wrote"]["row"]["n"] for event in ledger.events(kind="rows_recorded")]
            assert set(wrote) <= {40}
        assert len(reported) > NUM_KILLS  # they were at work when they were killed
        assert record_rows(ledger, [RowRecord(row_id="last", origin_id="o")]) == 1
        assert verify_chain(ledger) == []


def test_a_writer_that_never_pauses_lets_others_write(place):
    """SQLite alone lets it write for seconds before another gets its turn: gaps of hundreds of events were seen."""
    with place.open("ana") as ledger:
        process, pipe = writers.start(writers.write_batches, place, "greedy", 0, 40)
        assert [len(pipe.recv()), pipe.recv().seq] == [2, 2]
        gaps = []
        for i in range(20):
            asked = ledger.head().seq
            gaps.append(ledger.append("noted", {"i": i}).seq - asked)
        process.kill()
        assert_killed(process, pipe)
        assert max(gaps) < 50, gaps
        assert len(ledger.events(kind="rows_recorded")) > 5  # it was at work all the time


@pytest.mark.parametrize("kill_where", ["object", "record", "event"])
def test_a_seal_killed_in_its_write_is_no_seal(project, kill_where):
    split_id = record_split(
        project.ledger, dataset_version=project.dataset, question_hash=project.question_hash,
        parts={"o1": "dev", "o0": "holdout"}, certificate={},
    ).split_id  # fmt: skip
    head, refs = project.ledger.head(), list(project.store.refs())
    assert_killed(*writers.start(writers.die_in_the_seal, project.place, kill_where, split_id))
    assert find_seal(project.ledger, split_id) is None
    assert project.ledger.head() == head
    assert verify_chain(project.ledger) == []
    if kill_where == "object":
        assert list(project.store.refs()) == refs
    seal = seal_holdout(project.ledger, project.store, b"new hold-out", split_id=split_id, num_rows=1)
    assert find_seal(project.ledger, split_id) == seal
    assert verify_objects(project.ledger, project.store) == []


def test_a_look_killed_before_it_shows_anything_is_the_same_look_afterwards(project):
    question = project.question_hash
    assert_killed(*writers.start(writers.die_in_the_look, project.place, project.split_id, question))
    (look,) = looks_of(project.ledger, question)
    assert (look.state, look.result_hash) == (LookState.OPENED, None)
    opened = open_look(
        project.ledger, project.store, split_id=project.split_id, question_hash=question, arms_hash="arms", alpha=0.05,
        alpha_budget=0.05,
    )  # fmt: skip
    assert (opened.resumed, opened.look, opened.pack) == (True, look, HOLDOUT_BYTES)
    finish_look(project.ledger, look.look_id, result_hash="scores")
    assert len(looks_of(project.ledger, question)) == 1


def test_a_first_opening_killed_in_the_migration_starts_afresh(place):
    place.run_sql(*DROP_ALL) if not place.is_sqlite else None
    assert_killed(*writers.start(writers.die_in_the_migration, place))
    with place.open() as ledger:
        assert ledger.head().seq == 1
        assert verify_chain(ledger) == []


DROP_ALL = ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"]


def test_a_reader_sees_one_state_while_another_writes(project):
    process, pipe = writers.start(writers.write_batches, project.place, "ben", 25, 10)
    num_checks = 0
    while process.is_alive():
        assert verify_chain(project.ledger) == []
        num_checks += 1
    assert len(writers.heard(pipe)) == 1 + 25
    assert num_checks > 1
    assert process.exitcode == 0


def test_threads_of_one_process_take_turns(project):
    with ThreadPoolExecutor(4) as pool:
        heads = list(pool.map(lambda i: project.ledger.append("noted", {"i": i}), range(40)))
    assert len({head.seq for head in heads}) == 40  # each is told of its own event
    events = {(event.seq, event.hash): event.body["i"] for event in project.ledger.events(kind="noted")}
    assert [events[head] for head in heads] == list(range(40))
    assert verify_chain(project.ledger) == []
