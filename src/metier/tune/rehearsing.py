"""Everything a run does, once and briefly, so that nothing is met for the first time in its last hour.

    >>> found = rehearse(train, dev, config, base=base, work_dir=Path("rehearsal"), seed=0)  # doctest: +SKIP
    >>> found.speed.train_tokens_per_s, found.seconds  # doctest: +SKIP
    (612.0, 41.0)

A step around the longest row, a few normal steps, one dev score, one checkpoint and export, one resumption in a fresh
handle whose next step must give the same bits, and one load of the exported adapter that writes a few replies.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from metier.core.errors import ModelError
from metier.core.tune_config import TuneConfig
from metier.engine import (
    Batch,
    Handle,
    Linear,
    SamplingParams,
    close,
    export_adapter,
    export_model,
    forward_backward,
    load_state,
    load_tuned,
    logprobs,
    make_batch,
    optim_step,
    sample,
    save_state,
)
from metier.engine.form import Execution
from metier.engine.load import DtypeName, Place
from metier.tune.arrange import RunRows, arrange
from metier.tune.begun import dtype_setting
from metier.tune.estimate import Speed, longest_step, measure_speed, normal_steps, products_of
from metier.tune.form import load_trainee, place_of
from metier.tune.memory import runtime_gib
from metier.tune.result import Options
from metier.tune.schedule import default_lr
from metier.tune.steps_ahead import look_ahead

if TYPE_CHECKING:
    from metier.models import BaseModel
    from metier.render import RenderedRow

__all__ = ["Prompts", "Rehearsal", "rehearse"]

DEV_TOKENS = 8192
"""Most dev tokens that are scored; more would only take longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """What the exported adapter is asked."""

    tokens: Sequence[Sequence[int]]
    params: SamplingParams


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What the rehearsal found."""

    speed: Speed
    execution: Execution
    """What was chosen for the run, and why."""
    load_s: float
    dev_s: float
    """Seconds of one dev score of the rows that were scored."""
    save_s: float
    """Seconds of one checkpoint and one export."""
    resume_s: float
    """Seconds to load base and checkpoint and take the next step."""
    decode_s: float
    """Seconds to load the exported adapter and write the replies."""
    checkpoint_gib: float
    """Size of one checkpoint and one export; two checkpoints stand side by side while one is written."""
    reply_tokens: tuple[tuple[int, ...], ...]
    seconds: float


def rehearse(
    train: Sequence[RenderedRow],
    dev: Sequence[RenderedRow],
    config: TuneConfig,
    *,
    base: BaseModel | Path,
    work_dir: Path,
    seed: int = 0,
    threads: int | None = None,
    prompts: Prompts | None = None,
) -> Rehearsal:
    """Rehearse a run; `work_dir` holds its checkpoint and export and is removed at the end.

    Raises:
        DataError: no row within the limit.
        ModelError: a loss is not finite, or the resumed step differs from the uninterrupted one.
        StoreError: the checkpoint cannot be written.
    """
    started = time.perf_counter()
    runtime = runtime_gib()
    handle, load_s = _loaded(base, config, seed=seed, threads=threads)
    try:
        used = _used(train, dev, config)
        execution = _arranged(handle, used, config, work_dir, resumed=False)
        speed = measure_speed(handle, train, config, runtime_gib=runtime)
        dev_s = _score(handle, _scored(dev, config))
        normal, longest = make_batch(used.first_step), make_batch(longest_step(train, config))
        lr = config.lr or default_lr(handle.shape.width, method=config.method, num_steps=100, rank=config.rank)
        _, optim_s = _step(handle, longest, lr)
        save_s = _save(handle, work_dir)
        _step(handle, normal, lr)
        wanted = handle.fingerprint
        close(handle)
        begun = replace(config, product_dtype=dtype_setting(execution.product_dtype.name))
        handle, resume_s, first_s = _resumed(
            base, begun, used, lr=lr, work_dir=work_dir, seed=seed + 1, threads=threads
        )
        _require_same(handle.fingerprint, wanted)
        kinds = products_of([used.first_step], config, handle, trained_ratio=speed.trained_ratio)
        extra_s = first_s - normal.num_tokens / speed.train_tokens_per_s - len(kinds) * speed.product_s
        close(handle)
        replies, decode_s = _replies(base, work_dir / "tuned", prompts, like=handle, place=place_of(config))
        parts = (work_dir / "state", work_dir / "tuned")
        size = sum(path.stat().st_size for part in parts for path in part.rglob("*") if path.is_file())
    finally:
        close(handle)
        shutil.rmtree(work_dir, ignore_errors=True)
    return Rehearsal(
        speed=replace(speed, save_s=save_s, optim_s=optim_s, first_step_extra_s=max(0.0, extra_s)),
        execution=execution,
        load_s=load_s,
        dev_s=dev_s,
        save_s=save_s,
        resume_s=resume_s,
        decode_s=decode_s,
        checkpoint_gib=size / 2**30,
        reply_tokens=replies,
        seconds=time.perf_counter() - started,
    )


def _used(train: Sequence[RenderedRow], dev: Sequence[RenderedRow], config: TuneConfig) -> RunRows:
    """The rows of the rehearsal, read as often as the run will read its own."""
    steps = normal_steps(train, config)
    rows = [*longest_step(train, config), *(row for step in steps for row in step), *_scored(dev, config)]
    ahead = look_ahead([len(row.tokens) for row in train], [], config=config, threads=1)
    return RunRows(all=rows, mean_reads=ahead.mean_reads, first_step=steps[0])


def _loaded(base: BaseModel | Path, config: TuneConfig, *, seed: int, threads: int | None) -> tuple[Handle, float]:
    """What trains, and the seconds it took to load."""
    start = time.perf_counter()
    handle = load_trainee(base, config, seed=seed, options=Options(threads=threads))
    return handle, time.perf_counter() - start


def _step(handle: Handle, batch: Batch, lr: float) -> tuple[float, float]:
    """One whole step; its seconds up to the gradient, and those of the optimizer."""
    computed = forward_backward(handle, batch, Linear()).result()
    return computed.seconds, optim_step(handle, lr=lr).result().seconds


def _scored(dev: Sequence[RenderedRow], config: TuneConfig) -> list[RenderedRow]:
    """The dev rows one score is rehearsed on: the first within the limit, at most `DEV_TOKENS` tokens."""
    kept: list[RenderedRow] = []
    for row in dev:
        if len(row.tokens) <= config.max_row_tokens:
            if kept and sum(len(each.tokens) for each in kept) + len(row.tokens) > DEV_TOKENS:
                break
            kept.append(row)
    return kept


def _arranged(handle: Handle, rows: RunRows, config: TuneConfig, work_dir: Path, *, resumed: bool) -> Execution:
    """The form the run is computed in, chosen as the run chooses it; the layout, where it is open, by timing both."""
    work_dir.mkdir(parents=True, exist_ok=True)
    step_tokens = config.step_tokens or sum(len(row.tokens) for row in rows.first_step)
    with_step = replace(config, step_tokens=step_tokens)
    options = Options(trunk_dir=work_dir / "trunk", times_layouts=True)
    return arrange(handle, rows, with_step, out_dir=work_dir, resumed=resumed, options=options)


def _score(handle: Handle, dev: Sequence[RenderedRow]) -> float:
    """Seconds of one dev score.

    Raises:
        DataError: no dev row within the limit.
    """
    start = time.perf_counter()
    logprobs(handle, make_batch(dev)).result()
    return time.perf_counter() - start


def _save(handle: Handle, work_dir: Path) -> float:
    """Seconds of one checkpoint and one export."""
    start = time.perf_counter()
    save_state(handle, work_dir / "state")
    write = export_adapter if handle.full is None else export_model
    write(handle, work_dir / "tuned")
    return time.perf_counter() - start


def _resumed(
    base: BaseModel | Path,
    config: TuneConfig,
    used: RunRows,
    *,
    lr: float,
    work_dir: Path,
    seed: int,
    threads: int | None,
) -> tuple[Handle, float, float]:
    """A fresh handle after checkpoint and next step, the seconds both took, and those of the step up to its gradient.

    Drawn from another seed than the first: what the checkpoint does not bring back would show.
    """
    start = time.perf_counter()
    handle, _ = _loaded(base, config, seed=seed, threads=threads)
    _arranged(handle, used, config, work_dir, resumed=True)
    load_state(handle, work_dir / "state")
    first_s, _ = _step(handle, make_batch(used.first_step), lr)
    return handle, time.perf_counter() - start, first_s


def _require_same(resumed: str, wanted: str) -> None:
    if resumed != wanted:
        raise ModelError(
            f"rehearsal: the step after a resumption gave {resumed[:12]}, without one {wanted[:12]}; expected the "
            "same bits. A killed run would end as another model: report this with the output of `metier doctor`."
        )


def _replies(
    base: BaseModel | Path, tuned_dir: Path, prompts: Prompts | None, *, like: Handle, place: Place
) -> tuple[tuple[tuple[int, ...], ...], float]:
    """What was exported answers, in tokens, computed as `like` is; and the seconds of loading and writing."""
    if prompts is None:
        return (), 0.0
    start = time.perf_counter()
    dtype: DtypeName = "bf16" if like.dtype.itemsize == 2 else "fp32"
    handle = load_tuned(base, tuned_dir, base_sha256=like.base_sha256, dtype=dtype, threads=like.threads, place=place)
    try:
        found = dict(sample(handle, prompts.tokens, prompts.params))
        return tuple(tuple(found[i].tokens) for i in range(len(found))), time.perf_counter() - start
    finally:
        close(handle)
