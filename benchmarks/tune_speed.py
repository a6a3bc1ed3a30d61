"""This tuning loop beside TRL's SFTTrainer: speed, memory and accuracy on identical rows, adapter and order.

    python benchmarks/tune_speed.py --json > tune_speed.json

Three sides, each in a process of its own: `metier`; `trl_defaults`, the pinned TRL's SFTConfig untouched except
report_to, use_cpu, seed and completion_only_loss (and an output folder); `trl_nockpt`, the same with gradient
checkpointing off. All take the same 8 rows a step. After warm-up the sides take turns, so a busy neighbour
hurts all of them; only real tokens count, padding does not. Medians over all timed steps.

Accuracy is measured on one batch and an adapter that is not zero: loss and gradient in fp32 (which must agree)
and with bf16 products, each against TRL's fp32 gradient.
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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_DATA = ROOT.parent / "shared" / "data" / "mts_dialog" / "train.csv"
ROWS_A_STEP = 8  # SFTConfig's per_device_train_batch_size
SIDES = ("metier", "trl_defaults", "trl_nockpt")


@dataclass(frozen=True)
class Job:
    """What every side gets."""

    model_dir: str
    adapter_dir: str
    rows_path: str
    out_dir: str
    threads: int
    num_steps: int

    def rows(self) -> list[Any]:  # Any: RenderedRow, which must not be imported before the threads are set
        """The rendered rows, in the order of use."""
        from metier.render import RenderedRow

        with Path(self.rows_path).open(encoding="utf-8") as file:
            return [RenderedRow(**json.loads(line)) for line in file]


class Memory:
    """Peak memory above what the loaded base takes, in GiB, from the kernel's own counters."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is held now
        self.base = self._read("VmRSS")

    def peak_gib(self) -> float:
        """Peak since the start, less the start."""
        return (self._read("VmHWM") - self.base) / 2**20

    @staticmethod
    def _read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1])


def quiet() -> None:
    """Send what a side prints to stderr: stdout is for the one JSON object."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def metier_side(job: Job, conn: Connection) -> None:
    """Steps of this loop, as many as asked for at a time."""
    quiet()
    import torch

    torch.set_num_threads(job.threads)
    from metier.engine import Linear, forward_backward, load, make_batch, optim_step

    rows = job.rows()
    handle = load(Path(job.model_dir), adapter=Path(job.adapter_dir), threads=job.threads)
    memory = Memory()
    step = 0
    while num_steps := conn.recv():
        for _ in range(num_steps):
            start = time.perf_counter()
            batch = make_batch(rows[step * ROWS_A_STEP : (step + 1) * ROWS_A_STEP])
            stats = forward_backward(handle, batch, Linear()).result()
            optim_step(handle, lr=2e-5).result()
            seconds = time.perf_counter() - start
            step += 1
            conn.send({"seconds": seconds, "loss": stats.loss_nats, "peak_gib": memory.peak_gib()})


def trl_side(job: Job, conn: Connection, *, checkpointing: bool) -> None:
    """Steps of SFTTrainer; it stops at each step's end until it is asked for the next."""
    quiet()
    import torch
    from transformers import TrainerCallback

    torch.set_num_threads(job.threads)
    memory: list[Memory] = []
    state = {"left": 0, "start": 0.0}

    def next_quota(control: Any) -> None:  # Any: transformers' TrainerControl
        state["left"] = conn.recv()
        control.should_training_stop = state["left"] == 0

    class TurnTaking(TrainerCallback):  # type: ignore[misc]  # TRL is not typed
        def on_train_begin(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
            next_quota(control)
            state["start"] = time.perf_counter()

        def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
            seconds = time.perf_counter() - state["start"]
            conn.send({"seconds": seconds, "loss": None, "peak_gib": memory[0].peak_gib()})
            state["left"] -= 1
            if state["left"] == 0:
                next_quota(control)
            state["start"] = time.perf_counter()

    options = {} if checkpointing else {"gradient_checkpointing": False}
    trainer = trl_trainer(job, on_loaded=lambda: memory.append(Memory()), **options)
    trainer.add_callback(TurnTaking())
    trainer.train()


def trl_trainer(job: Job, *, on_loaded: Callable[[], None], dtype: Any = None, **options: Any) -> Any:
    """An SFTTrainer over the rows in their order; untouched settings are TRL's own defaults."""
    from datasets import Dataset
    from peft import PeftModel
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):  # type: ignore[misc]  # TRL is not typed
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    rows = job.rows()[: job.num_steps * ROWS_A_STEP]
    columns = {
        "input_ids": [row.tokens for row in rows],
        "completion_mask": [[int(weight > 0) for weight in row.weight] for row in rows],
    }
    base = AutoModelForCausalLM.from_pretrained(job.model_dir, **({} if dtype is None else {"dtype": dtype}))
    on_loaded()
    config = SFTConfig(
        output_dir=job.out_dir, report_to="none", use_cpu=True, seed=0, completion_only_loss=True, **options
    )
    return InOrder(
        model=PeftModel.from_pretrained(base, job.adapter_dir, is_trainable=True),
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(job.model_dir),
    )


