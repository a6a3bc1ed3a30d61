"""What dpo on mined pairs adds to sft on the support example, and what the same minutes of sft add.

    python benchmarks/preference.py --json > preference.json
    python benchmarks/preference.py --minutes 10 --dev-rows 80 --seed 3

Three adapters of one base on one split: `sft`; `dpo`, which goes on from it with the gold replies against the model's
own faults (mined with `metier.road`, as a run does); `more_sft`, tuned on the gold replies alone for as many minutes
as sft, mining and dpo took together, in one schedule of its own. All answer the same dev rows, greedily; every
convention and all of them together are compared in pairs, with the intervals `metier.assess` decides by. Dev rows
choose the checkpoint of both sft runs by dev loss (dpo has pairs set aside from train): the scores are of dev.

`--minutes` bounds the whole measurement: passes follow from the speed measured first. `--quick` runs a tiny random
model on one core and checks the script, not the method.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SUPPORT = ROOT / "examples" / "support"
SFT_SHARE, DPO_SHARE = 0.27, 0.18
"""Shares of the minutes; more_sft takes their sum once more, and a tenth is left for loading and scoring."""
ALPHA = 0.025
"""Error rate of each end: intervals hold the truth in 95 % of repetitions."""


class Data(NamedTuple):
    """Rows and how they are read, asked and graded."""

    session: Any  # Any: metier is imported where it is used, so that --help is quick
    train_rows: list[Any]
    dev_rows: list[Any]
    train: list[Any]
    dev: list[Any]
    config: Any


def prepare(session: Any, args: argparse.Namespace) -> Data:
    """The support example, curated and split as `metier run` does, and rendered."""
    from metier.road.cut import cut_rows
    from metier.road.ground import read_and_check

    parts = cut_rows(session, read_and_check(session))
    train_rows, dev_rows = (parts.train[:60], parts.dev) if args.quick else (parts.train, parts.dev)
    config = replace(session.config.tune, evals=2 if args.quick else 4)
    limit = config.max_row_tokens
    train, dev = (session.renderer.render_rows(rows, max_row_tokens=limit).kept for rows in (train_rows, dev_rows))
    return Data(session, train_rows, dev_rows, train, dev, config)


def replier_of(data: Data, adapter_dir: Path) -> Any:
    """The tuned model, ready to reply."""
    from metier.arms import Replier
    from metier.road.session import max_reply_tokens

    handle = data.session.tuned_handle(adapter_dir)
    return Replier(handle, data.session.renderer, max_reply_tokens([*data.train, *data.dev]))


def seconds_per_token(data: Data, args: argparse.Namespace) -> float:
    """Seconds a real token of a training step takes here."""
    from metier.engine import AdapterSpec, close, load
    from metier.tune import measure_speed

    spec = AdapterSpec(rank=data.config.rank, alpha=data.config.alpha)
    handle = load(data.session.base, adapter=spec, threads=args.threads)
    speed = measure_speed(handle, data.train, replace(data.config, passes=2.0))
    close(handle)
    return 1 / speed.train_tokens_per_s


def sft(data: Data, args: argparse.Namespace, out_dir: Path, *, passes: float) -> tuple[Any, float]:
    """The result of tuning on the gold replies, and its seconds."""
    from metier.tune import tune

    started = time.perf_counter()
    result = tune(
        data.train, data.dev, replace(data.config, passes=passes),
        base=data.session.base, out_dir=out_dir, seed=args.seed, threads=args.threads,
    )  # fmt: skip
    return result, time.perf_counter() - started


def mine(data: Data, args: argparse.Namespace, adapter_dir: Path, settings: Any) -> tuple[list[Any], list[Any], Any]:
    """Pairs to train on and to score, and what became of the rows."""
    from metier.core.seeds import generator
    from metier.render import render_pairs
    from metier.road.mining import aside, mine_pairs

    session, trained = data.session, {row.row_id for row in data.train}
    rows = [row for row in data.train_rows if row.row_id in trained]
    mined = mine_pairs(replier_of(data, adapter_dir), rows, session.grader, settings, seed=args.seed, key=session.key)
    limit = data.config.max_row_tokens
    found = render_pairs(session.renderer, mined.rows, max_row_tokens=limit, unfinished=mined.unfinished)
    train, dev = aside(found.kept, generator(args.seed, "dev_pairs"))
    return train, dev, {**mined.counts, "train_pairs": len(train), "dev_pairs": len(dev)}


def dpo(
    data: Data, args: argparse.Namespace, work: Path, start: Path, *, seconds: float, token_s: float
) -> tuple[Any, Any, float]:
    """The result of dpo from the adapter of sft, the counts of mining, and the seconds of both."""
    from metier.core.tune_config import DpoConfig
    from metier.tune import Options, tune_pairs

    started = time.perf_counter()
    settings = DpoConfig(samples=args.samples, beta=args.beta)
    train, dev, counts = mine(data, args, start, settings)
    pass_s = token_s * sum(pair.num_tokens for pair in train)
    left_s = seconds - (time.perf_counter() - started)
    settings = replace(settings, passes=round(min(3.0, max(0.25, left_s / pass_s)), 2))
    result = tune_pairs(
        train, dev, replace(data.config, objective="dpo", dpo=settings, passes=0.0),
        base=data.session.base, out_dir=work, seed=args.seed, options=Options(start=start, threads=args.threads),
    )  # fmt: skip
    return result, {**counts, "passes": settings.passes}, time.perf_counter() - started


def scores_of(data: Data, adapter_dir: Path) -> dict[str, list[float]]:
    """Scores of the dev rows by convention, and of all together."""
    from metier.arms.replier import with_instruction

    rows, grader = data.dev_rows, data.session.grader
    replies = replier_of(data, adapter_dir).reply(rows, [with_instruction(row, None) for row in rows])
    found = grader.score_all(rows, [reply.text for reply in replies])
    by_name = {name: [score.checks[name] for score in found] for name in grader.weights}
    return {"all_pass": [float(all(v == 1 for v in score.checks.values())) for score in found], **by_name}


def compared(
    first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]], groups: Sequence[str]
) -> dict[str, Any]:
    """Mean difference of every score, first minus second, with its 95 % interval."""
    import numpy as np

    from metier.assess.scores import paired_gain

    found = {}
    for name in first:
        a_N, b_N, group_N = np.asarray(first[name]), np.asarray(second[name]), np.asarray(groups)
        binary = bool(np.isin([a_N, b_N], (0.0, 1.0)).all())
        gain = paired_gain(a_N, b_N, group_N, binary=binary, num_groups=len(set(groups)))
        found[name] = {"gain": gain.estimate, "low": gain.low(ALPHA), "high": gain.high(ALPHA), "method": gain.method,
                       "better": int((a_N > b_N).sum()), "worse": int((a_N < b_N).sum())}  # fmt: skip
    return found


def measure(session: Any, args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Tune three times, answer dev three times, compare."""
    from metier.evaluate import group_ids

    started, data = time.perf_counter(), prepare(session, args)
    token_s = seconds_per_token(data, args)
    pass_s = token_s * sum(len(row.tokens) for row in data.train)
    passes = round(min(6.0, max(0.25, 60 * args.minutes * SFT_SHARE / pass_s)), 2)
    first, sft_s = sft(data, args, work / "sft", passes=passes)
    second, counts, dpo_s = dpo(
        data, args, work / "dpo", first.adapter_dir, seconds=60 * args.minutes * DPO_SHARE, token_s=token_s
    )
    third, more_s = sft(data, args, work / "more", passes=round(passes * (sft_s + dpo_s) / sft_s, 2))
    results = {"sft": first, "dpo": second, "more_sft": third}
    scores = {name: scores_of(data, result.adapter_dir) for name, result in results.items()}
    groups = group_ids(data.dev_rows, session.group_column, key=session.key)
    return {
        "seed": args.seed, "base": session.base.name, "train_rows": len(data.train), "dev_rows": len(data.dev_rows),
        "dev_groups": len(set(groups)), "tokens_per_s": 1 / token_s, "mined": counts, "beta": args.beta,
        "minutes": {"sft": sft_s / 60, "mining_and_dpo": dpo_s / 60, "more_sft": more_s / 60},
        "passes": {"sft": passes, "dpo": counts["passes"], "more_sft": passes * (sft_s + dpo_s) / sft_s},
        "dev_loss": {name: list(result.dev_curve) for name, result in results.items()},
        "best_step": {name: result.best_step for name, result in results.items()},
        "scores": {name: {check: sum(v) / len(v) for check, v in by.items()} for name, by in scores.items()},
        "dpo_minus_sft": compared(scores["dpo"], scores["sft"], groups),
        "dpo_minus_more_sft": compared(scores["dpo"], scores["more_sft"], groups),
        "whole_minutes": (time.perf_counter() - started) / 60,
    }  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure in a copy of the example."""
    from metier.core.project_file import load_project_file
    from metier.road import open_session

    overrides = [f"split.dev_rows={args.dev_rows}", f"base.name={args.base}", f"project.seed={args.seed}"]
    with tempfile.TemporaryDirectory() as folder:
        project_dir = Path(shutil.copytree(SUPPORT, Path(folder) / "project"))
        config = load_project_file(project_dir, overrides)
        with open_session(project_dir, config, what="the measurement") as session:
            return measure(session, args, Path(folder) / "runs")


def parsed() -> argparse.Namespace:
    """The options, those that --quick changes among them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--minutes", type=float, default=18.0, help="bound of the whole measurement")
    parser.add_argument("--dev-rows", type=int, default=120)
    parser.add_argument("--samples", type=int, default=4, help="replies drawn for each train prompt")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=None, help="a fresh one without it")
    parser.add_argument("--threads", type=int, default=None, help="all cores without it")
    parser.add_argument("--quick", action="store_true", help="a tiny random model, in seconds: checks the script only")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.base, args.minutes, args.dev_rows, args.samples = "tiny", 0.2, 30, 2
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # threads that wait for each other cost more than one
    args.seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    return args


def main() -> int:
    args = parsed()
    found = run(args)
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    mined = found["mined"]
    print(
        f"seed {found['seed']}, {found['base']}: {found['train_rows']} train, {found['dev_rows']} dev rows; "
        f"{mined['pairs']} of {mined['rows']} rows gave a pair; {found['whole_minutes']:.1f} minutes"
    )
    print(f"{'':<22}{'sft':>7}{'dpo':>7}{'more':>7}   dpo - sft, 95 %            dpo - more sft, 95 %")
    for name in found["dpo_minus_sft"]:
        means = "".join(f"{found['scores'][arm][name]:>7.3f}" for arm in ("sft", "dpo", "more_sft"))
        gains = [found[key][name] for key in ("dpo_minus_sft", "dpo_minus_more_sft")]
        shown = "   ".join(f"{g['gain']:+.3f} ({g['low']:+.3f} to {g['high']:+.3f})" for g in gains)
        print(f"{name:<22}{means}   {shown}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
