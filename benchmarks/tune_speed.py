"""This tuning loop beside TRL's SFTTrainer: speed, memory, roofline and accuracy on identical rows and adapter.

    python benchmarks/tune_speed.py --json > tune_speed.json

Sides, each in a process of its own: `metier`; `trl_defaults`, the pinned TRL's SFTConfig untouched except report_to,
use_cpu, seed and completion_only_loss (and where it writes); `trl_nockpt`, the same with gradient checkpointing off;
`trl_best`, the fastest of a listed grid (batch 2 to 16 rows, length grouping, padding-free, checkpointing, adapter
dtype, autocast), searched for on this machine first. After a warm-up this loop and one peer take turns of 16 rows, so a
busy neighbour hurts both; only real tokens count, padding does not. Figures are medians over turns.

Accuracy: loss and gradient of one batch in fp32 (which must agree) and with bf16 products, each against TRL's fp32
gradient; and the dev loss after one pass with the same learning rate, adapter and order on both sides, over seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from roofline import roofline_seconds
from trl_peer import (
    DEFAULTS,
    WITHOUT_CHECKPOINTING,
    Job,
    Memory,
    Side,
    batch_sizes,
    neighbours,
    quiet,
    trl_turns,
)
from tune_accuracy import METIER, compare_gradients, compare_passes

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
SETS = {
    "mts_dialog": (DATA / "mts_dialog/train.csv", "dialogue", "section_text"),
    "bitext_support": (DATA / "bitext_support/bitext_customer_support.csv", "instruction", "response"),
}
TURN_ROWS = 16
"""Rows a side takes before the next side's turn: whole steps of every batch size tried."""
Turns = list[dict[str, float]]


def metier_turns(job: Job, side: Side, conn: Connection) -> None:
    """Steps of this loop, as many as asked for at a time; at the end, once, the roofline of such a step."""
    quiet()
    import torch

    torch.set_num_threads(job.threads)
    from metier.engine import Linear, forward_backward, load, make_batch, optim_step
    from metier.engine.form import Form
    from metier.engine.loop import trainer_of
    from metier.engine.prefix import common_prefix

    rows = job.rows()
    steps = side.steps([len(row.tokens) for row in rows])
    handle = load(Path(job.model_dir), adapter=Path(job.adapter_dir), threads=job.threads)
    # In the form a run takes by default: what all rows start with is computed once a step, where that pays.
    prefix = common_prefix([row.tokens for row in rows], [row.weight for row in rows])
    trainer = trainer_of(handle)
    trainer.verbs.submit(trainer.take_form, Form(prefix=tuple(prefix))).result()
    memory = Memory()
    step = 0
    while num_steps := conn.recv():
        for _ in range(num_steps):
            start = time.perf_counter()
            batch = make_batch([rows[i] for i in steps[step % len(steps)]])
            forward_backward(handle, batch, Linear()).result()
            optim_step(handle, lr=2e-5).result()
            seconds = time.perf_counter() - start
            step += 1
            conn.send({"seconds": seconds, "peak_gib": memory.peak_gib(), "roofline": 0.0})
            # Outside the timed part, in the same turn: a neighbour who slows the step slows its products too.
            conn.send(roofline_seconds(handle, batch, repeats=1))


class Running:
    """A side in its process, taking turns."""

    def __init__(self, job: Job, side: Side, lengths: list[int], trained: list[int]) -> None:
        self.side, self.steps, self.done = side, side.steps(lengths), 0
        self.lengths, self.trained = lengths, trained
        self.conn, there = multiprocessing.get_context("spawn").Pipe()
        target = metier_turns if side.name == METIER.name else trl_turns
        self.process = multiprocessing.get_context("spawn").Process(target=target, args=(job, side, there))
        self.process.start()
        there.close()

    def turn(self) -> dict[str, float]:
        """Take the next rows of a turn: tokens a second, trained tokens a second, peak memory."""
        count = TURN_ROWS // self.side.rows_a_step
        self.conn.send(count)
        seconds = roofline = peak = 0.0
        num_tokens = num_trained = 0
        for _ in range(count):
            found = self.conn.recv()
            rows = self.steps[self.done % len(self.steps)]
            self.done += 1
            seconds += found["seconds"]
            peak = max(peak, found["peak_gib"])
            if "roofline" in found:
                roofline += self.conn.recv()
            num_tokens += sum(self.lengths[i] for i in rows)
            num_trained += sum(self.trained[i] for i in rows)
        result = {"tokens_per_s": num_tokens / seconds, "trained_per_s": num_trained / seconds, "peak_gib": peak}
        print(f"{self.side.name}: {result['tokens_per_s']:.0f} tokens/s", file=sys.stderr)
        return result | ({"roofline_share": roofline / seconds} if roofline else {})

    def close(self) -> None:
        """End the process."""
        self.conn.send(0)
        self.process.join(60)
        self.process.kill()


