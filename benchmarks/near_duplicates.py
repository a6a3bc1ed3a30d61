"""Near-duplicates: these pairs beside datasketch's MinHashLSH on the same texts, and a million rows in bounded memory.

    python benchmarks/near_duplicates.py --json > near_duplicates.json
    python benchmarks/near_duplicates.py --rows 1000000 --json > near_duplicates_1m.json

Rows are recombined from two public sets, it_tickets (16,501) and bitext_support (4,514), in their own shares: a ticket
is the start of one ticket and the end of another, a question the start and end of two questions, its answer the
sentences of their two answers. 2 % of the rows are then copies of another row with case and blanks changed, 3 % copies
with one word changed (of texts long enough to stay at .8). Everything follows from the seed.

Three sides take turns, each in a process of its own, over one text a row (prompt and answer): `metier` lists exact
pairs; `datasketch_defaults` does what its documentation shows, threshold .8 and nothing else set; `datasketch_best`
gets this project's shingles as numbers (no hashing, no strings), batched updates, no duplicate check, the fastest of
the bands tried that miss a pair at .8 with a chance below .001, and its candidates verified. Precision and recall are
against all pairs of the first 20,000 rows, listed by a sparse product that shares no code with either side.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import platform
import random
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
THRESHOLD = 0.8
TRUTH_ROWS = 20_000
CHUNK_ROWS = 2048  # rows a stage reads at once
BANDS = ((10, 3), (16, 4), (20, 5), (27, 6))  # each misses a pair at .8 with a chance below .001
SENTENCE = re.compile(r"(?<=[.!?])\s+")


class Made(NamedTuple):
    """One made row."""

    source: str
    prompt: str
    reply: str
    label: str | None
    copy_of: int
    """Row it is a planted copy of; -1 for the others."""

    @property
    def text(self) -> str:
        """What is compared: as `conversation_text` has it."""
        return f"{self.prompt}\n{self.reply}"


def public_rows() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Tickets with their queue, and questions with their answer."""
    with (DATA / "it_tickets" / "it_tickets_sample.csv").open(newline="", encoding="utf-8") as file:
        tickets = [(row["Document"], row["Topic_group"]) for row in csv.DictReader(file)]
    with (DATA / "bitext_support" / "bitext_customer_support.csv").open(newline="", encoding="utf-8") as file:
        questions = [(row["instruction"], row["response"]) for row in csv.DictReader(file)]
    return tickets, questions


def spliced(rng: random.Random, first: list[str], second: list[str]) -> list[str]:
    """The start of one list and the end of another."""
    return first[: round(len(first) * rng.uniform(0.3, 0.7))] + second[round(len(second) * rng.uniform(0.3, 0.7)) :]


def made_rows(num: int, seed: int) -> Iterator[Made]:
    """Rows by the rules of the module; planted copies repeat one of the last 1,000 rows."""
    rng = random.Random(seed)
    tickets, questions = public_rows()
    recent: list[tuple[int, Made]] = []
    for number in range(num):
        kind = rng.random()
        place, base = rng.choice(recent) if recent else (-1, None)
        if base is not None and kind < 0.02:
            row = base._replace(prompt="  ".join(base.prompt.upper().split(" ")), copy_of=place)
        elif base is not None and kind < 0.05 and len(base.prompt.split()) >= 32:
            changed = base.prompt.split()
            changed[rng.randrange(3, len(changed) - 3)] = "otherwise"
            row = base._replace(prompt=" ".join(changed), copy_of=place)
        elif rng.random() < len(tickets) / (len(tickets) + len(questions)):
            (first, label), (second, _) = rng.choice(tickets), rng.choice(tickets)
            row = Made("it_tickets", " ".join(spliced(rng, first.split(), second.split())), label, label, -1)
        else:
            (first, one), (second, two) = rng.choice(questions), rng.choice(questions)
            reply = " ".join(spliced(rng, SENTENCE.split(one), SENTENCE.split(two)))
            row = Made("bitext_support", " ".join(spliced(rng, first.split(), second.split())), reply, None, -1)
        yield row
        recent = [*recent[-999:], (number, row)] if row.copy_of < 0 else recent


def shingle_texts(text: str) -> set[str]:
    """The shingles of a text as strings: what a user of datasketch would make of it."""
    from metier.core.shingles import words

    found = words(text)
    found += [""] * (3 - len(found)) if found else []
    return {" ".join(found[i : i + 3]) for i in range(len(found) - 2)}


def metier_side(texts: list[str]) -> set[tuple[int, int]]:
    """Exact pairs."""
    from metier.core.similarity import near_pairs, shingles_of

    chunks = near_pairs(shingles_of(texts), THRESHOLD)
    return {pair for pairs in chunks for pair in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)}


