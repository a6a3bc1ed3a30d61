"""Back-test of the learning curve on tuned models: from a quarter of the rows, what half and all of them gave.

    python benchmarks/curve_tuned.py --json                (eight tasks of short labels on SmolLM2-135M; an hour)
    python benchmarks/curve_tuned.py --json --tasks tatqa  (one of them)
    python benchmarks/curve_tuned.py --quick               (a tiny random model: checks the script)

Per task an adapter on the top third of the layers is tuned on 1/16, 1/8 and 1/4 of the train rows; the band at 1/2 and
at all rows is predicted from their dev scores, then measured. Beside it stands the verdict over the small arm on test
rows that were used for nothing else, with the model of a quarter of the rows and with that of all: what would have been
said early, and what was said late.
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

PARTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
MAX_TEXT = 600
"""Characters of a prompt: longer ones are cut, so that a task takes minutes."""
MARGIN = 0.05


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
    args: argparse.Namespace, model_dir: Path, work: Path, train: list[Any], dev: list[Any], asked: list[list[Any]]
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
    out_dir = work / f"tune-{len(train)}"
    options = Options(threads=args.threads, trunk_dir=work / "trunk")
    result = tune(*rendered, config, base=model_dir, out_dir=out_dir, seed=args.seed, options=options)
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
    """One task: the curve, its predictions, and both verdicts."""
    from metier.arms import SmallArm
    from metier.assess import ScoreTable, decide, fit_curve, forecasts
    from metier.core.report import CurvePoint
    from metier.core.settings import DecisionConfig
    from metier.evaluate import Grader

    rng = np.random.default_rng([args.seed, *name.encode()])
    rows = [rows_of(pairs)[i] for i in rng.permutation(len(pairs))[: args.rows + args.dev + args.test]]
    test, dev, train = rows[: args.test], rows[args.test : args.test + args.dev], rows[args.test + args.dev :]
    small = SmallArm("small", exact(Grader)).fit(train, dev, seed=0)
    rival = [float(reply.text == row.gold) for reply, row in zip(small.reply(test), test, strict=True)]
    points, verdicts, seconds = [], {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            taken = train[: max(2, round(part * len(train)))]
            (on_dev, on_test), spent = tuned_scores(args, model_dir, Path(folder), taken, dev, [dev, test])
            seconds += spent
            points.append(CurvePoint(num_train=len(taken), chain_seed=0, train_seed=0, score=float(np.mean(on_dev))))
            if part in (0.25, 1.0):
                table = ScoreTable.of(tuned=on_test, rivals={"small": rival}, groups=range(len(test)), binary=True)
                more = forecasts(fit_curve(points, num_dev=len(dev)), table)
                found = decide(DecisionConfig(margin=MARGIN), table, alpha_this_look=0.05, forecast=more)
                gain, verdict = found.gain, found.verdict
                verdicts[f"{part:g}"] = {"outcome": verdict.outcome.value, "reason": verdict.reason}
                verdicts[f"{part:g}"] |= {"tuned": float(np.mean(on_test)), "gain": gain.estimate}
                verdicts[f"{part:g}"] |= {"low": gain.low, "high": gain.high}
            print(f"{name}: {len(taken)} rows, dev {points[-1].score:.3f}, {spent:.0f} s", file=sys.stderr)
    fit = fit_curve(points[:3], num_dev=len(dev))
    predicted = []
    for point in points[3:]:
        num = min(point.num_train, 4 * points[2].num_train)
        band = fit.forecast(num)
        is_covered = band.low <= point.score <= band.high
        predicted.append(
            {"num_train": num, "low": band.low, "high": band.high, "actual": point.score, "covered": is_covered}
        )
    return {
        "num_train": len(train),
        "num_dev": len(dev),
        "num_test": len(test),
        "labels": len({row.gold for row in rows}),
        "points": [[point.num_train, round(point.score, 4)] for point in points],
        "predicted": predicted,
        "small_on_test": float(np.mean(rival)),
        "verdicts": verdicts,
        "tune_minutes": round(seconds / 60, 2),
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
    parser.add_argument("--passes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="a tiny random model and made-up rows: checks the script")
    parser.add_argument("--json", action="store_true", help="only the JSON object on stdout")
    args = parser.parse_args()
    from metier.models import make_tiny_model, resolve

    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            args.rows, args.dev, args.test, args.passes = 64, 20, 30, 2.0
            pairs = made_up(1)
            model_dir = make_tiny_model(Path(folder) / "tiny", texts=[text for text, _ in pairs])
            tasks = {"made up": pairs}
        else:
            model_dir = resolve("smollm2-135m-instruct").dir
            tasks = {name: TASKS[name]() for name in args.tasks}
        found = {name: measure(name, pairs, args, model_dir) for name, pairs in tasks.items()}
    covered = [each["covered"] for task in found.values() for each in task["predicted"]]
    print(json.dumps({"covered": sum(covered), "of": len(covered), "tasks": found}, indent=None if args.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