def search_best(job: Job, lengths: list[int], trained: list[int], *, quick: bool) -> tuple[Side, list[dict[str, Any]]]:
    """The fastest of TRL's settings on a warm turn, and everything tried."""
    tried: list[dict[str, Any]] = []

    def speed(side: Side) -> float:
        running = Running(job, side, lengths, trained)
        try:
            running.turn()
            found = running.turn()
        except (EOFError, ConnectionError):  # the side died: TRL refuses the setting here; said in the result
            found = {"tokens_per_s": 0.0, "peak_gib": 0.0}
        running.process.kill()
        tried.append({"settings": side.name, "tokens_per_s": found["tokens_per_s"], "peak_gib": found["peak_gib"]})
        return found["tokens_per_s"]

    best = max(batch_sizes()[1:2] if quick else batch_sizes(), key=speed)
    speeds = {best.name: max(entry["tokens_per_s"] for entry in tried)}
    around = {best.name: best}
    for side in neighbours(best)[1:2] if quick else neighbours(best):  # padding-free is what TRL refuses most easily
        speeds[side.name], around[side.name] = speed(side), side
    fastest = max(speeds, key=lambda name: speeds[name])
    return replace(around[fastest], name="trl_best"), tried


def compare_speed(
    job: Job, peers: list[Side], *, turns: int, lengths: list[int], trained: list[int]
) -> dict[str, Any]:  # Any: figures by name
    """Speed and memory of this loop beside each peer, timed in turns after one warm-up turn each.

    Two sides are in memory at a time: all of them do not fit 24 GB, and what is short of memory is slow.
    """
    found: dict[str, Turns] = {METIER.name: []}
    ratios: dict[str, list[float]] = {}
    for peer in peers:
        pair = [Running(job, side, lengths, trained) for side in (METIER, peer)]
        for turn in range(turns + 1):
            mine, theirs = (one.turn() for one in pair)
            if turn:
                found[METIER.name].append(mine)
                found.setdefault(peer.name, []).append(theirs)
                ratios.setdefault(f"ratio_vs_{peer.name}", []).append(mine["tokens_per_s"] / theirs["tokens_per_s"])
        for one in pair:
            one.close()
    peak = {name: max(turn["peak_gib"] for turn in values) for name, values in found.items()}
    return {
        "num_turns": turns,
        "rows_a_turn": TURN_ROWS,
        "tokens_per_s": {name: spread([t["tokens_per_s"] for t in values]) for name, values in found.items()},
        "trained_per_s": {name: spread([t["trained_per_s"] for t in values]) for name, values in found.items()},
        "peak_gib_above_base": peak,
        "roofline_share": spread([turn["roofline_share"] for turn in found["metier"]]),
        **{name: spread(values) for name, values in ratios.items()},
        **{f"memory_ratio_vs_{peer.name}": peak[METIER.name] / peak[peer.name] for peer in peers},
    }


def spread(values: list[float]) -> list[float]:
    """Median, smallest, largest."""
    return [round(value, 4) for value in (statistics.median(values), min(values), max(values))]


def read_pairs(name: str) -> Iterator[tuple[str, str]]:
    """(prompt, reply) of every record of a set; "made up" needs no file."""
    if name == "made up":
        for i in range(200):
            order = 4000 + i
            yield (
                f"Where is order {order}? I bought {i % 9 + 1} lamps.",
                f"Order {order} left our house on day {i % 28}.",
            )
        return
    path, prompt, reply = SETS[name]
    with path.open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            yield record[prompt], record[reply]


