"""TRL's SFTTrainer as the peer of the tuning benchmarks: how it is set up, timed in turns, and searched for its best.

Every side takes rows that are already tokens, a fixed order of steps, and one adapter on disk. What TRL's own
length grouping does to the order (batches of similar rows) is done to the order beforehand, so that the rows of
every step are known.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """What every side gets."""

    model_dir: str
    adapter_dir: str
    rows_path: str
    out_dir: str
    threads: int

    def rows(self) -> list[Any]:  # Any: RenderedRow, which must not be imported before the threads are set
        """The rendered rows, in the order of use."""
        from metier.render import RenderedRow

        with Path(self.rows_path).open(encoding="utf-8") as file:
            return [RenderedRow(**json.loads(line)) for line in file]


@dataclass(frozen=True)
class Side:
    """One way to take the same rows."""

    name: str
    rows_a_step: int = 8
    grouped: bool = False
    """Whether a step holds rows of similar length."""
    adapter_bf16: bool = False
    """Whether the adapter's own weights are bf16, as PEFT leaves them without its cast to fp32."""
    options: dict[str, Any] = field(default_factory=dict)
    """What differs from SFTConfig's defaults."""

    def steps(self, lengths: Sequence[int]) -> list[list[int]]:
        """Row indices of every step of one pass."""
        order = list(range(len(lengths)))
        if self.grouped:
            order.sort(key=lambda i: (-lengths[i], i))
        steps = [order[at : at + self.rows_a_step] for at in range(0, len(order), self.rows_a_step)]
        if self.grouped:
            random.Random(0).shuffle(steps)
        return steps


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


def trl_trainer(job: Job, side: Side, *, on_loaded: Callable[[], None], dtype: Any = None, **options: Any) -> Any:
    """An SFTTrainer over the rows in the side's order; untouched settings are TRL's own defaults."""
    from datasets import Dataset
    from peft import PeftModel
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):  # type: ignore[misc]  # TRL is not typed
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    rows = job.rows()
    order = [i for step in side.steps([len(row.tokens) for row in rows]) for i in step]
    columns = {
        "input_ids": [rows[i].tokens for i in order],
        "completion_mask": [[int(weight > 0) for weight in rows[i].weight] for i in order],
    }
    base = AutoModelForCausalLM.from_pretrained(job.model_dir, **({} if dtype is None else {"dtype": dtype}))
    on_loaded()
    settings = {"per_device_train_batch_size": side.rows_a_step, **side.options, **options}
    config = SFTConfig(
        output_dir=job.out_dir, report_to="none", use_cpu=True, seed=0, completion_only_loss=True, save_strategy="no",
        logging_strategy="no", **settings,
    )  # fmt: skip
    adapted = PeftModel.from_pretrained(
        base, job.adapter_dir, is_trainable=True, autocast_adapter_dtype=not side.adapter_bf16
    )
    return InOrder(
        model=adapted,
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(job.model_dir),
    )


def trl_turns(job: Job, side: Side, conn: Connection) -> None:
    """Steps of SFTTrainer; it stops at each step's end until it is asked for more."""
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
            conn.send({"seconds": seconds, "peak_gib": memory[0].peak_gib()})
            state["left"] -= 1
            if state["left"] == 0:
                next_quota(control)
            state["start"] = time.perf_counter()

    trainer = trl_trainer(job, side, on_loaded=lambda: memory.append(Memory()), num_train_epochs=100)
    trainer.add_callback(TurnTaking())
    trainer.train()


NOCKPT = {"gradient_checkpointing": False}
DEFAULTS = Side("trl_defaults")
WITHOUT_CHECKPOINTING = Side("trl_nockpt", options=NOCKPT)


def neighbours(best: Side) -> list[Side]:
    """What the search tries around the best batch size: one thing changed at a time."""

    def changed(name: str, **values: Any) -> Side:
        parts = {"rows_a_step": best.rows_a_step, "grouped": best.grouped, "options": best.options, **values}
        return Side(name, **parts)

    return [
        changed("order as given", grouped=False),
        # No row is longer than its limit, which TRL asks to be taken away.
        changed("padding-free", options={**best.options, "padding_free": True, "max_length": None}),
        changed("checkpointing", options={**best.options, "gradient_checkpointing": True}),
        changed("adapter in bf16", adapter_bf16=True),
        changed("no autocast, adapter in bf16", adapter_bf16=True, options={**best.options, "bf16": False}),
    ]


def batch_sizes() -> list[Side]:
    """Batch sizes with rows of similar length, no checkpointing, the loss in chunks (TRL 1.16's own "nll")."""
    return [Side(f"{size} rows, grouped", rows_a_step=size, grouped=True, options=NOCKPT) for size in (2, 4, 8, 16)]
