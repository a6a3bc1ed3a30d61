"""How often the verdict is wrong: simulated error rates of `metier.assess.decide` where the truth is known.

    python benchmarks/decision_rates.py --json            5,000 repetitions, fresh seeds
    python benchmarks/decision_rates.py --reps 500 --seed 7

Every rate comes out of the public `decide` (looks out of `next_look`, costs out of `cost_ratio`). A rate that must hold
is compared with its bound, with three Monte-Carlo standard errors of room; a rate of a rule that metier does not follow
is shown for comparison. The made-up scores are in `decision_truth.py`, planned rows, coverage and the claim
as_good_for_less in `decision_planned.py`, guards in `decision_guards.py`.
"""

# Shapes: N rows, C groups, K rivals.

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.decision_guards import guard_rates, guard_states
from benchmarks.decision_planned import as_good_for_less, coverage, planned_rows
from benchmarks.decision_truth import LEVEL, MARGIN, NOT, QUESTION, WORTH, Rate, arms, discordant, group_sizes, verdict

from metier.assess import PastLook, ScoreTable, decide, next_look
from metier.core.seeds import generator
from metier.core.settings import DecisionConfig
from metier.core.stats import bell_mccaffrey_df, grouped_mean


def several_rivals(reps: int, seed: int) -> list[Rate]:
    """True gain = margin over the best rival, 1, 3 or 6 rivals: both errors, all equal and one strong among weak."""
    out = []
    for num_rows in (300, 1000):
        for k in (1, 3, 6):
            equal, strong = [LEVEL + MARGIN] + [LEVEL] * k, [LEVEL + MARGIN, LEVEL] + [LEVEL - 0.3] * (k - 1)
            for name, shares in (("equal", equal), ("one strong", strong)):
                rng = generator(seed, "rivals", num_rows, k, name)
                found = []
                for _ in range(reps):
                    score = arms(rng, num_rows, shares)
                    found.append(verdict(score))
                case = f"n={num_rows}, {k} rivals, {name}"
                for what, outcome in (("false WORTH_IT", WORTH), ("false NOT_WORTH_IT", NOT)):
                    rate = found.count(outcome) / reps
                    out.append(Rate(table="several rivals", case=f"{case}: {what}", rate=rate, reps=reps, bound=0.05))
    return out


def chosen_rival(reps: int, seed: int) -> list[Rate]:
    """What metier refuses: one rival picked on the hold-out, or on dev, and only that one compared with."""
    out = []
    for num_rows in (300, 1000):
        for k in (3, 6):
            rng = generator(seed, "chosen", num_rows, k)
            found = []
            for _ in range(reps):
                score = arms(rng, num_rows, [LEVEL + MARGIN] + [LEVEL] * k)
                best = 1 + int(score[1:].mean(axis=1).argmax())
                found.append(verdict(score[[0, best]]))
            case = f"n={num_rows}, best of {k} on the hold-out: false NOT_WORTH_IT"
            out.append(Rate(table="chosen rival", case=case, rate=found.count(NOT) / reps, reps=reps, bound=None))
        rng = generator(seed, "chosen on dev", num_rows)
        found = []
        for _ in range(reps):
            shares = [LEVEL + MARGIN, LEVEL, LEVEL - 0.02, LEVEL - 0.02]
            dev, score = arms(rng, 200, shares), arms(rng, num_rows, shares)
            best = 1 + int(dev[1:].mean(axis=1).argmax())
            found.append(verdict(score[[0, best]]))
        case = f"n={num_rows}, best of 3 on 200 dev rows: false WORTH_IT"
        out.append(Rate(table="chosen rival", case=case, rate=found.count(WORTH) / reps, reps=reps, bound=None))
    return out


def power_with_rivals(reps: int, seed: int) -> list[Rate]:
    """How often a true gain of 10 points over each of several equal rivals is shown with 300 rows."""
    out = []
    for k in (1, 3, 6):
        rng, found = generator(seed, "power", k), 0
        for _ in range(reps):
            score = arms(rng, 300, [LEVEL + 0.10] + [LEVEL] * k)
            found += verdict(score) is WORTH
        case = f"n=300, gain 10 points over each of {k}: WORTH_IT"
        out.append(Rate(table="power", case=case, rate=found / reps, reps=reps, bound=None))
    return out