def datasketch_defaults(texts: list[str]) -> set[tuple[int, int]]:
    """The documented use: one update a shingle, insert all, query all."""
    from datasketch import MinHash, MinHashLSH

    index, hashes = MinHashLSH(threshold=THRESHOLD), []
    for i, text in enumerate(texts):
        one = MinHash()
        for shingle in shingle_texts(text):
            one.update(shingle.encode())
        hashes.append(one)
        index.insert(i, one)
    return {(j, i) for i, one in enumerate(hashes) for j in index.query(one) if j < i}


def datasketch_best(texts: list[str], bands: tuple[int, int]) -> set[tuple[int, int]]:
    """As fast as it was made to go: numbers for shingles, batched updates, one pass of query and insert, verified."""
    import numpy as np
    from datasketch import MinHash, MinHashLSH

    from metier.core.similarity import shingles_of

    made = shingles_of(texts)
    low = (made.code_S & np.uint64(0xFFFFFFFF)).tolist()
    start = made.start_N.tolist()
    sets = [low[start[i] : start[i + 1]] for i in range(len(texts))]
    index = MinHashLSH(num_perm=bands[0] * bands[1], params=bands)
    found: set[tuple[int, int]] = set()
    for i, one in enumerate(MinHash.generator(sets, num_perm=bands[0] * bands[1], hashfunc=int)):
        mine = set(sets[i])
        for j in index.query(one):
            common = len(mine.intersection(sets[j]))
            if common >= THRESHOLD * (len(mine) + len(sets[j]) - common) - 1e-9:
                found.add((j, i))
        index.insert(i, one, check_duplication=False)
    return found


def peak_mib(start: bool = False) -> float:
    """Peak memory of this process since the last start, from the kernel's own counters, in MiB."""
    if start:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def in_a_process(side: Callable[..., set[tuple[int, int]]], *args: Any) -> dict[str, Any]:
    """Run one side in a fork of its own: seconds, memory above what it started with, pairs."""

    def work(conn: Connection) -> None:
        import datasketch  # noqa: F401  # imports are not what is timed

        import metier.core.similarity  # noqa: F401  # imports are not what is timed

        held = peak_mib(start=True)
        start, cpu = time.perf_counter(), time.process_time()
        found = side(*args)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        conn.send({"seconds": seconds, "cpu_s": cpu, "peak_mib": peak_mib() - held, "pairs": found})

    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(there,))
    process.start()
    result: dict[str, Any] = here.recv()
    process.join()
    return result


def all_pairs(texts: list[str]) -> set[tuple[int, int]]:
    """Every pair of the threshold, by a sparse product over strings: no code in common with any side."""
    import numpy as np
    import scipy.sparse as sp

    number: dict[str, int] = {}
    sets = [[number.setdefault(s, len(number)) for s in shingle_texts(text)] for text in texts]
    start = np.cumsum([0, *map(len, sets)])
    flat = np.fromiter((s for one in sets for s in one), dtype=np.int64)
    matrix = sp.csr_array((np.ones(len(flat), dtype=np.int32), flat, start), shape=(len(texts), len(number)))
    size, other = np.diff(start), matrix.T.tocsr()
    found: set[tuple[int, int]] = set()
    for low in range(0, len(texts), 500):
        shared = (matrix[low : low + 500] @ other).tocoo()
        i, j, common = shared.row + low, shared.col, shared.data
        near = (i < j) & (common >= THRESHOLD * (size[i] + size[j] - common) - 1e-9)
        found |= set(zip(i[near].tolist(), j[near].tolist(), strict=True))
    return found


