"""Annotators: what the statistics find where the truth is known, on public answers and on simulated ones.

    python benchmarks/annotators.py --json                 all of it, fresh seeds for the simulations
    python benchmarks/annotators.py --parts snow --data ../shared/data

Parts: `snow` (800 rows with ten crowd answers and expert gold, Snow et al. 2008: accuracy of the fitted labels beside
the majority over 3, 5 and 10 answers a row; whether ceiling and annotators' intervals hold), `rates` (how often
intervals hold the truth and how often somebody is flagged, simulated), `smoothing` (accuracy by pseudo-votes,
simulated), `time`.
"""

# Shapes: N rows, V votes, J annotators, K labels.

from __future__ import annotations

import argparse
import csv
import json
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metier.core.agreement import krippendorff_alpha, majority_vote
from metier.core.annotator_report import annotator_report
from metier.core.dawid_skene import accuracies, ceiling, dawid_skene, resample
from metier.core.label_slices import slice_tests
from metier.core.seeds import generator
from metier.core.votes import Vote, VoteTable, vote_table

AT = "2026-03-01T09:30:00.000000Z"
Z95 = 1.959963984540054
PLAIN, DEFAULT = 0.0, 4.0  # pseudo-votes: the published model, and ours
SIX = (0.95, 0.9, 0.8, 0.7, 0.6, 0.75)  # chance that each simulated annotator is right


def mean_interval(value_N: np.ndarray) -> dict[str, float | int]:
    """Mean over rows with its 95 % interval; a row's runs are averaged before, so rows are counted."""
    half = Z95 * float(value_N.std(ddof=1)) / len(value_N) ** 0.5
    mean = float(value_N.mean())
    return {"value": mean, "low": mean - half, "high": mean + half, "n": len(value_N)}


