"""Back-test of the learning curve: bands predicted from a quarter of the rows, against what the rest then gave.

    python benchmarks/curve_backtest.py --json --record scores.json  (eight public tasks, thirteen chains each)
    python benchmarks/curve_backtest.py --json --again scores.json  (trains nothing: predicts anew from those scores)
    python benchmarks/curve_backtest.py --quick                      (made-up tasks, in seconds: checks the script)

Every chain is its own nested order of rows. Two cheap arms are trained on 1/32, 1/16, 1/8 and 1/4 of them; from each
chain alone the 80 % band at 1/2 and at all rows is predicted and then measured, on the same dev rows. Coverage is that
of bands, with a standard error over tasks; the interval score (Gneiting & Raftery 2007, smaller is better) is compared
with two naive bands, around the last value and along the last slope, as wide as two draws of the dev rows differ.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from metier.assess.curve import fit_curve
from metier.core.report import CurvePoint

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MAX_TRAIN, MAX_DEV, LEVEL = 4096, 800, 0.8
PARTS, HORIZONS = (32, 16, 8, 4), (2, 1)
BAND = 1.2816 * 2**0.5
"""Half a naive 80 % band over the binomial error: the difference of two draws of the dev rows."""
MADE_UP, TELL_EVERY, NUM_CHAINS = "made up ", 26, 13
Pairs = list[tuple[str, str]]


def columns(path: str, text: str, label: str) -> Pairs:
    """Two columns of a CSV file."""
    csv.field_size_limit(10**8)
    with (DATA / path).open(encoding="utf-8", newline="") as file:
        return [(row[text], row[label]) for row in csv.DictReader(file) if row[text] and row[label]]


def lines(path: Path) -> list[dict[str, Any]]:  # Any: JSON values
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tables() -> Pairs:
    """Question about a table -> kind of answer."""
    rows = [row for part in ("dev", "test_gold") for row in lines(DATA / f"tatqa/questions_{part}.jsonl")]
    return [(row["question"], row["answer_type"]) for row in rows]


def biases() -> Pairs:
    """Context and question -> what the question is about."""
    rows = [row for path in sorted((DATA / "bbq").glob("*.jsonl")) for row in lines(path)]
    return [(f"{row['context']} {row['question']}", row["category"]) for row in rows]


def entailments() -> Pairs:
    """Text and hypothesis -> whether it follows: words alone do not tell, the curve is flat."""
    with (DATA / "snow2008_rte/rte_items.csv").open(encoding="utf-8", newline="") as file:
        return [(f"{row['text']} {row['hypothesis']}", row["gold"]) for row in csv.DictReader(file)]


TASKS: dict[str, Callable[[], Pairs]] = {
    "banking77": lambda: columns("banking77/train.csv", "text", "category"),
    "bitext_support": lambda: columns("bitext_support/bitext_customer_support.csv", "instruction", "intent"),
    "it_tickets": lambda: columns("it_tickets/it_tickets_sample.csv", "Document", "Topic_group"),
    "cfpb_complaints": lambda: columns("cfpb_complaints/cfpb_narratives.csv", "narrative", "product"),
    "mts_dialog": lambda: columns("mts_dialog/train.csv", "dialogue", "section_header"),
    "tatqa": tables,
    "bbq": biases,
    "snow2008_rte": entailments,
}


def made_up(seed: int) -> Pairs:
    """Rows of eight labels, each with words of its own among common ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(700):
        label = int(rng.integers(8))
        words = [f"w{label}x{rng.integers(40)}" if rng.random() < 0.15 else f"c{rng.integers(200)}" for _ in range(12)]
        rows.append((" ".join(words), str(label)))
    return rows


@cache
def pairs_of(task: str) -> Pairs:
    """The rows of a public task, or of a made-up one."""
    return TASKS[task]() if task in TASKS else made_up(int(task.removeprefix(MADE_UP)))


ARMS: dict[str, Callable[[], Any]] = {  # Any: scikit-learn's estimators
    "linear": lambda: make_pipeline(
        TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10.0, max_iter=300, solver="lbfgs")
    ),
    "nearest": lambda: make_pipeline(TfidfVectorizer(sublinear_tf=True), KNeighborsClassifier(3, metric="cosine")),
}


