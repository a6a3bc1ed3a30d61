"""What a run will take, before it starts: minutes from a measured speed, memory from the shapes.

    >>> speed = measure_speed(handle, rows, config, runtime_gib=0.3)  # doctest: +SKIP
    >>> estimate(train_tokens=[180] * 1000, dev_tokens=[180] * 100, shape=shape, config=config, speed=speed)
    ... # doctest: +SKIP
    TuneEstimate(minutes=11.2, memory=MemoryParts(...), num_steps=176)

Speed is measured on this machine for a few seconds and carried to other depths by counting products. What a run
is made of, load and checkpoints included, is rehearsed in `rehearsing.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metier.core.errors import DataError
from metier.core.tune_config import DpoConfig, TuneConfig
from metier.engine import Handle, Linear, forward_backward, logprobs, make_batch
from metier.engine.loop import trainer_of
from metier.engine.weight_files import weight_paths
from metier.engine.weights import LlamaShape, linear_widths
from metier.tune.memory import Machine, MemoryParts, peak_memory, stored_bytes
from metier.tune.schedule import DEFAULT_PASSES, step_tokens_of
from metier.tune.steps_ahead import Lengths, look_ahead

if TYPE_CHECKING:
    from metier.render import RenderedRow

__all__ = ["Speed", "TuneEstimate", "estimate", "estimate_pairs", "measure_speed"]

CHECKPOINT_S = 0.5
"""One checkpoint and one export, flushed to disk, where none was rehearsed."""
SCORED_SHARE = 0.3
"""What compiling for a size of scored micro-batches takes of what it takes for a trained one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What was measured on this machine."""

    train_tokens_per_s: float
    """Real tokens of a step a second, with `depth` adapted layers."""
    score_tokens_per_s: float
    """Real tokens a second of the dev loss."""
    depth: int
    trained_ratio: float
    """Share of the measured tokens that were trained."""
    threads: int
    product_bytes: int
    seconds: float
    """Time the measurement took."""
    runtime_gib: float = 0.0
    """What the process held before the base was loaded."""
    file_bytes: int = 0
    """Bytes of the base's safetensors."""
    has_stored: bool = False
    """Whether states of the frozen layers were read from disk when it was measured."""
    width_s: float = 0.0
    """Seconds to compile the products of one size of micro-batch."""
    longest_step_s: float = 0.0
    """Seconds of the step around the longest row, the first of the process: memory is taken, products are compiled."""
    optim_s: float = 0.0
    """Seconds of one optimizer step, where it was measured apart."""
    save_s: float = CHECKPOINT_S
    """Seconds of one checkpoint and one export."""

    @property
    def machine(self) -> Machine:
        """What of the machine enters the count of memory."""
        return Machine(
            threads=self.threads,
            product_bytes=self.product_bytes,
            runtime_gib=self.runtime_gib,
            file_bytes=self.file_bytes,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneEstimate:
    """What a run is predicted to take."""

    minutes: float
    """Steps, dev scores and checkpoints; loading the base comes on top."""
    memory: MemoryParts
    """Peak memory of the process, by part."""
    num_steps: int

    @property
    def gib(self) -> float:
        """Peak memory of the process."""
        return self.memory.gib


def estimate(
    *,
    train_tokens: Sequence[int],
    dev_tokens: Sequence[int],
    shape: LlamaShape,
    config: TuneConfig,
    speed: Speed,
) -> TuneEstimate:
    """Minutes and peak memory of tuning on rows of these lengths.

    Where patience ends a run early, it takes less than this.
    """
    return _estimate(train_tokens, dev_tokens, shape, config, speed)


def estimate_pairs(
    *,
    train_pairs: Sequence[tuple[int, int]],
    dev_pairs: Sequence[tuple[int, int]],
    shape: LlamaShape,
    config: TuneConfig,
    speed: Speed,
) -> TuneEstimate:
    """Minutes and peak memory of learning from pairs, given the lengths of both rows of each; their reference included.

    The tuning on gold replies before it, and the drawing of mined pairs, come on top.
    """
    settings = config.dpo or DpoConfig()
    found = _estimate(train_pairs, dev_pairs, shape, replace(config, passes=settings.passes), speed, has_reference=True)
    reference_s = sum(map(sum, (*train_pairs, *dev_pairs))) / speed.score_tokens_per_s
    return replace(found, minutes=found.minutes + reference_s / 60)


def _estimate(
    train: Lengths, dev: Lengths, shape: LlamaShape, config: TuneConfig, speed: Speed, *, has_reference: bool = False
) -> TuneEstimate:
    depth = min(config.depth or shape.num_layers, shape.num_layers)
    scores_train = has_reference or (0 < depth < shape.num_layers and config.trunk_gib > 0)
    ahead = look_ahead(train, dev, config=config, threads=speed.threads, scores_train=scores_train)
    is_stored = stored_bytes(shape, replace(config, depth=depth), ahead) > 0
    ratio = speed.trained_ratio
    per_cost = 1 / step_cost(shape, speed.depth, ratio, is_stored=speed.has_stored) / speed.train_tokens_per_s
    train_s = ahead.num_tokens * per_cost * step_cost(shape, depth, ratio, is_stored=is_stored)
    train_s += ahead.num_steps * speed.optim_s
    evals = min(config.evals, ahead.num_steps)
    per_score = 1 / score_cost(shape, speed.depth, ratio, is_stored=speed.has_stored) / speed.score_tokens_per_s
    dev_s = (evals + 1) * ahead.dev_tokens * per_score * score_cost(shape, depth, ratio, is_stored=is_stored)
    if is_stored:  # every row once through the frozen layers
        dev_s += ahead.row_tokens * per_score * score_cost(shape, shape.num_layers - depth, 0.0, is_stored=True)
    compile_s = (ahead.num_widths + SCORED_SHARE * ahead.num_scored_widths) * speed.width_s
    return TuneEstimate(
        minutes=(train_s + dev_s + compile_s + evals * speed.save_s) / 60,
        memory=peak_memory(shape, config, ahead, speed.machine, trained_ratio=speed.trained_ratio),
        num_steps=ahead.num_steps,
    )


def step_cost(shape: LlamaShape, depth: int, trained_ratio: float, *, is_stored: bool) -> float:
    """Multiplications a token of one step: layers forward, the top `depth` also backward, the head thrice.

    Layers whose states are stored take none.
    """
    layer = sum(width_in * width_out for width_in, width_out in linear_widths(shape).values())
    head = shape.vocab * shape.width * trained_ratio
    # 1.15: the low-rank parts, norms and attention of a backward layer cost more than those of a forward one.
    return layer * ((depth if is_stored else shape.num_layers) + 1.15 * depth) + 2 * head


def score_cost(shape: LlamaShape, depth: int, trained_ratio: float, *, is_stored: bool) -> float:
    """Multiplications a token of one forward pass with its loss."""
    layer = sum(width_in * width_out for width_in, width_out in linear_widths(shape).values())
    return layer * (depth if is_stored else shape.num_layers) + shape.vocab * shape.width * trained_ratio


def normal_and_longest(rows: Sequence[RenderedRow], config: TuneConfig) -> tuple[list[RenderedRow], list[RenderedRow]]:
    """Rows of a step of usual size, and of a step around the longest row.

    Raises:
        DataError: no row within the limit.
    """
    kept = [row for row in rows if len(row.tokens) <= config.max_row_tokens]
    if not kept:
        raise DataError(f"measure_speed: 0 of {len(rows)} rows have at most {config.max_row_tokens} tokens.")
    num_tokens = round((config.passes or DEFAULT_PASSES) * sum(len(row.tokens) for row in kept))
    step_tokens = step_tokens_of(config, num_tokens)
    longest = max(kept, key=lambda row: len(row.tokens))
    return _filled(kept, step_tokens), _filled([longest, *kept], step_tokens)


def _filled(rows: Sequence[RenderedRow], step_tokens: int) -> list[RenderedRow]:
    """The first rows that make about one step."""
    step: list[RenderedRow] = []
    num_tokens = 0
    for row in rows:
        if step and num_tokens + len(row.tokens) / 2 > step_tokens:
            break
        step.append(row)
        num_tokens += len(row.tokens)
    return step


def measure_speed(
    handle: Handle, rows: Sequence[RenderedRow], config: TuneConfig, *, runtime_gib: float = 0.0
) -> Speed:
    """Time a normal step, after one around the longest row has warmed the memory up; changes no weight.

    Raises:
        DataError: no row within the limit.
    """
    started = time.perf_counter()
    normal, longest = normal_and_longest(rows, config)
    trainer = trainer_of(handle)
    first = forward_backward(handle, make_batch(longest), Linear()).result()
    batch = make_batch(normal)
    # The first step of a shape compiles its products, which a run does once a shape: told apart from the rest.
    cold, *warm = [forward_backward(handle, batch, Linear()).result() for _ in range(3)]
    trainer.verbs.submit(trainer.discard).result()
    logprobs(handle, batch).result()
    start = time.perf_counter()
    logprobs(handle, batch).result()
    score_s = time.perf_counter() - start
    train_s = sum(stats.seconds for stats in warm) / len(warm)
    lengths = [len(row.tokens) for row in normal]
    one = look_ahead(lengths, [], config=_whole(config), threads=handle.threads)
    trained = handle.require_trained("measure_speed")
    return Speed(
        train_tokens_per_s=cold.num_tokens / train_s,
        score_tokens_per_s=cold.num_tokens / score_s,
        depth=handle.shape.num_layers - trained.first_layer,
        trained_ratio=cold.num_trained / cold.num_tokens,
        threads=handle.threads,
        product_bytes=handle.dtype.itemsize,
        seconds=time.perf_counter() - started,
        runtime_gib=runtime_gib,
        file_bytes=sum(path.stat().st_size for path in weight_paths(handle.base_dir)),
        has_stored=trainer.form.trunk is not None,
        width_s=max(0.0, cold.seconds - train_s) / one.num_widths,
        longest_step_s=first.seconds,
    )


def _whole(config: TuneConfig) -> TuneConfig:
    """The settings under which any rows are one step of one pass."""
    return TuneConfig(max_row_tokens=config.max_row_tokens, passes=1.0, step_tokens=10**9)