def compared(rows: list[Made], rounds: int) -> dict[str, Any]:
    """The three sides in turns, and what they find against the truth."""
    texts = [row.text for row in rows]
    mib = sum(len(text.encode()) for text in texts) / 2**20
    tried = {bands: in_a_process(datasketch_best, texts[:5000], bands)["seconds"] for bands in BANDS}
    bands = min(tried, key=lambda key: tried[key])
    sides: dict[str, tuple[Any, ...]] = {
        "metier": (metier_side, texts),
        "datasketch_defaults": (datasketch_defaults, texts),
        "datasketch_best": (datasketch_best, texts, bands),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            runs[name].append(in_a_process(*call))
            print(f"{name} {runs[name][-1]['seconds']:.1f} s", file=sys.stderr)
    truth = all_pairs(texts[:TRUTH_ROWS])
    planted = {(row.copy_of, i) for i, row in enumerate(rows) if row.copy_of >= 0}
    report: dict[str, Any] = {"rows": len(rows), "mib": mib, "rounds": rounds}
    report["bands_tried_s"] = {f"{num}x{width}": seconds for (num, width), seconds in tried.items()}
    report["truth"] = {"rows": min(TRUTH_ROWS, len(rows)), "pairs": len(truth), "planted": len(planted)}
    for name, results in runs.items():
        seconds = statistics.median(result["cpu_s"] for result in results)
        found = results[0]["pairs"]
        judged = {pair for pair in found if pair[1] < TRUTH_ROWS}
        report[name] = {
            "seconds": [result["seconds"] for result in results],
            "cpu_s": [result["cpu_s"] for result in results],
            "rows_per_cpu_s": len(rows) / seconds,
            "mib_per_cpu_s": mib / seconds,
            "peak_mib": max(result["peak_mib"] for result in results),
            "pairs": len(found),
            "recall": len(judged & truth) / len(truth),
            "precision": len(judged & truth) / max(1, len(judged)),
            "planted_found": len(planted & found),
        }
    for name in ("datasketch_defaults", "datasketch_best"):
        for unit in ("seconds", "cpu_s"):  # on a shared machine the processor's time tells more than the clock's
            ratios = [b[unit] / a[unit] for a, b in zip(runs["metier"], runs[name], strict=True)]
            report[name][f"times_slower_{unit}"] = statistics.median(ratios)
    return report


def as_row(made: Made, number: int) -> Any:
    """The row a project would have read."""
    from metier.core.rows import Message, Meta, Role, Target, TargetKind, make_row

    return make_row(
        b"benchmark",
        messages=(Message(role=Role.USER, content=made.prompt), Message(role=Role.ASSISTANT, content=made.reply)),
        target=Target(kind=TargetKind.LABEL if made.label else TargetKind.REPLY, label=made.label),
        meta=Meta(source=made.source, source_row=number),
    )


def pipeline(num: int, seed: int) -> dict[str, Any]:
    """Columns, survivors and the certificate's join for any number of rows, never holding their text."""
    import numpy as np

    from metier.core.similarity import Shingles, max_between, near_between, shingles_of
    from metier.curate.duplicates import DuplicateColumns, duplicate_columns, find_duplicates

    took = dict.fromkeys(("columns_cpu_s", "find_cpu_s", "shingles_cpu_s"), 0.0)
    parts, talks, copies = [], [], []
    stream = made_rows(num, seed)
    size = 0
    while made := list(islice(stream, CHUNK_ROWS)):
        rows = [as_row(row, len(copies) + i) for i, row in enumerate(made)]
        copies += [row.copy_of for row in made]
        size += sum(len(row.text) for row in made)
        start = time.process_time()
        parts.append(duplicate_columns(rows, key=b"benchmark"))
        took["columns_cpu_s"] += time.process_time() - start
        start = time.process_time()
        talks.append(shingles_of([row.text for row in made], key=b"benchmark"))
        took["shingles_cpu_s"] += time.process_time() - start
    start = time.process_time()
    columns = DuplicateColumns.joined(parts)
    parts.clear()
    found = find_duplicates(columns, THRESHOLD)
    took["find_cpu_s"] = time.process_time() - start
    talk = Shingles.joined(talks)
    talks.clear()
    planted = np.asarray(copies) >= 0
    report = {
        "rows": num, "mb_of_text": size / 1e6, **took,
        "rows_per_cpu_s": num / (took["columns_cpu_s"] + took["find_cpu_s"]),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "shingles": len(talk.code_S),
        "exact": int((found.reason_N == 1).sum()), "near": int((found.reason_N == 2).sum()),
        "planted": int(planted.sum()), "planted_gone": int((found.survivor_N[planted] >= 0).sum()),
        "others_gone": int((found.survivor_N[~planted] >= 0).sum()), "conflicting": len(found.conflicting),
    }  # fmt: skip
    del columns, found
    order = np.random.default_rng(seed).permutation(num)
    for sealed in (200, 2000, 20_000):
        if sealed * 2 < num:
            one = talk.take(np.sort(order[:sealed]))
            start = time.process_time()
            pairs = near_between(one, talk, THRESHOLD)
            middle = time.process_time()
            rest = talk.take(np.setdiff1d(order[sealed:], pairs.second))
            taken = time.process_time()
            best = max_between(one, rest)[0]
            report[f"holdout_{sealed}"] = {
                "near_between_cpu_s": middle - start, "purged": num - sealed - len(rest),
                "max_between_cpu_s": time.process_time() - taken, "max_similarity": best,
            }  # fmt: skip
            del rest
    report["peak_mib_with_certificate"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return report


def main() -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3, help="of the three sides in turns; above 200,000 rows none")
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not DATA.exists():
        print(f"{DATA}: not there; expected the public data. Put it beside the repository.", file=sys.stderr)
        return 2
    report: dict[str, Any] = {"python": platform.python_version(), "processor": platform.processor(), "seed": args.seed}
    start = time.perf_counter()
    report["pipeline"] = pipeline(args.rows, args.seed)
    report["pipeline"]["all_s"] = time.perf_counter() - start  # with making the rows
    if args.rows <= 200_000:
        report["compared"] = compared(list(made_rows(args.rows, args.seed)), args.rounds)
    print(json.dumps(report) if args.json else json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