def prepare(name: str, num_rows: int, args: argparse.Namespace, work_dir: Path) -> Job:
    """Model, adapter and rows, on disk for all sides."""
    import torch

    from metier.core.rows import Message, Meta, Role, make_row
    from metier.engine import AdapterSpec, export_adapter, load
    from metier.models import make_tiny_model, resolve
    from metier.render import Renderer

    pairs = list(read_pairs(name))
    if args.quick:
        model_dir = make_tiny_model(work_dir / "tiny", texts=[text for pair in pairs for text in pair])
    else:
        model_dir = args.model or resolve("smollm2-135m-instruct").dir
    renderer, rows = Renderer(model_dir), []
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
    for i in order:
        messages = tuple(
            Message(role=role, content=text) for role, text in zip((Role.USER, Role.ASSISTANT), pairs[i], strict=True)
        )
        row = renderer.train_row(make_row(b"benchmark", messages=messages, meta=Meta(source="benchmark", source_row=i)))
        if len(row.tokens) <= 1024:  # SFTConfig's max_length: nothing is cut on either side
            rows.append(row)
        if len(rows) == num_rows:
            break
    (work_dir / "rows.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    handle = load(model_dir, adapter=AdapterSpec(rank=16, alpha=32.0), seed=0, dtype="fp32")
    assert handle.adapter is not None
    for layer in handle.adapter.layers:
        for low_rank in layer.values():
            low_rank.b.normal_(0, 0.005, generator=torch.Generator().manual_seed(0))
    export_adapter(handle, work_dir / "adapter")
    (work_dir / "out").mkdir()
    return Job(
        model_dir=str(model_dir),
        adapter_dir=str(work_dir / "adapter"),
        rows_path=str(work_dir / "rows.jsonl"),
        out_dir=str(work_dir / "out"),
        threads=args.threads,
    )


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Everything about one set."""
    pass_rows, dev_rows = (16, 8) if args.quick else (args.pass_rows, 64)
    with tempfile.TemporaryDirectory() as folder:
        job = prepare(
            name, TURN_ROWS * 8 if args.quick else max(pass_rows + dev_rows, TURN_ROWS * 8), args, Path(folder)
        )
        rows = job.rows()
        lengths = [len(row.tokens) for row in rows]
        trained = [sum(1 for weight in row.weight if weight) for row in rows]
        result: dict[str, Any] = {
            "num_rows": len(rows),
            "median_row_tokens": statistics.median(lengths),
            "trained_ratio": round(sum(trained) / sum(lengths), 3),
        }
        best, tried = search_best(job, lengths, trained, quick=args.quick)
        result |= {"trl_best": asdict(best), "trl_tried": tried}
        peers = [WITHOUT_CHECKPOINTING, best] if args.quick else [DEFAULTS, WITHOUT_CHECKPOINTING, best]
        result |= compare_speed(job, peers, turns=args.turns, lengths=lengths, trained=trained)
        result |= compare_gradients(job)
        result |= compare_passes(job, best, seeds=args.seeds, num_rows=pass_rows, num_dev=dev_rows)
    return result


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model folder (default: smollm2-135m-instruct)")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="which sets to measure")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--turns", type=int, default=4, help="timed turns of 16 rows every side gets")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the compared passes; 0 leaves them out")
    parser.add_argument("--pass-rows", type=int, default=96, help="rows of a compared pass")
    parser.add_argument("--quick", action="store_true", help="a tiny random model and made-up rows: checks the script")
    parser.add_argument("--json", action="store_true", help="only the JSON object on stdout")
    args = parser.parse_args()
    if args.quick:
        args.sets, args.turns, args.seeds = ["made up"], 1, 1
    result = {"threads": args.threads, "machine": machine(), **{name: measure(name, args) for name in args.sets}}
    print(json.dumps(result, indent=None if args.json else 1))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import torch
    import trl

    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    return {
        "cpu": platform.processor() or platform.machine(),
        "amx": "amx_bf16" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "torch": torch.__version__,
        "trl": trl.__version__,
    }


if __name__ == "__main__":
    main()
