"""What the trunk cache saves, and what adapting only the top third of the layers costs in quality.

    python benchmarks/trunk_cache.py --json > trunk_cache.json
    python benchmarks/trunk_cache.py --quality --minutes 60 --json > trunk_quality.json

Speed (SmolLM2-135M, `mts_dialog`, rank 16, k = a third of the layers): three sides in one process take turns, a step of
the same rows each: `all_layers`, `top_k` without stored states, `top_k_stored` with them. Ratios are medians over
steps; the first pass with the cache also pays for filling it, later ones do not.

Quality: whole runs of the product's own recipe on three sets. `all_layers` and `top_k` after equal passes, and `top_k`
with as many passes as fit into the time of `all_layers`, filling included. Seeds are the outer loop, and no run is
begun after `--minutes`: what is there by then is told, with the number of seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
SETS = {
    "mts_dialog": (DATA / "mts_dialog/train.csv", "dialogue", "section_text"),
    "bitext_support": (DATA / "bitext_support/bitext_customer_support.csv", "instruction", "response"),
    "plain_english_contracts": (DATA / "plain_english_contracts/all_v1.jsonl", "original_text", "reference_summary"),
}
ROWS_A_STEP = 16
RANK, ALPHA = 16, 32.0


def read_pairs(name: str) -> Iterator[tuple[str, str]]:
    """(prompt, reply) of every record of a set; "made up" needs no file."""
    if name == "made up":
        for i in range(200):
            yield f"Where is order {4000 + i}? I bought {i % 9 + 1} lamps.", f"Order {4000 + i} left on day {i % 28}."
        return
    path, prompt, reply = SETS[name]
    with path.open(encoding="utf-8", newline="") as file:
        records = csv.DictReader(file) if path.suffix == ".csv" else (json.loads(line) for line in file)
        for record in records:
            if record[prompt].strip() and record[reply].strip():
                yield record[prompt], record[reply]


def rendered(name: str, num_rows: int, model_dir: Path) -> list[Any]:  # Any: RenderedRow
    """The first rows of a set in a fixed random order, as tokens."""
    import numpy as np

    from metier.core.rows import Message, Meta, Role, make_row
    from metier.render import Renderer

    renderer, pairs, rows = Renderer(model_dir), list(read_pairs(name)), []
    for i in np.random.default_rng(0).permutation(len(pairs)):
        messages = tuple(
            Message(role=role, content=text) for role, text in zip((Role.USER, Role.ASSISTANT), pairs[i], strict=True)
        )
        meta = Meta(source="benchmark", source_row=int(i))
        row = renderer.train_row(make_row(b"benchmark", messages=messages, meta=meta))
        if len(row.tokens) <= 1024:
            rows.append(row)
        if len(rows) == num_rows:
            break
    return rows


class Side:
    """One handle that takes steps."""

    def __init__(self, model_dir: Path, *, first_layer: int, threads: int) -> None:
        from metier.engine import AdapterSpec, load

        spec = AdapterSpec(rank=RANK, alpha=ALPHA, first_layer=first_layer)
        self.handle = load(model_dir, adapter=spec, seed=0, threads=threads)
        self.seconds: list[float] = []

    def store(self, rows: Sequence[Any], trunk_dir: Path) -> tuple[float, int]:  # Any: RenderedRow
        """Fill the cache: seconds, and bytes on disk."""
        from metier.engine.form import Form
        from metier.engine.loop import trainer_of
        from metier.engine.trunk import open_trunk

        start = time.perf_counter()
        trunk, num_bytes = open_trunk(self.handle, rows, skip=0, trunk_dir=trunk_dir, limit_bytes=8 << 30)
        assert trunk is not None, "8 GiB are enough"
        trainer = trainer_of(self.handle)
        trainer.take_form(Form(trunk=trunk))
        trunk.fill(trainer, rows)
        return time.perf_counter() - start, num_bytes

    def step(self, rows: Sequence[Any], *, is_timed: bool) -> None:  # Any: RenderedRow
        """One optimizer step."""
        from metier.engine import Linear, forward_backward, make_batch, optim_step

        start = time.perf_counter()
        forward_backward(self.handle, make_batch(rows), Linear()).result()
        optim_step(self.handle, lr=1e-4).result()
        if is_timed:
            self.seconds.append(time.perf_counter() - start)


def speed(model_dir: Path, rows: Sequence[Any], *, threads: int, passes: int) -> dict[str, Any]:  # Any: rows, JSON
    """Passes of three sides in turns."""
    from metier.engine import close, read_shape

    num_layers = read_shape(model_dir).num_layers
    k = max(1, num_layers // 3)
    sides = {
        "all_layers": Side(model_dir, first_layer=0, threads=threads),
        "top_k": Side(model_dir, first_layer=num_layers - k, threads=threads),
        "top_k_stored": Side(model_dir, first_layer=num_layers - k, threads=threads),
    }
    steps = [rows[at : at + ROWS_A_STEP] for at in range(0, len(rows), ROWS_A_STEP)]
    with tempfile.TemporaryDirectory() as folder:
        fill_s, num_bytes = sides["top_k_stored"].store(rows, Path(folder))
        for turn in range(passes + 1):  # the first pass compiles the products of every shape
            for number, step in enumerate(steps):
                names = list(sides)[number % 3 :] + list(sides)[: number % 3]
                for name in names:
                    sides[name].step(step, is_timed=turn > 0)
        for side in sides.values():
            close(side.handle)
    pass_s = {name: sum(side.seconds) / passes for name, side in sides.items()}
    stored = sides["top_k_stored"].seconds
    return {
        "num_layers": num_layers,
        "k": k,
        "num_rows": len(rows),
        "num_tokens": sum(len(row.tokens) for row in rows),
        "trunk_bytes": num_bytes,
        "fill_s": round(fill_s, 2),
        "pass_s": {name: round(seconds, 2) for name, seconds in pass_s.items()},
        "first_pass_stored_s": round(fill_s + pass_s["top_k_stored"], 2),
        **{
            f"{name}_over_stored": spread([other / mine for other, mine in zip(side.seconds, stored, strict=True)])
            for name, side in sides.items()
            if name != "top_k_stored"
        },
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def run(
    model_dir: Path, rows: Sequence[Any], folder: Path, *, depth: int, passes: float, seed: int, threads: int
) -> dict[str, float]:  # Any: RenderedRow
    """One whole run of the recipe: its time and its lowest dev loss."""
    from metier.core.tune_config import TuneConfig
    from metier.tune import tune

    num_dev = max(1, len(rows) // 6)
    config = TuneConfig(rank=RANK, alpha=ALPHA, depth=depth, passes=passes)
    start = time.perf_counter()
    result = tune(
        rows[num_dev:], rows[:num_dev], config, base=model_dir, out_dir=folder / "tune", seed=seed, threads=threads
    )
    return {
        "passes": passes,
        "seconds": round(time.perf_counter() - start, 1),
        "dev_loss_nats": round(min(loss for _, loss in result.dev_curve), 4),
    }


def quality(model_dir: Path, sets: dict[str, list[Any]], args: argparse.Namespace) -> dict[str, Any]:  # Any: rows, JSON
    """All layers against the top third, after equal passes and after equal minutes."""
    from metier.engine import read_shape

    num_layers, started = read_shape(model_dir).num_layers, time.monotonic()
    k = max(1, num_layers // 3)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sets}
    for seed in range(args.seeds):
        for name, rows in sets.items():
            if found[name] and time.monotonic() - started > 60 * args.minutes:
                continue
            how: dict[str, Any] = {"seed": seed, "threads": args.threads}
            # A folder of its own for each: no run reads what another has stored, so that its time is its own.
            with (
                tempfile.TemporaryDirectory() as a,
                tempfile.TemporaryDirectory() as b,
                tempfile.TemporaryDirectory() as c,
            ):
                whole = run(model_dir, rows, Path(a), depth=0, passes=args.passes, **how)
                top = run(model_dir, rows, Path(b), depth=k, passes=args.passes, **how)
                more = args.passes * whole["seconds"] / top["seconds"]
                same_time = run(model_dir, rows, Path(c), depth=k, passes=round(more * 4) / 4, **how)
            found[name].append({"all_layers": whole, "top_k": top, "top_k_same_minutes": same_time})
    return {
        name: {
            "num_rows": len(sets[name]),
            "num_seeds": len(runs),
            "runs": runs,
            **{
                f"{side}_minus_all_layers_nats": spread(
                    [each[side]["dev_loss_nats"] - each["all_layers"]["dev_loss_nats"] for each in runs]
                )
                for side in ("top_k", "top_k_same_minutes")
            },
        }
        for name, runs in found.items()
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model folder (default: smollm2-135m-instruct)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rows", type=int, default=96, help="rows of the timed passes")
    parser.add_argument("--timed-passes", type=int, default=2)
    parser.add_argument("--quality", action="store_true", help="dev losses on three sets instead of speed")
    parser.add_argument("--quality-rows", type=int, default=360, help="rows of a set, a sixth of them dev")
    parser.add_argument("--passes", type=float, default=2.0, help="passes of the compared runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0, help="no compared run is begun after")
    parser.add_argument("--quick", action="store_true", help="a tiny random model and made-up rows: checks the script")
    parser.add_argument("--json", action="store_true", help="only the JSON object on stdout")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            from metier.models import make_tiny_model

            args.rows, args.quality_rows, args.timed_passes, args.seeds, args.passes = 32, 36, 1, 1, 1.0
            texts = [text for pair in read_pairs("made up") for text in pair]
            model_dir = make_tiny_model(Path(folder) / "tiny", texts=texts)
        else:
            from metier.models import resolve

            model_dir = args.model or resolve("smollm2-135m-instruct").dir
        names = ["made up"] if args.quick else list(SETS) if args.quality else ["mts_dialog"]
        sets = {name: rendered(name, args.quality_rows if args.quality else args.rows, model_dir) for name in names}
        if args.quality:
            result: dict[str, Any] = quality(model_dir, sets, args)  # Any: JSON values
        else:
            (rows,) = sets.values()
            result = speed(model_dir, rows, threads=args.threads, passes=args.timed_passes)
    print(json.dumps({"threads": args.threads, **result}, indent=None if args.json else 1))


if __name__ == "__main__":
    main()
