"""What every objective's run is made of: steps, dev scores, the best adapter, checkpoints, resumption.

An objective says what an example is (one row, a pair of rows), which loss a step of examples has and how dev is
scored; `sft.py` and `dpo.py` do. Every step's examples and learning rate are fixed before the first step. A run killed
anywhere goes on from its last checkpoint and ends with the same bits. Rows come rendered; nothing here reads text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from metier.core.errors import ConfigError, ModelError
from metier.core.folders import drop_parts, finish, fresh_dir, read_json, stage_hash, write_bytes
from metier.core.hashing import canonical_json, value_hash
from metier.core.tune_config import TuneConfig
from metier.engine import (
    Handle,
    Loss,
    StepStats,
    changes_nothing,
    close,
    drop_state,
    export_adapter,
    export_model,
    forward_backward,
    load_state,
    make_batch,
    optim_step,
    read_shape,
    save_state,
    state_names,
)
from metier.engine.form import Execution
from metier.tune.arrange import RunRows, arrange
from metier.tune.begun import STATE_NAME, TakenUp, take_up, tell_discarded
from metier.tune.examples import Examples
from metier.tune.form import load_trainee
from metier.tune.metrics import Metrics
from metier.tune.result import Options, Progress, TuneResult
from metier.tune.schedule import eval_steps, is_spent, lr_at, mean_reads, run_steps, step_tokens_of

if TYPE_CHECKING:
    from metier.models import BaseModel

__all__ = ["Objective", "planned_steps", "require_objective", "result_in", "run_objective"]

log = logging.getLogger(__name__)

STAGE_VERSION = 7
CHECKPOINT_SECONDS = 60.0
"""Longest time a killed run loses, beside the checkpoint at every dev score."""


class Objective(Protocol):
    """What is learned from examples; `prepare` comes first."""

    train: Examples
    dev: Examples
    has_reference: bool
    """Whether `prepare` scores all of them once."""

    def default_lr(self, width: int, *, num_steps: int) -> float:
        """Peak learning rate where the settings name none."""
        ...

    def prepare(self, handle: Handle, out_dir: Path, *, resumed: bool) -> None:
        """Compute, or read again, what is fixed before the first step; the handle holds the weights of the start."""
        ...

    def loss(self, examples: Sequence[int]) -> Loss:
        """The loss of a step of these train examples, their rows one after the other."""
        ...

    def measures(self, examples: Sequence[int], stats: StepStats) -> dict[str, float]:
        """What metrics.jsonl says of a step beside its loss."""
        ...

    def score_dev(self, handle: Handle) -> tuple[float, dict[str, float]]:
        """The dev loss, and what metrics.jsonl says beside it."""
        ...


def require_objective(config: TuneConfig, wanted: str, *, instead: str) -> None:
    """Refuse settings that are for another objective: they would have no effect.

    Raises:
        ConfigError: they are.
    """
    if config.objective != wanted:
        raise ConfigError(
            f"tune.objective is {config.objective!r}; this learns {wanted} only. Call {instead}, or change it."
        )


def planned_steps(train: Examples, config: TuneConfig, *, seed: int) -> tuple[TuneConfig, list[list[int]]]:
    """The settings with the tokens of a step, and the examples of every step of the run."""
    lengths = [sum(len(row.tokens) for row in example) for example in train]
    config = replace(config, step_tokens=step_tokens_of(config, round(config.passes * sum(lengths))))
    return config, run_steps(lengths, passes=config.passes, step_tokens=config.step_tokens, seed=seed)


def run_rows(objective: Objective, steps: list[list[int]]) -> RunRows:
    """The rows of a run, and where they are used."""
    train, dev = objective.train, objective.dev
    lengths = [sum(len(row.tokens) for row in example) for example in train]
    return RunRows(
        all=[row for part in (train, dev) for example in part for row in example],
        mean_reads=mean_reads(lengths, steps, has_reference=objective.has_reference),
        first_step=[row for i in steps[0] for row in train[i]],
    )


def run_objective(
    objective: Objective,
    config: TuneConfig,
    *,
    base: BaseModel | Path,
    out_dir: Path,
    seed: int,
    options: Options,
    dropped: Sequence[str] = (),
) -> TuneResult:
    """Run to the end, from the last checkpoint where there is one; a finished folder of the same run is returned.

    What the machine decides (threads, precision) is what the run began with; of another run, what a folder holds is
    deleted with a warning.

    `config` holds passes and, where it is set, the learning rate of this objective. `dropped` are ids of train rows
    that were left out.

    Raises:
        ModelError: the loss is not finite (step and rows are named), or training changed nothing.
        StoreError: the disk is full; the last checkpoint is intact.
    """
    config, steps = planned_steps(objective.train, config, seed=seed)
    width = read_shape(base if isinstance(base, Path) else base.dir).width
    config = replace(config, lr=config.lr or objective.default_lr(width, num_steps=len(steps)))
    taken = take_up(
        lambda dtype: load_trainee(base, replace(config, product_dtype=dtype), seed=seed, options=options),
        lambda handle: _stage_hash(handle, objective, config, seed),
        out_dir=out_dir,
        dtype=config.product_dtype,
        options=options,
    )
    handle = taken.handle
    try:
        if taken.is_finished:
            if handle.ranks.is_first:
                drop_state(out_dir / STATE_NAME)  # a kill right after done.json leaves it
            return result_in(out_dir)
        run = _Run(taken, objective, steps, config, out_dir)
        run.resume_or_start(options)
        if handle.ranks.is_first:
            run.note_dropped(dropped)
        for step in range(run.step + 1, len(steps) + 1):
            if is_spent(run.dev_curve, config.patience):
                log.info("stopped after step %d of %d: dev no longer falls", run.step, len(steps))
                break
            run.take_step(step, options.on_progress)
        return run.finish(num_dropped=len(dropped))
    finally:
        close(handle)


def _stage_hash(handle: Handle, objective: Objective, config: TuneConfig, seed: int) -> str:
    """What fixes the result to the bit."""
    parts = (objective.train, objective.dev)
    rows = value_hash(
        [[row.row_id, list(row.tokens), list(row.weight)] for part in parts for each in part for row in each]
    )
    inputs = {"base": handle.function_sha256, "rows": rows, "num_train": len(objective.train), "seed": seed,
              "start": handle.fingerprint}  # fmt: skip
    identity = {"threads": handle.threads, "dtype": str(handle.dtype)}
    return stage_hash(stage="tune", version=STAGE_VERSION, inputs=inputs, config={**asdict(config), **identity})


class _Run:
    """One run: where it is, and what it needs to go on from there."""

    def __init__(
        self,
        taken: TakenUp,
        objective: Objective,
        steps: list[list[int]],
        config: TuneConfig,
        out_dir: Path,
    ) -> None:
        self.taken, self.handle, self.ranks = taken, taken.handle, taken.handle.ranks
        self.objective, self.start, self.wanted = objective, taken.handle.fingerprint, taken.wanted
        self.steps, self.config, self.out_dir = steps, config, out_dir
        self.metrics = Metrics(out_dir / "metrics.jsonl")
        self.eval_at = eval_steps(len(steps), config.evals)
        self.step, self.num_tokens, self.num_trained, self.seconds = 0, 0, 0, 0.0
        self.dev_curve: list[tuple[int, float]] = []
        self.best: dict[str, Any] = {}  # Any: JSON values, saved with the checkpoint
        self.saved_at = time.monotonic()

    def resume_or_start(self, options: Options) -> None:
        """Go back to the last checkpoint of exactly this run, or start in an empty folder."""
        resumed = self.taken.is_resumable
        self.ranks.require_same(resumed, what=f"whether {self.state_dir} holds a checkpoint of this run")
        if self.ranks.is_first:
            if resumed:
                drop_parts(self.out_dir)
            else:
                tell_discarded(self.out_dir, self.taken.discards, options)
                fresh_dir(self.out_dir)
        self.ranks.wait()
        began = time.monotonic()
        self.execution = arrange(
            self.handle,
            run_rows(self.objective, self.steps),
            self.config,
            out_dir=self.out_dir,
            resumed=resumed,
            options=options,
        )
        self.objective.prepare(self.handle, self.out_dir, resumed=resumed)
        arranged_s = time.monotonic() - began
        if resumed:
            facts = load_state(self.handle, self.state_dir)
            self.step, self.dev_curve = facts["step"], [(at, loss) for at, loss in facts["dev_curve"]]
            self.num_tokens, self.num_trained = facts["num_tokens"], facts["num_trained"]
            self.seconds, self.best = facts["seconds"] + arranged_s, facts["best"]
            if self.ranks.is_first:
                self.metrics.keep_until(self.step)
            log.info("resuming after step %d of %d", self.step, len(self.steps))
            return
        self.seconds = arranged_s
        self.dev_curve = [(0, self.objective.score_dev(self.handle)[0])]

    def note_dropped(self, row_ids: Sequence[str]) -> None:
        """List the rows left out, with the reason."""
        lines = [canonical_json({"row_id": row_id, "reason": "too_many_tokens"}) + b"\n" for row_id in row_ids]
        write_bytes(self.out_dir / "dropped.jsonl", b"".join(lines))

    @property
    def tuned_dir(self) -> Path:
        """Where the best checkpoint is exported to."""
        return self.out_dir / ("model" if self.config.method == "full" else "adapter")

    @property
    def state_dir(self) -> Path:
        """Where the checkpoint is."""
        return self.out_dir / STATE_NAME

    def take_step(self, step: int, on_progress: Callable[[Progress], None] | None) -> None:
        """One optimizer step; at the planned steps also the dev loss; a checkpoint where one is due."""
        start = time.monotonic()
        config = self.config
        examples = self.steps[step - 1]
        batch = make_batch([row for i in examples for row in self.objective.train[i]])
        lr = lr_at(step, num_steps=len(self.steps), peak=config.lr, warmup_ratio=config.warmup_ratio)
        stats = forward_backward(self.handle, batch, self.objective.loss(examples)).result()
        moved = optim_step(
            self.handle, lr=lr, weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm
        ).result()
        step_s = time.monotonic() - start
        dev_loss, dev_measures = self.objective.score_dev(self.handle) if step in self.eval_at else (None, {})
        self.step = step
        self.num_tokens += stats.num_tokens
        self.num_trained += stats.num_trained
        self.seconds += time.monotonic() - start
        line = {
            "step": step,
            "tune/loss_nats": stats.loss_nats,
            "tune/grad_norm": moved.grad_norm,
            "tune/lr": lr,
            "tune/num_tokens": stats.num_tokens,
            "tune/num_trained": stats.num_trained,
            **self.objective.measures(examples, stats),
            "time/step_s": round(step_s, 4),
        }
        if self.ranks.is_first:
            self.metrics.add(line if dev_loss is None else {**line, "tune/dev_loss_nats": dev_loss, **dev_measures})
        if dev_loss is not None:
            self._note_dev(step, dev_loss)
        if dev_loss is not None or time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
            self._checkpoint()
        if on_progress is not None:
            progress = Progress(
                step=step,
                num_steps=len(self.steps),
                loss_nats=stats.loss_nats,
                dev_loss_nats=dev_loss,
                tokens_per_s=stats.num_tokens / step_s,
                seconds_left=self.seconds / step * (len(self.steps) - step),
            )
            on_progress(progress)

    def _note_dev(self, step: int, dev_loss: float) -> None:
        """Keep the adapter where no earlier one was as good on dev."""
        if not dev_loss < float("inf"):
            raise ModelError(f"step {step}: the dev loss is {dev_loss}; lower tune.lr. This step was not exported.")
        self.dev_curve.append((step, dev_loss))
        log.info("step %d of %d: dev loss %.4f nats", step, len(self.steps), dev_loss)
        if not self.best or dev_loss < self.best["dev_loss"]:
            fingerprint = self.handle.fingerprint
            self._refuse_unchanged(step, fingerprint)
            self.ranks.require_same(fingerprint, what=f"step {step}: what was tuned")
            if self.ranks.is_first:
                write = export_model if self.config.method == "full" else export_adapter
                write(self.handle, self.tuned_dir)
            self.best = {"step": step, "dev_loss": dev_loss, "fingerprint": fingerprint}

    def _refuse_unchanged(self, step: int, fingerprint: str) -> None:
        """Raise `ModelError` where what was tuned is the base under another name, or what the run started from."""
        if changes_nothing(self.handle):
            is_full = self.handle.full is not None
            what = "no weight has changed" if is_full else "the adapter changes nothing, all of its B are zero"
            raise ModelError(
                f"step {step}: {what}; the tuned model would be the base. Check tune.lr and that rows have trained "
                "tokens."
            )
        if fingerprint == self.start:
            raise ModelError(
                f"step {step}: what was tuned is still what the run started from; raise the learning rate."
            )

    def _checkpoint(self) -> None:
        if not self.ranks.is_first:
            return
        facts = {
            "hash": self.wanted,
            "step": self.step,
            "dev_curve": self.dev_curve,
            "num_tokens": self.num_tokens,
            "num_trained": self.num_trained,
            "seconds": self.seconds,
            "best": self.best,
        }
        save_state(self.handle, self.state_dir, facts=facts)
        self.saved_at = time.monotonic()

    def finish(self, *, num_dropped: int) -> TuneResult:
        """Write done.json, last; the checkpoint is no longer needed then."""
        result = TuneResult(
            adapter_dir=self.tuned_dir,
            best_step=self.best["step"],
            num_steps=len(self.steps),
            last_step=self.step,
            dev_curve=tuple(self.dev_curve),
            lr=self.config.lr,
            step_tokens=self.config.step_tokens,
            num_rows=len(self.objective.train),
            num_dropped=num_dropped,
            num_tokens=self.num_tokens,
            num_trained=self.num_trained,
            seconds=self.seconds,
            fingerprint=self.best["fingerprint"],
            execution=self.execution,
        )
        values = {**asdict(result), "adapter_dir": result.adapter_dir.name}
        # The checkpoint goes after done.json: a kill between the two the other way round would cost the whole run.
        if self.ranks.is_first:
            finish(self.out_dir, self.wanted, passing=state_names(self.state_dir), result=values)
            drop_state(self.state_dir)
        self.ranks.wait()
        return result


def result_in(out_dir: Path) -> TuneResult:
    """The result of a finished folder."""
    values = read_json(out_dir / "done.json")["result"]
    values["adapter_dir"] = out_dir / values["adapter_dir"]
    values["execution"] = Execution.from_json(values["execution"])
    values["dev_curve"] = tuple((step, loss) for step, loss in values["dev_curve"])
    return TuneResult(**values)
