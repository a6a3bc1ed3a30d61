"""Speed of the ledger: rows recorded, a dataset and a split of them, changes, verification, one row's history.

    python benchmarks/ledger_speed.py --json                     # 100,000 rows on SQLite, five runs, about a minute
    METIER_TEST_POSTGRES=postgresql://... python benchmarks/ledger_speed.py --json     # and on a server
    python benchmarks/ledger_speed.py --rows 1000 --runs 1

Every run starts from an empty ledger. Wall and processor seconds of this process are medians over the runs; `peak_mib`
is the most memory the process ever used, so it covers all of it. On PostgreSQL the server's own processor time is not
in `cpu_s`. Ids are random, as keyed hashes are.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from metier.ledger import (
    Ledger,
    RowRecord,
    RowState,
    freeze_question,
    record_dataset,
    record_rows,
    record_split,
    row_history,
    verify_chain,
)

PARTS = ("train", "train", "train", "train", "dev", "holdout")
CHUNK = 2_048
"""Rows of one event where they are recorded chunk by chunk, as curation does."""


def made_up(num_rows: int, seed: int) -> list[RowRecord]:
    """Records with random ids; a tenth is set aside."""
    draw = random.Random(seed)
    rows = []
    for number in range(num_rows):
        ref = f"{number // CHUNK:064x}"
        row = RowRecord(
            row_id=f"{draw.getrandbits(128):032x}", origin_id=f"{draw.getrandbits(128):032x}", object_ref=ref,
            meta_hash=f"{draw.getrandbits(256):064x}",
        )  # fmt: skip
        aside = number % 10 == 0
        rows.append(replace(row, state=RowState.QUARANTINED, reason="near_duplicate") if aside else row)
    return rows


def one_run(open_ledger: Callable[[Path], Ledger], rows: list[RowRecord]) -> dict[str, dict[str, float]]:
    """Seconds of every step, from an empty ledger."""
    found: dict[str, dict[str, float]] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        found[step] = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}

    with tempfile.TemporaryDirectory() as folder, open_ledger(Path(folder)) as ledger:
        half = len(rows) // 2
        with timed("record_first_half_at_once"):
            record_rows(ledger, rows[:half])
        with timed("record_second_half_in_chunks"):
            for start in range(half, len(rows), CHUNK):
                record_rows(ledger, rows[start : start + CHUNK])
        with timed("record_again_unchanged"):
            record_rows(ledger, rows)
        with timed("dataset"):
            version = record_dataset(ledger, [row.row_id for row in rows])
        question = freeze_question(ledger, {"metric": {"name": "mean"}})
        parts = {row.origin_id: PARTS[number % len(PARTS)] for number, row in enumerate(rows)}
        with timed("split"):
            record_split(
                ledger, dataset_version=version, question_hash=question.hash, parts=parts, certificate={"shared": 0}
            )
        with timed("change_a_tenth"):
            gone = [replace(row, state=RowState.ERASED, reason="request") for row in rows[::10]]
            record_rows(ledger, gone)
        with timed("verify"):
            problems = verify_chain(ledger)
        assert problems == [], problems[:3]
        with timed("history_of_one_row"):
            row_history(ledger, rows[1].row_id)
    return found


def backends() -> dict[str, Callable[[Path], Ledger]]:
    """How a fresh ledger is opened, by database; PostgreSQL gets a schema of its own each time."""
    opened: dict[str, Callable[[Path], Ledger]] = {"sqlite": Ledger.open}
    server = os.environ.get("METIER_TEST_POSTGRES", "")
    if not server:
        return opened

    def open_on_server(project_dir: Path) -> Ledger:
        import psycopg

        name = f"bench_{uuid.uuid4().hex}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA "{name}"')
        joint = "&" if "?" in server else "?"
        return Ledger.open(project_dir, url=f"{server}{joint}options=-csearch_path%3D{name}")

    return opened | {"postgresql": open_on_server}


def medians(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The median of every figure over the runs, with the range of the wall seconds."""
    steps: dict[str, dict[str, float]] = {}
    for step in runs[0]:
        walls = sorted(run[step]["wall_s"] for run in runs)
        steps[step] = {
            "wall_s": statistics.median(walls), "wall_s_min": walls[0], "wall_s_max": walls[-1],
            "cpu_s": statistics.median(run[step]["cpu_s"] for run in runs),
        }  # fmt: skip
    return steps


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    args = parser.parse_args(argv)
    rows = made_up(args.rows, args.seed)
    found: dict[str, Any] = {"rows": args.rows, "runs": args.runs}  # Any: figures by name
    for backend, open_ledger in backends().items():
        found[backend] = medians([one_run(open_ledger, rows) for _ in range(args.runs)])
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if args.json:
        print(json.dumps(found))
        return 0
    for backend in (name for name in found if isinstance(found[name], dict)):
        for step, figures in found[backend].items():
            print(f"{backend:>10}  {step:<30} {figures['wall_s']:7.2f} s wall {figures['cpu_s']:7.2f} s cpu")
    return 0


if __name__ == "__main__":
    sys.exit(main())