def t_quantile(df: float, alpha: float) -> float:
    """Upper alpha quantile of a t distribution."""
    return float(stdtrit(df, 1 - alpha))


def unequal_groups(reps: int, seed: int) -> list[Rate]:
    """Coverage of the CR2 interval and both errors of the verdict, groups of very unequal size."""
    out = []
    for num_groups, icc in ((10, 0.3), (20, 0.3), (40, 0.3), (10, 0.05), (40, 0.05)):
        for sigma in (1.0, 1.5):
            rng = generator(seed, "groups", num_groups, int(10 * sigma), int(100 * icc))
            missed, plain_missed, naive_missed, found = 0, 0, 0, []
            for _ in range(reps):
                group_N = np.repeat(np.arange(num_groups), group_sizes(rng, num_groups, sigma))
                effect_N = np.sqrt(icc) * rng.standard_normal(num_groups)[group_N]
                value_N = effect_N + np.sqrt(1 - icc) * rng.standard_normal(len(group_N))
                mean = grouped_mean(0.01 * value_N, group_N)
                half = mean.quantile(0.025) * mean.stderr
                missed += abs(mean.estimate) > half
                plain = t_quantile(bell_mccaffrey_df(np.bincount(group_N)), 0.025) * mean.stderr
                plain_missed += abs(mean.estimate) > plain
                naive = 0.01 * value_N.std(ddof=1) / len(group_N) ** 0.5
                naive_missed += abs(mean.estimate) > 1.96 * naive
                # Scores in 0-1 whose difference is `value` around the margin.
                change_N = np.clip(MARGIN + 0.1 * value_N, -1, 1)
                table = ScoreTable.of(
                    tuned=np.maximum(change_N, 0),
                    rivals={"rival": np.maximum(-change_N, 0)},
                    groups=group_N,
                    binary=False,
                )
                found.append(decide(QUESTION, table, alpha_this_look=0.05).verdict.outcome)
            case = f"{num_groups} groups, sigma {sigma}, ICC {icc}"
            rates = (
                ("two-sided 95 % interval misses", missed / reps, 0.05),
                ("with degrees of freedom for independent rows: misses", plain_missed / reps, None),
                ("rows taken as independent: misses", naive_missed / reps, None),
                ("false WORTH_IT", found.count(WORTH) / reps, 0.05),
                ("false NOT_WORTH_IT", found.count(NOT) / reps, 0.05),
            )
            for what, rate, bound in rates:
                out.append(Rate(table="unequal groups", case=f"{case}: {what}", rate=rate, reps=reps, bound=bound))
    return out


def more_rows(reps: int, seed: int) -> list[Rate]:
    """Three looks at a growing hold-out: at the rates `next_look` grants, and at .05 each."""
    granted, past = [], []
    for k in range(3):
        grant = next_look(past, question="q", model="m", rows=f"h{k}", num_rows=200 * (k + 1), alpha=0.05, max_looks=3)
        granted.append(grant.alpha)
        past.append(PastLook(question="q", model="m", rows=f"h{k}", num_rows=200 * (k + 1), alpha=grant.alpha))
    rng = generator(seed, "more rows")
    wrong = {"granted: false WORTH_IT": 0, "granted: false NOT_WORTH_IT": 0, ".05 each: false WORTH_IT": 0}
    for _ in range(reps):
        score = arms(rng, 600, [LEVEL + MARGIN, LEVEL])
        for name, alphas, outcome in (
            ("granted: false WORTH_IT", granted, WORTH),
            ("granted: false NOT_WORTH_IT", granted, NOT),
            (".05 each: false WORTH_IT", [0.05] * 3, WORTH),
        ):
            wrong[name] += any(
                verdict(score[:, :n], alpha=a) is outcome for n, a in zip((200, 400, 600), alphas, strict=True)
            )
    return [
        Rate(table="three looks", case=name, rate=count / reps, reps=reps, bound=0.05 if "granted" in name else None)
        for name, count in wrong.items()
    ]