def chain_scores(task: str, arm: str, chain: int) -> dict[str, Any]:  # Any: numbers and names
    """Dev accuracy after each number of rows of one nested chain, and the number of dev rows."""
    pairs, make = pairs_of(task), ARMS[arm]
    order = np.random.default_rng([2026, chain, *task.encode()]).permutation(len(pairs))
    num_dev = min(MAX_DEV, len(pairs) // 4)
    dev, train = [pairs[i] for i in order[:num_dev]], [pairs[i] for i in order[num_dev:]][:MAX_TRAIN]
    train = train[: len(train) // PARTS[0] * PARTS[0]]  # every part is whole, and the last four times the largest known
    scores: dict[int, float] = {}
    for part in (*PARTS, *HORIZONS):
        rows = train[: len(train) // part]
        labels = {label for _, label in rows}
        if len(labels) < 2:
            continue
        model = make().fit([text for text, _ in rows], [label for _, label in rows])
        found = model.predict([text for text, _ in dev])
        scores[len(rows)] = float(np.mean([said == gold for said, (_, gold) in zip(found, dev, strict=True)]))
    return {"task": task, "arm": arm, "chain": chain, "num_dev": num_dev, "scores": sorted(scores.items())}


def interval_score(low: float, high: float, actual: float) -> float:
    """Width, and ten times what an 80 % band misses by."""
    return high - low + 2 / (1 - LEVEL) * (max(0.0, low - actual) + max(0.0, actual - high))


def predictions(record: dict[str, Any]) -> list[dict[str, Any]]:  # Any: numbers and names
    """Both horizons of one chain of one arm, from what `chain_scores` gave."""
    sizes, num_dev = [(int(n), float(score)) for n, score in record["scores"]], record["num_dev"]
    known = [CurvePoint(num_train=n, chain_seed=0, train_seed=0, score=score) for n, score in sizes[:-2]]
    fit, last = fit_curve(known, num_dev=num_dev), known[-1].score
    found = []
    for size, actual in sizes[-2:]:
        band = fit.forecast(size, level=LEVEL)
        times = size / known[-1].num_train
        slope = last + (last - known[-2].score) * float(np.log2(times))
        half = BAND * (max(last * (1 - last), 1 / num_dev) / num_dev) ** 0.5
        found.append({
            **{name: record[name] for name in ("task", "arm", "chain")},
            "times": round(times, 2), "low": band.low, "high": band.high, "mean": fit.mean(size), "actual": actual,
            "covered": band.low <= actual <= band.high,
            "score": interval_score(band.low, band.high, actual),
            "score_last_value": interval_score(last - half, last + half, actual),
            "score_last_slope": interval_score(slope - half, slope + half, actual),
        })  # fmt: skip
    return found


def in_processes(work: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:  # Any: what `work` takes
    """`work` of every call, in the order of `calls`, on every core: one thread a process, so that none waits."""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(work, *call): place for place, call in enumerate(calls)}
        found: list[Any] = [None] * len(calls)
        try:
            for number, done in enumerate(as_completed(waiting), 1):
                found[waiting[done]] = done.result()
                if not number % TELL_EVERY:
                    print(f"{work.__name__}: {number} of {len(calls)}", file=sys.stderr)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:  # Any: numbers and names
    """Coverage with its standard error over tasks, interval scores, and the same for each task."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        by_task.setdefault(row["task"], []).append(row)

    def mean(rows: Sequence[dict[str, Any]], name: str) -> float:
        return round(statistics.fmean(float(row[name]) for row in rows), 4)

    names = ("covered", "score", "score_last_value", "score_last_slope")
    tasks = {task: {name: mean(rows, name) for name in names} for task, rows in by_task.items()}
    covered = [values["covered"] for values in tasks.values()]
    mcse = statistics.stdev(covered) / len(covered) ** 0.5 if len(covered) > 1 else float("nan")
    overall = {name: mean(found, name) for name in names}
    return {
        "num_predictions": len(found),
        **overall,
        "covered_mcse": round(mcse, 4),
        "covers": abs(overall["covered"] - LEVEL) <= 3 * mcse,
        "beats_naive": overall["score"] < min(overall["score_last_value"], overall["score_last_slope"]),
        "by_times": {times: mean([r for r in found if r["times"] == times], "covered") for times in (2.0, 4.0)},
        "tasks": tasks,
    }


def main() -> int:
    """Predict, measure, and print one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=None, help="orders of rows a task (default 13)")
    parser.add_argument("--quick", action="store_true", help="made-up tasks: checks the script")
    parser.add_argument("--json", action="store_true", help="only the JSON object on stdout")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the scores of every chain")
    parser.add_argument("--again", type=Path, metavar="FILE", help="train nothing: predict from the scores in FILE")
    args = parser.parse_args()
    if args.again and (args.quick or args.record or args.chains):
        parser.error("--again reads its scores from FILE; leave out --quick, --record and --chains.")
    tasks = [f"{MADE_UP}{seed}" for seed in range(2)] if args.quick else list(TASKS)
    chains = range(args.chains or (2 if args.quick else NUM_CHAINS))
    if args.again is not None:
        records = json.loads(args.again.read_text(encoding="utf-8"))
    else:
        records = in_processes(chain_scores, [(task, arm, chain) for task in tasks for arm in ARMS for chain in chains])
    if args.record is not None:
        args.record.write_text(json.dumps(records), encoding="utf-8")
    found = [row for rows in in_processes(predictions, [(record,) for record in records]) for row in rows]
    print(json.dumps(summary(found), indent=None if args.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