def accuracy_side(job: Job, conn: Connection, *, side: str, dtype: str) -> None:
    """Loss and adapter gradient of the first batch, by PEFT's names, written beside the rows."""
    quiet()
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(job.threads)
    if side == "metier":
        from metier.engine import Linear, forward_backward, load, make_batch
        from metier.engine.peft_files import tensor_name

        adapter_dir = Path(job.adapter_dir)
        handle = load(Path(job.model_dir), adapter=adapter_dir, dtype=dtype, threads=job.threads)  # type: ignore[arg-type]  # bf16 or fp32
        loss = forward_backward(handle, make_batch(job.rows()[:ROWS_A_STEP]), Linear()).result().loss_nats
        assert handle.adapter is not None and handle.trainer is not None
        grads: dict[str, torch.Tensor] = {}
        for worker in handle.trainer.grads:
            for offset, layer in enumerate(worker.views):
                for name, pair in layer.items():
                    for letter, grad in zip("AB", pair, strict=True):
                        key = tensor_name(handle.adapter.first_layer + offset, name, letter)
                        grads[key] = grads[key] + grad if key in grads else grad.clone()
    else:
        options = {"dtype": torch.float32, "bf16": False} if dtype == "fp32" else {}
        trainer = trl_trainer(job, on_loaded=lambda: None, gradient_checkpointing=False, **options)
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        with trainer.compute_loss_context_manager():
            value = trainer.compute_loss(trainer.model, batch)
        value.backward()
        loss = float(value.detach())
        named = trainer.model.named_parameters()
        grads = {name.replace(".default", ""): p.grad.float() for name, p in named if p.grad is not None}
    save_file(grads, str(Path(job.out_dir) / f"{side}_{dtype}.safetensors"))
    conn.send(loss)


def compare_accuracy(job: Job) -> dict[str, float]:
    """Errors of loss and gradient against TRL in fp32."""
    import torch
    from safetensors.torch import load_file

    context = multiprocessing.get_context("spawn")
    loss, flat = {}, {}
    for side, dtype in (("trl", "fp32"), ("trl", "bf16"), ("metier", "fp32"), ("metier", "bf16")):
        here, there = context.Pipe()
        process = context.Process(target=accuracy_side, args=(job, there), kwargs={"side": side, "dtype": dtype})
        process.start()
        there.close()
        loss[side, dtype] = here.recv()
        process.join()
        grads = load_file(Path(job.out_dir) / f"{side}_{dtype}.safetensors")
        flat[side, dtype] = torch.cat([grads[name].flatten().double() for name in sorted(grads)])
    true = flat["trl", "fp32"]
    error = {key: float((grad - true).norm() / true.norm()) for key, grad in flat.items()}
    return {
        "loss_trl_fp32": loss["trl", "fp32"],
        "fp32_loss_error": abs(loss["metier", "fp32"] / loss["trl", "fp32"] - 1),
        "fp32_grad_error": error["metier", "fp32"],
        "bf16_loss_error": abs(loss["metier", "bf16"] / loss["trl", "fp32"] - 1),
        "bf16_loss_error_trl": abs(loss["trl", "bf16"] / loss["trl", "fp32"] - 1),
        "bf16_grad_error": error["metier", "bf16"],
        "bf16_grad_error_trl": error["trl", "bf16"],
        "bf16_error_ratio": error["metier", "bf16"] / error["trl", "bf16"],
    }


def compare_speed(job: Job, *, warmup: int, pairs: int, steps: int) -> dict[str, Any]:
    """Tokens a second and peak memory of every side, timed in turns."""
    context = multiprocessing.get_context("spawn")
    targets = {
        "metier": (metier_side, {}),
        "trl_defaults": (trl_side, {"checkpointing": True}),
        "trl_nockpt": (trl_side, {"checkpointing": False}),
    }
    pipes, processes = {}, {}
    for name, (target, options) in targets.items():
        pipes[name], there = context.Pipe()
        processes[name] = context.Process(target=target, args=(job, there), kwargs=options)
        processes[name].start()
        there.close()
    sizes = [len(row.tokens) for row in job.rows()]
    done = dict.fromkeys(SIDES, 0)
    speed: dict[str, list[float]] = {name: [] for name in SIDES}
    peak = dict.fromkeys(SIDES, 0.0)
    for turn, count in enumerate([warmup] + [steps] * pairs):
        for name in SIDES:
            pipes[name].send(count)
            for _ in range(count):
                found = pipes[name].recv()
                at = done[name] * ROWS_A_STEP
                done[name] += 1
                peak[name] = max(peak[name], found["peak_gib"])
                tokens_per_s = sum(sizes[at : at + ROWS_A_STEP]) / found["seconds"]
                print(f"turn {turn} {name}: {tokens_per_s:.0f} tokens/s", file=sys.stderr)
                if turn:
                    speed[name].append(tokens_per_s)
    for name in SIDES:
        pipes[name].send(0)
        processes[name].join(60)
    median = {name: statistics.median(values) for name, values in speed.items()}
    return {
        "tokens_per_s": median,
        "tokens_per_s_range": {name: [min(values), max(values)] for name, values in speed.items()},
        "peak_gib_above_base": peak,
        "num_timed_steps": steps * pairs,
        "ratio_vs_trl_defaults": paired(speed, "trl_defaults"),
        "ratio_vs_trl_nockpt": paired(speed, "trl_nockpt"),
        "memory_ratio_vs_nockpt": peak["metier"] / peak["trl_nockpt"],
        "memory_ratio_vs_defaults": peak["metier"] / peak["trl_defaults"],
    }


