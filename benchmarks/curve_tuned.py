"""Back-test of the learning curve on tuned models: from a quarter of the rows, what half and all of them gave.

    python benchmarks/curve_tuned.py --json                (eight tasks of short labels on SmolLM2-135M; an hour)
    python benchmarks/curve_tuned.py --json --tasks tatqa  (one of them)
    python benchmarks/curve_tuned.py --quick               (a tiny random model: checks the script)

Per task an adapter on the top third of the layers is tuned on 1/32, 1/16, 1/8 and 1/4 of the train rows, in two nested
orders with a seed each; the band at 1/2 and at all rows is predicted from their dev scores, then measured. Beside it
stands the verdict over the small arm, fitted on the same rows, on test rows that were used for nothing else: at a
quarter of the rows and with all, what would have been said early and what was said late; and the gain, forecast at a
quarter and then measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from curve_backtest import TASKS, Pairs, made_up

PARTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
MAX_TEXT = 400
"""Characters of a prompt: longer ones are cut, so that a task takes minutes."""
EARLY, MARGIN = 1 / 4, 0.05


def rows_of(pairs: Pairs) -> list[Any]:  # Any: Row
    """The pairs as labelled rows."""
    from metier.core.rows import Message, Meta, Role, Target, TargetKind, make_row

    rows = []
    for number, (text, label) in enumerate(pairs):
        messages = (Message(role=Role.USER, content=text[:MAX_TEXT]),)
        target = Target(kind=TargetKind.LABEL, label=label)
        rows.append(make_row(b"benchmark", messages=messages, meta=Meta(source="b", source_row=number), target=target))
    return rows


def tuned_scores(
    args: argparse.Namespace,
    model_dir: Path,
    work: Path,
    train: list[Any],
    dev: list[Any],
    asked: list[list[Any]],
    *,
    seed: int,
) -> tuple[list[list[float]], float]:
    """Exact-match scores of every list of rows after tuning on `train`, and the seconds the tuning took."""
    from metier.arms.replier import Replier
    from metier.core.tune_config import TuneConfig
    from metier.engine import close, load_tuned, read_shape
    from metier.engine.load import sha256_of
    from metier.engine.weight_files import weight_paths
    from metier.render import Renderer
    from metier.tune import Options, tune

    renderer, depth = Renderer(model_dir), max(1, read_shape(model_dir).num_layers // 3)
    config = TuneConfig(depth=depth, passes=args.passes, evals=2, rank=8, alpha=16.0)
    rendered = [renderer.render_rows(rows, max_row_tokens=config.max_row_tokens).kept for rows in (train, dev)]
    start = time.perf_counter()
    out_dir = work / f"tune-{seed}-{len(train)}"
    options = Options(threads=args.threads, trunk_dir=work / "trunk")
    result = tune(*rendered, config, base=model_dir, out_dir=out_dir, seed=seed, options=options)
    seconds = time.perf_counter() - start
    handle = load_tuned(
        model_dir, result.adapter_dir, base_sha256=sha256_of(weight_paths(model_dir)), threads=args.threads
    )
    replier = Replier(handle, renderer, max(row.num_trained for part in rendered for row in part) + 2)
    scores = []
    for rows in asked:
        replies = replier.reply(rows, [row.messages for row in rows])
        scores.append([float(reply.text.strip() == row.gold) for reply, row in zip(replies, rows, strict=True)])
    close(handle)
    return scores, seconds


def measure(name: str, pairs: Pairs, args: argparse.Namespace, model_dir: Path) -> dict[str, Any]:  # Any: JSON values
    """One task tuned on all its parts: dev scores of every part, test scores from a quarter of the rows on."""
    from metier.arms import SmallArm
    from metier.evaluate import Grader

    rng = np.random.default_rng([args.seed, *name.encode()])
    rows = rows_of([pairs[i] for i in rng.permutation(len(pairs))[: args.rows + args.dev + args.test]])
    test, dev, train = rows[: args.test], rows[args.test : args.test + args.dev], rows[args.test + args.dev :]
    orders = [rng.permutation(len(train)) for _ in range(args.chains)]
    points: dict[str, list[tuple[int, int, float]]] = {"tuned": [], "small": []}
    on_test: dict[int, dict[str, list[int]]] = {}
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for chain, part in [
            (chain, part) for chain in range(args.chains) for part in PARTS if not chain or part <= EARLY
        ]:
            taken = [train[i] for i in orders[chain][: max(2, round(part * len(train)))]]
            asked = [dev, test] if not chain and part >= EARLY else [dev]
            scored, spent = tuned_scores(args, model_dir, Path(folder), taken, dev, asked, seed=args.seed + chain)
            seconds += spent
            small = SmallArm("small", exact(Grader)).fit(taken, dev, seed=chain)
            rival = [[float(reply.text == r.gold) for reply, r in zip(small.reply(a), a, strict=True)] for a in asked]
            for arm, found in (("tuned", scored), ("small", rival)):
                points[arm].append((chain, len(taken), float(np.mean(found[0]))))
                if len(asked) > 1:
                    on_test.setdefault(len(taken), {})[arm] = [int(score) for score in found[1]]
            last = " ".join(f"{arm} {found[-1][2]:.3f}" for arm, found in points.items())
            print(f"{name}: chain {chain}, {len(taken)} rows, dev {last}, {spent:.0f} s", file=sys.stderr)
    return {
        "num_train": len(train),
        "num_dev": len(dev),
        "labels": len({row.gold for row in rows}),
        "points": points,
        "on_test": {str(rows): scores for rows, scores in on_test.items()},
        "tune_minutes": round(seconds / 60, 2),
    }


def judge(record: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    """What a quarter of the rows predicts and what came, and the verdict at every part, from the scores of a task."""
    from metier.assess import ScoreTable, decide, fit_curve, forecasts
    from metier.assess.curve import most_over
    from metier.assess.scores import paired_gain
    from metier.core.report import CurvePoint
    from metier.core.settings import DecisionConfig

    def fits_at(most: int) -> dict[str, Any]:  # Any: CurveFit
        seen = {
            arm: [CurvePoint(chain_seed=c, train_seed=c, num_train=n, score=s) for c, n, s in found if n <= most]
            for arm, found in record["points"].items()
        }
        return {arm: fit_curve(points, num_dev=record["num_dev"]) for arm, points in seen.items()}

    sizes = sorted(map(int, record["on_test"]))
    early, verdicts, gains = fits_at(sizes[0]), {}, {}
    for size in sizes:
        scores, known = record["on_test"][str(size)], fits_at(size)
        groups = range(len(scores["tuned"]))
        table = ScoreTable.of(tuned=scores["tuned"], rivals={"small": scores["small"]}, groups=groups, binary=True)
        more = forecasts(known["tuned"], table, rivals=known)
        decided = decide(DecisionConfig(margin=MARGIN), table, alpha_this_look=0.05, forecast=more)
        gain = decided.gain
        verdicts[size] = {
            "outcome": decided.verdict.outcome.value,
            "tuned": float(np.mean(scores["tuned"])),
            "small": float(np.mean(scores["small"])),
            "gain": [round(each, 3) for each in (gain.low, gain.estimate, gain.high)],
        }
        if size == sizes[0]:
            measured = paired_gain(
                table.tuned_N, table.rivals["small"], table.group_N, binary=True, num_groups=len(groups)
            )
            top = most_over(table.rivals["small"])
            continue
        band = early["tuned"].forecast_gain(measured, min(size, 4 * sizes[0]), rival=early["small"], most=top)
        gains[size] = within(band, gain.estimate)
    points = {n: s for _, n, s in record["points"]["tuned"] if n > sizes[0]}
    bands = {arm: [early[arm].forecast(min(n, 4 * sizes[0])) for n in points] for arm in early}
    late = {n: s for _, n, s in record["points"]["small"] if n > sizes[0]}
    return {
        "flat_p": early["tuned"].flat_p,
        "forms": early["tuned"].form_weights,
        "scores": {n: within(band, s) for (n, s), band in zip(points.items(), bands["tuned"], strict=True)},
        "scores_of_small": {n: within(band, s) for (n, s), band in zip(late.items(), bands["small"], strict=True)},
        "gains": gains,
        "verdicts": verdicts,
    }


def within(band: Any, actual: float) -> dict[str, Any]:  # Any: Forecast
    """A band beside what came."""
    return {
        "low": round(band.low, 3),
        "high": round(band.high, 3),
        "actual": round(actual, 3),
        "covered": band.low <= actual <= band.high,
    }


def exact(grader: Callable[..., Any]) -> Any:  # Any: Grader
    """The grader of labels: the reply is the label or it is not."""
    from metier.conventions import CheckResult

    return grader(
        metric="exact",
        unit="share",
        binary=True,
        pass_mark=1.0,
        conventions=(),
        measure=lambda row, text, _: CheckResult(float(text.strip() == row.gold), "another label"),
    )


def main() -> int:
    """Tune, predict, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rows", type=int, default=512, help="train rows of a task")
    parser.add_argument("--dev", type=int, default=150)
    parser.add_argument("--test", type=int, default=250)
    parser.add_argument("--chains", type=int, default=2, help="nested orders of rows, each with a seed of its own")
    parser.add_argument("--passes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="a tiny random model and made-up rows: checks the script")
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="tune nothing: judge the scores in the JSON of an earlier run"
    )
    parser.add_argument("--json", action="store_true", help="only the JSON object on stdout")
    args = parser.parse_args()
    from metier.models import make_tiny_model, resolve

    if args.again is not None:
        records = json.loads(args.again.read_text(encoding="utf-8"))["records"]
    else:
        with tempfile.TemporaryDirectory() as folder:
            if args.quick:
                args.rows, args.dev, args.test, args.passes = 64, 20, 30, 2.0
                pairs = made_up(1)
                model_dir = make_tiny_model(Path(folder) / "tiny", texts=[text for text, _ in pairs])
                tasks = {"made up": pairs}
            else:
                model_dir = resolve("smollm2-135m-instruct").dir
                tasks = {name: TASKS[name]() for name in args.tasks}
            records = {name: measure(name, pairs, args, model_dir) for name, pairs in tasks.items()}
    judged = {name: judge(record) for name, record in records.items()}
    covered = {
        what: [each["covered"] for task in judged.values() for each in task[what].values()]
        for what in ("scores", "scores_of_small", "gains")
    }
    told = {what: {"covered": sum(found), "of": len(found)} for what, found in covered.items()}
    print(json.dumps({**told, "tasks": judged, "records": records}, indent=None if args.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