def new_models(reps: int, seed: int) -> list[Rate]:
    """Ten tuned models, one after the other, on the same rows: at the rates `next_look` grants, and at .05 each."""
    granted, past = [], []
    for k in range(10):
        grant = next_look(past, question="q", model=f"m{k}", rows="h", num_rows=500, alpha=0.05, max_looks=3)
        granted.append(grant.alpha)
        past.append(PastLook(question="q", model=f"m{k}", rows="h", num_rows=500, alpha=grant.alpha))
    rng = generator(seed, "new models")
    wrong = {"granted": 0, ".05 each": 0}
    for _ in range(reps):
        score = arms(rng, 500, [LEVEL] + [LEVEL + MARGIN] * 10)
        for name, alphas in (("granted", granted), (".05 each", [0.05] * 10)):
            wrong[name] += any(verdict(score[[k + 1, 0]], alpha=alphas[k]) is WORTH for k in range(10))
    return [
        Rate(
            table="ten models",
            case=f"{name}: some false WORTH_IT",
            rate=count / reps,
            reps=reps,
            bound=0.05 if name == "granted" else None,
        )
        for name, count in wrong.items()
    ]


def few_discordant(reps: int, seed: int) -> list[Rate]:
    """Graded scores that differ on few rows, one row a group: where a t interval alone would be too sure."""
    out = []
    for num_rows, share, margin in ((100, 0.05, 0.03), (300, 0.02, 0.0), (300, 0.05, 0.01), (1000, 0.02, 0.0)):
        rng = generator(seed, "few", num_rows, int(1000 * share), int(1000 * margin))
        question, found = DecisionConfig(margin=margin), []
        for _ in range(reps):
            tuned, rival = discordant(rng, num_rows, share, margin)
            table = ScoreTable.of(tuned=tuned, rivals={"rival": rival}, groups=np.arange(num_rows), binary=False)
            found.append(decide(question, table, alpha_this_look=0.05).verdict.outcome)
        case = f"n={num_rows}, differing on {share:.0%}, margin {margin}"
        for what, outcome in (("false WORTH_IT", WORTH), ("false NOT_WORTH_IT", NOT)):
            rate = found.count(outcome) / reps
            out.append(Rate(table="few differing rows", case=f"{case}: {what}", rate=rate, reps=reps, bound=0.05))
    return out


TABLES: Mapping[str, Callable[[int, int], list[Rate]]] = {
    "several_rivals": several_rivals,
    "chosen_rival": chosen_rival,
    "power_with_rivals": power_with_rivals,
    "unequal_groups": unequal_groups,
    "more_rows": more_rows,
    "new_models": new_models,
    "guard_rates": guard_rates,
    "guard_states": guard_states,
    "few_discordant": few_discordant,
    "planned_rows": planned_rows,
    "coverage": coverage,
    "as_good_for_less": as_good_for_less,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=5000, help="repetitions of every case (default 5000)")
    parser.add_argument("--seed", type=int, default=None, help="seed (default: a fresh one, printed)")
    parser.add_argument("--only", choices=sorted(TABLES), action="append", help="a table; may be repeated")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    seed = secrets.randbits(32) if args.seed is None else args.seed
    start, rates = time.perf_counter(), []
    for name in args.only or TABLES:
        rates += TABLES[name](args.reps, seed)
        if not args.json:
            for rate in (r for r in rates if r.table == rates[-1].table):
                mark = (
                    "" if rate.limit is None else f"  (bound {rate.limit:.4f}: {'holds' if rate.holds else 'EXCEEDED'})"
                )
                print(f"{rate.table:18s} {rate.case:75s} {rate.rate:.4f}{mark}")
    holds = all(rate.holds for rate in rates)
    if args.json:
        values: dict[str, Any] = {"seed": seed, "reps": args.reps, "seconds": round(time.perf_counter() - start, 1)}
        print(
            json.dumps(
                values | {"all_hold": holds, "rates": [asdict(r) | {"limit": r.limit, "holds": r.holds} for r in rates]}
            )
        )
    else:
        print(
            f"{len(rates)} rates, {args.reps} repetitions, seed {seed}, {time.perf_counter() - start:.0f} s; "
            f"all hold: {holds}"
        )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