def paired(speed: dict[str, list[float]], peer: str) -> float:
    """Median ratio over steps; step k has the same rows on all sides."""
    return statistics.median(mine / other for mine, other in zip(speed["metier"], speed[peer], strict=True))


def read_pairs(data_path: Path, prompt: str, reply: str) -> Iterator[tuple[str, str]]:
    """(prompt, reply) of every record of a CSV file."""
    with data_path.open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            yield record[prompt], record[reply]


def quick_pairs() -> Iterator[tuple[str, str]]:
    """Made-up pairs for the quick form."""
    for i in range(200):
        order = 4000 + i
        yield f"Where is order {order}? I bought {i % 9 + 1} lamps.", f"Order {order} left our house on day {i % 28}."


def prepare(args: argparse.Namespace, work_dir: Path) -> Job:
    """Model, adapter and rows, on disk for all sides."""
    import torch

    from metier.core.rows import Message, Meta, Role, make_row
    from metier.engine import AdapterSpec, export_adapter, load
    from metier.models import make_tiny_model, resolve
    from metier.render import Renderer

    pairs = list(quick_pairs() if args.quick else read_pairs(args.data, args.prompt, args.reply))
    if args.quick:
        model_dir = make_tiny_model(work_dir / "tiny", texts=[text for pair in pairs for text in pair])
    else:
        model_dir = args.model or resolve("smollm2-135m-instruct").dir
    renderer, num_steps, rows = Renderer(model_dir), args.warmup + args.pairs * args.steps, []
    for i, (prompt, reply) in enumerate(pairs):
        messages = (Message(role=Role.USER, content=prompt), Message(role=Role.ASSISTANT, content=reply))
        row = renderer.train_row(make_row(b"benchmark", messages=messages, meta=Meta(source="benchmark", source_row=i)))
        if len(row.tokens) <= 1024:  # SFTConfig's max_length: nothing is cut on either side
            rows.append(row)
        if len(rows) == num_steps * ROWS_A_STEP:
            break
    (work_dir / "rows.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    handle = load(model_dir, adapter=AdapterSpec(rank=16, alpha=32.0), seed=0, dtype="fp32")
    assert handle.adapter is not None
    for layer in handle.adapter.layers:
        for low_rank in layer.values():
            low_rank.b.normal_(0, 0.005, generator=torch.Generator().manual_seed(0))
    export_adapter(handle, work_dir / "adapter")
    out_dir = work_dir / "out"
    out_dir.mkdir()
    return Job(
        model_dir=str(model_dir),
        adapter_dir=str(work_dir / "adapter"),
        rows_path=str(work_dir / "rows.jsonl"),
        out_dir=str(out_dir),
        threads=args.threads,
        num_steps=num_steps,
    )


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model folder (default: smollm2-135m-instruct)")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="CSV file with prompts and replies")
    parser.add_argument("--prompt", default="dialogue", help="column of the prompt")
    parser.add_argument("--reply", default="section_text", help="column of the reply")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--warmup", type=int, default=5, help="untimed steps")
    parser.add_argument("--pairs", type=int, default=3, help="turns every side gets")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a turn")
    parser.add_argument("--quick", action="store_true", help="a tiny random model and two steps: checks the script")
    parser.add_argument("--json", action="store_true", help="only the JSON object on stdout")
    args = parser.parse_args()
    if args.quick:
        args.warmup, args.pairs, args.steps = 1, 1, 1
    with tempfile.TemporaryDirectory() as work_dir:
        job = prepare(args, Path(work_dir))
        result = {"threads": args.threads, "machine": machine(), "rows_a_step": ROWS_A_STEP, **tokens(job)}
        result |= compare_accuracy(job)
        result |= compare_speed(job, warmup=args.warmup, pairs=args.pairs, steps=args.steps)
    print(json.dumps(result, indent=None if args.json else 1))


def tokens(job: Job) -> dict[str, float]:
    """How long the rows are and how much of them is trained."""
    rows = job.rows()
    lengths = [len(row.tokens) for row in rows]
    trained = sum(sum(1 for weight in row.weight if weight) for row in rows)
    return {
        "num_rows": len(rows),
        "median_row_tokens": statistics.median(lengths),
        "trained_ratio": round(trained / sum(lengths), 3),
    }


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