def read_snow(data: Path) -> tuple[list[Vote], dict[str, str]]:
    with (data / "snow2008_rte" / "rte_labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    votes = [Vote(row_id=r["item"], annotator=r["worker"], value=r["response"], at=AT) for r in rows]
    return votes, {r["item"]: r["gold"] for r in rows}


def some_votes(votes: Sequence[Vote], votes_a_row: int, rng: np.random.Generator) -> list[Vote]:
    """A random subset with so many votes on every row."""
    taken: dict[str, int] = {}
    kept = []
    for index in rng.permutation(len(votes)).tolist():
        vote = votes[index]
        taken[vote.row_id] = taken.get(vote.row_id, 0) + 1
        if taken[vote.row_id] <= votes_a_row:
            kept.append(vote)
    return kept


def snow(data: Path, num_seeds: int) -> list[dict[str, Any]]:
    """Accuracy against gold over 3, 5 and 10 answers a row, each over random subsets; the same rows throughout."""
    votes, gold = read_snow(data)
    lines = []
    for votes_a_row in (3, 5, 10):
        right: dict[str, list[np.ndarray]] = {"majority": [], "plain": [], "fitted": []}
        ties, claims, held, alphas = [], [], [], []
        for seed in range(num_seeds if votes_a_row < 10 else 1):
            rng = generator(seed, "snow", votes_a_row)
            table = vote_table(some_votes(votes, votes_a_row, rng))
            truth_N = np.array([table.labels.index(gold[row]) for row in table.rows])
            majority = majority_vote(table)
            fit = dawid_skene(table, smoothing=DEFAULT)
            right["majority"].append(majority.share_NK[np.arange(len(truth_N)), truth_N])
            right["plain"].append(dawid_skene(table, smoothing=PLAIN).label_N == truth_N)
            right["fitted"].append(fit.label_N == truth_N)
            ties.append(majority.num_ties)
            drawn = resample(fit, rng=rng)
            claims.append([estimate.value for estimate in ceiling(fit, drawn)])
            held.append(_gold_in_intervals(table, truth_N, accuracies(fit, drawn)))
            alphas.append(krippendorff_alpha(table, rng=rng, num_resamples=400))
        by_row = {name: np.mean(np.array(values, dtype=float), axis=0) for name, values in right.items()}
        one_vote, majority_claim, fitted_claim = np.mean(claims, axis=0)
        inside, of = np.sum(held, axis=0)
        lines.append(
            {
                "votes_a_row": votes_a_row, "subsets": len(ties), "ties": float(np.mean(ties)),
                "alpha": dict(zip(("value", "low", "high"), np.mean(alphas, axis=0).tolist(), strict=False)),
                **{name: mean_interval(value_N) for name, value_N in by_row.items()},
                "fitted_minus_majority": mean_interval(by_row["fitted"] - by_row["majority"]),
                "plain_minus_majority": mean_interval(by_row["plain"] - by_row["majority"]),
                "ceiling_claimed": {"one_vote": one_vote, "majority": majority_claim, "fitted": fitted_claim},
                "annotators_whose_gold_accuracy_is_in_the_interval": {"share": inside / of, "n": int(of)},
            }
        )  # fmt: skip
    return lines


def _gold_in_intervals(table: VoteTable, truth_N: np.ndarray, found: Sequence[Any]) -> tuple[int, int]:
    """Annotators with 20 votes or more whose share of right votes lies in their interval, and all such annotators."""
    inside = of = 0
    for annotator, estimate in enumerate(found):
        mine_V = table.annotator_V == annotator
        if estimate is None or mine_V.sum() < 20:
            continue
        share = float((table.label_V[mine_V] == truth_N[table.row_V[mine_V]]).mean())
        inside, of = inside + (estimate.low <= share <= estimate.high), of + 1
    return inside, of


def drawn_table(
    rng: np.random.Generator, truth_N: np.ndarray, confusion_JKK: np.ndarray, votes_a_row: int
) -> VoteTable:
    """Each row labelled by some annotators drawn at random, each by its confusion matrix."""
    num_rows, num_annotators = len(truth_N), len(confusion_JKK)
    annotator_V = np.sort(rng.random((num_rows, num_annotators)).argsort(axis=1)[:, :votes_a_row], axis=1).ravel()
    row_V = np.repeat(np.arange(num_rows), votes_a_row)
    upto_VK = np.cumsum(confusion_JKK[annotator_V, truth_N[row_V]], axis=1)[:, :-1]
    return VoteTable(
        rows=tuple(f"r{i:06d}" for i in range(num_rows)), annotators=tuple(f"a{j:03d}" for j in range(num_annotators)),
        labels=tuple(f"l{k:02d}" for k in range(confusion_JKK.shape[1])), row_V=row_V, annotator_V=annotator_V,
        label_V=(rng.random((len(row_V), 1)) > upto_VK).sum(axis=1), seconds_V=np.full(len(row_V), np.nan),
        num_replaced=0,
    )  # fmt: skip


def one_coin(accuracy: Sequence[float], num_labels: int = 2) -> np.ndarray:
    right = np.array(accuracy)[:, None, None]
    return right * np.eye(num_labels) + (1 - right) / (num_labels - 1) * (1 - np.eye(num_labels))


def differing_rows(rng: np.random.Generator, num_rows: int) -> np.ndarray:
    """Label 1 on 30 % of the rows of one slice and 60 % of the other."""
    return (rng.random(num_rows) < np.where(np.arange(num_rows) < num_rows // 2, 0.3, 0.6)).astype(np.int64)


def regions(table: VoteTable) -> dict[str, dict[str, str]]:
    half = len(table.rows) // 2
    return {"region": {row: "north" if i < half else "south" for i, row in enumerate(table.rows)}}


def rates(reps: int, seed: int) -> list[dict[str, Any]]:
    """How often intervals hold the truth, and how often somebody is flagged."""
    rng = generator(seed, "rates")
    lines = []
    held = 0
    for _ in range(reps):  # even shares and .8 right: a pair agrees on .68, so alpha is 1 - .32 / .5
        table = drawn_table(rng, rng.integers(0, 2, 80), one_coin([0.8] * 3), 3)
        found = krippendorff_alpha(table, rng=rng, num_resamples=300)
        held += found.low <= 0.36 <= found.high
    lines.append(rate("alpha's interval holds the truth, 80 rows of 3 votes", held, reps, nominal=0.95))
    for votes_a_row in (3, 4):
        accuracy_held, ceiling_held = np.zeros(len(SIX)), np.zeros(3)
        few = max(1, reps // 10)  # each repetition is 100 refits
        for _ in range(few):
            truth_N = rng.integers(0, 2, 150)
            table = drawn_table(rng, truth_N, one_coin(SIX), votes_a_row)
            fit = dawid_skene(table)
            drawn = resample(fit, rng=rng, num_resamples=100)
            estimates = [estimate for estimate in accuracies(fit, drawn) if estimate is not None]
            accuracy_held += [e.low <= a <= e.high for e, a in zip(estimates, SIX, strict=True)]
            real = real_ceilings(table, fit.label_N, truth_N)
            ceiling_held += [e.low <= r <= e.high for e, r in zip(ceiling(fit, drawn), real, strict=True)]
        case = f"150 rows of {votes_a_row} votes, 6 annotators"
        lines.append(rate(f"an annotator's interval holds the accuracy, {case}", accuracy_held.sum(), few * 6, 0.95))
        for name, times in zip(("one vote", "majority", "fitted"), ceiling_held, strict=True):
            lines.append(rate(f"the ceiling of {name} holds what a faultless model scores, {case}", times, few, 0.95))
    return lines + flags(reps, rng)


def real_ceilings(table: VoteTable, label_N: np.ndarray, truth_N: np.ndarray) -> tuple[float, float, float]:
    """What a faultless model scores against one vote, the majority and the fitted label."""
    vote_N = np.add.reduceat(table.label_V == truth_N[table.row_V], table.start_N) / table.votes_N
    voted_N = majority_vote(table).share_NK[np.arange(len(truth_N)), truth_N]
    return float(vote_N.mean()), float(voted_N.mean()), float((label_N == truth_N).mean())


def flags(reps: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """How often somebody is flagged where the rows differ, and where one annotator does."""
    lines = []
    for votes_a_row in (2, 4):
        accused = plain = 0
        for _ in range(reps):
            table = drawn_table(rng, differing_rows(rng, 200), one_coin(SIX), votes_a_row)
            tests = slice_tests(dawid_skene(table), regions(table), rng=rng)
            accused += any(test.flagged for test in tests)
            plain += any(test.rates_p is not None and test.rates_p < 0.05 / 6 for test in tests)
        case = f"only the rows differ, 200 rows of {votes_a_row} votes"
        lines.append(rate(f"somebody is flagged; {case}", accused, reps, nominal=0.05))
        lines.append(rate(f"somebody's label rates differ (not our flag); {case}", plain, reps, nominal=None))
    for turned in (0.2, 0.4):
        caught = accused = 0
        for _ in range(max(1, reps // 2)):
            table = drawn_table(rng, differing_rows(rng, 300), one_coin([0.85] * 6), 4)
            harsh_V = (table.annotator_V == 2) & (table.row_V >= 150)
            table.label_V[harsh_V & (rng.random(len(harsh_V)) < turned)] = 1
            flagged = {t.annotator for t in slice_tests(dawid_skene(table), regions(table), rng=rng) if t.flagged}
            caught, accused = caught + ("a002" in flagged), accused + bool(flagged - {"a002"})
        case = f"one of 6 says label 1 on {turned:.0%} of 100 votes in one slice whatever the row"
        lines.append(rate(f"it is flagged; {case}", caught, max(1, reps // 2), nominal=None))
        lines.append(rate(f"another is flagged; {case}", accused, max(1, reps // 2), nominal=None))
    return lines


def rate(case: str, times: float, of: int, nominal: float | None) -> dict[str, Any]:
    """One simulated rate with three Monte-Carlo standard errors beside the nominal one."""
    found = float(times) / of
    center = found if nominal is None else nominal
    return {
        "case": case,
        "rate": found,
        "n": of,
        "nominal": nominal,
        "three_mc_errors": 3 * (center * (1 - center) / of) ** 0.5,
    }


def smoothing(reps: int, seed: int) -> list[dict[str, Any]]:
    """Accuracy of the labels by pseudo-votes: 200 rows, 30 annotators, one in ten a guesser."""
    rng = generator(seed, "smoothing")
    lines = []
    for num_labels in (2, 4):
        for votes_a_row in (3, 5, 10):
            right: dict[str, list[float]] = {}
            for _ in range(max(1, reps // 10)):
                truth_N = rng.choice(num_labels, 200, p=rng.dirichlet(np.full(num_labels, 4.0)))
                table = drawn_table(rng, truth_N, crowd(rng, 30, num_labels), votes_a_row)
                voted = float(majority_vote(table).share_NK[np.arange(200), truth_N].mean())
                right.setdefault("majority", []).append(voted)
                for pseudo in (0.0, 1.0, 2.0, 4.0, 8.0):
                    fit = dawid_skene(table, smoothing=pseudo, max_iterations=100)
                    right.setdefault(f"{pseudo:g}", []).append(float((fit.label_N == truth_N).mean()))
            means = {name: float(np.mean(values)) for name, values in right.items()}
            gain = np.array(right["4"]) - np.array(right["majority"])
            error = float(gain.std(ddof=1)) / len(gain) ** 0.5 if len(gain) > 1 else None
            lines.append(
                {"labels": num_labels, "votes_a_row": votes_a_row, "n": len(gain), **means, "gain_4_stderr": error}
            )
    return lines


def crowd(rng: np.random.Generator, num_annotators: int, num_labels: int) -> np.ndarray:
    right_JK = rng.beta(6, 2, size=(num_annotators, num_labels))
    confusion_JKK = np.empty((num_annotators, num_labels, num_labels))
    for annotator in range(num_annotators):
        for label in range(num_labels):
            wrong = rng.dirichlet(np.ones(num_labels - 1)) * (1 - right_JK[annotator, label])
            confusion_JKK[annotator, label] = np.insert(wrong, label, right_JK[annotator, label])
    for guesser in np.flatnonzero(rng.random(num_annotators) < 0.1):
        confusion_JKK[guesser] = rng.dirichlet(np.ones(num_labels))
    return confusion_JKK


def times(seed: int) -> list[dict[str, Any]]:
    """Seconds of the whole report, one process."""
    rng = generator(seed, "time")
    lines = []
    for num_rows, num_annotators in ((800, 20), (10_000, 50)):
        table = drawn_table(rng, rng.integers(0, 4, num_rows), one_coin([0.8] * num_annotators, 4), 3)
        votes = [
            Vote(row_id=table.rows[row], annotator=table.annotators[who], value=table.labels[label], at=AT)
            for row, who, label in zip(table.row_V, table.annotator_V, table.label_V, strict=True)
        ]
        start = time.perf_counter()
        annotator_report(votes, regions(table), seed=seed)
        lines.append({"votes": len(votes), "annotators": num_annotators, "report_s": time.perf_counter() - start})
    return lines


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["snow", "rates", "smoothing", "time"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with snow2008_rte")
    parser.add_argument("--subsets", type=int, default=20, help="random subsets of 3 and 5 answers a row")
    parser.add_argument("--reps", type=int, default=2000, help="repetitions of a simulated rate")
    parser.add_argument("--seed", type=int, default=secrets.randbits(31), help="of the simulations; fresh by default")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    args = parse(argv)
    found: dict[str, Any] = {"command": " ".join(sys.argv), "seed": args.seed, "reps": args.reps}
    if "snow" in args.parts:
        if not (args.data / "snow2008_rte").exists():
            print(f"{args.data}: no folder snow2008_rte; name the data with --data or leave out snow", file=sys.stderr)
            return 2
        found["snow"] = snow(args.data, args.subsets)
    if "rates" in args.parts:
        found["rates"] = rates(args.reps, args.seed)
    if "smoothing" in args.parts:
        found["smoothing"] = smoothing(args.reps, args.seed)
    if "time" in args.parts:
        found["time"] = times(args.seed)
    if args.json:
        print(json.dumps(found))
        return 0
    for part in args.parts:
        print(f"{part} (seed {args.seed})")
        for line in found[part]:
            print(f"  {json.dumps(line)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
