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
from metier.tune.kernels import Product, products, stored_products
from metier.tune.memory import Machine, MemoryParts, peak_memory, stored_bytes
from metier.tune.schedule import DEFAULT_PASSES, step_tokens_of
from metier.tune.steps_ahead import Lengths, look_ahead

if TYPE_CHECKING:
    from metier.render import RenderedRow

__all__ = ["Speed", "TuneEstimate", "estimate", "estimate_pairs", "measure_speed"]

NUM_TIMED_STEPS = 3
"""Steps of different rows whose speed is measured."""
USUAL_PRODUCT_S, MAX_PRODUCT_S, MIN_NEW_PRODUCTS = 0.002, 0.005, 20
"""Seconds that oneDNN takes to compile one product, 1 to 5 ms (measured, `metier.engine.batch`); new products from
which it is measured here."""
CHECKPOINT_S = 0.5
"""One checkpoint and one export, flushed to disk, where none was rehearsed."""


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
    product_s: float = 0.0
    """Seconds that a product of a new shape takes longer, the first time."""
    longest_step_s: float = 0.0
    """Seconds of the step around the longest row."""
    first_step_extra_s: float = 0.0
    """Seconds that the first step of a handle takes longer, its products apart: memory is taken, threads start."""
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
    return _estimate(train_pairs, dev_pairs, shape, replace(config, passes=settings.passes), speed, has_reference=True)


def _estimate(
    train: Lengths, dev: Lengths, shape: LlamaShape, config: TuneConfig, speed: Speed, *, has_reference: bool = False
) -> TuneEstimate:
    depth = min(config.depth or shape.num_layers, shape.num_layers)
    ahead = look_ahead(train, dev, config=config, threads=speed.threads, has_reference=has_reference)
    is_stored = stored_bytes(shape, replace(config, depth=depth), ahead) > 0
    ratio = speed.trained_ratio
    per_cost = 1 / step_cost(shape, speed.depth, ratio, is_stored=speed.has_stored) / speed.train_tokens_per_s
    # A loss of pairs needs every log-probability before it has a gradient: the head goes forward once more.
    cost = step_cost(shape, depth, ratio, is_stored=is_stored) + has_reference * head_cost(shape, ratio)
    train_s = speed.first_step_extra_s + ahead.num_tokens * per_cost * cost + ahead.num_steps * speed.optim_s
    evals = min(config.evals, ahead.num_steps)
    per_score = 1 / score_cost(shape, speed.depth, ratio, is_stored=speed.has_stored) / speed.score_tokens_per_s
    scored = (evals + 1) * ahead.dev_tokens + has_reference * ahead.row_tokens
    dev_s = scored * per_score * score_cost(shape, depth, ratio, is_stored=is_stored)
    if is_stored:  # every row once through the frozen layers
        dev_s += ahead.row_tokens * per_score * score_cost(shape, shape.num_layers - depth, 0.0, is_stored=True)
    kinds = products(shape, config, ahead, depth=depth, trained_ratio=ratio, is_stored=is_stored)
    kinds |= stored_products(shape, config, ahead) if is_stored else frozenset()
    compile_s = len(kinds) * speed.product_s
    return TuneEstimate(
        minutes=(train_s + dev_s + compile_s + evals * speed.save_s) / 60,
        memory=peak_memory(shape, config, ahead, speed.machine, trained_ratio=speed.trained_ratio),
        num_steps=ahead.num_steps,
    )


def step_cost(shape: LlamaShape, depth: int, trained_ratio: float, *, is_stored: bool) -> float:
    """Multiplications a token of one step: layers forward, the top `depth` also backward, the head both ways.

    Layers whose states are stored take none.
    """
    layer = sum(width_in * width_out for width_in, width_out in linear_widths(shape).values())
    # 1.15: the low-rank parts, norms and attention of a backward layer cost more than those of a forward one.
    return layer * ((depth if is_stored else shape.num_layers) + 1.15 * depth) + 2 * head_cost(shape, trained_ratio)


def score_cost(shape: LlamaShape, depth: int, trained_ratio: float, *, is_stored: bool) -> float:
    """Multiplications a token of one forward pass with its loss."""
    layer = sum(width_in * width_out for width_in, width_out in linear_widths(shape).values())
    return layer * (depth if is_stored else shape.num_layers) + head_cost(shape, trained_ratio)


def head_cost(shape: LlamaShape, trained_ratio: float) -> float:
    """Multiplications a token of the head, forward, where that share of the tokens is trained."""
    return shape.vocab * shape.width * trained_ratio


def normal_steps(rows: Sequence[RenderedRow], config: TuneConfig) -> list[list[RenderedRow]]:
    """Rows of steps of usual size, `NUM_TIMED_STEPS` of different rows where there are enough.

    Raises:
        DataError: no row within the limit.
    """
    left, step_tokens = _kept(rows, config)
    steps: list[list[RenderedRow]] = []
    while left and len(steps) < NUM_TIMED_STEPS:
        steps.append(_filled(left, step_tokens))
        left = left[len(steps[-1]) :]
    return steps


def longest_step(rows: Sequence[RenderedRow], config: TuneConfig) -> list[RenderedRow]:
    """Rows of a step around the longest.

    Raises:
        DataError: no row within the limit.
    """
    kept, step_tokens = _kept(rows, config)
    return _filled([max(kept, key=lambda row: len(row.tokens)), *kept], step_tokens)


def _kept(rows: Sequence[RenderedRow], config: TuneConfig) -> tuple[list[RenderedRow], int]:
    """The rows within the limit, and the tokens of a step of them."""
    kept = [row for row in rows if len(row.tokens) <= config.max_row_tokens]
    if not kept:
        raise DataError(f"measure_speed: 0 of {len(rows)} rows have at most {config.max_row_tokens} tokens.")
    num_tokens = round((config.passes or DEFAULT_PASSES) * sum(len(row.tokens) for row in kept))
    return kept, step_tokens_of(config, num_tokens)


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
    """Time a few normal steps, after one around the longest row has warmed the memory up; changes no weight.

    Raises:
        DataError: no row within the limit.
    """
    started = time.perf_counter()
    steps = normal_steps(rows, config)
    trainer = trainer_of(handle)
    longest = forward_backward(handle, make_batch(longest_step(rows, config)), Linear()).result()
    # The first step of a shape compiles its products, which a run does once a shape: told apart from the rest.
    _, *cold = [forward_backward(handle, make_batch(step), Linear()).result() for step in steps]
    warm = [forward_backward(handle, make_batch(step), Linear()).result() for step in steps]
    trainer.verbs.submit(trainer.discard).result()
    batch = make_batch(steps[0])
    logprobs(handle, batch).result()
    start = time.perf_counter()
    logprobs(handle, batch).result()
    score_s = time.perf_counter() - start
    num_tokens, num_trained = sum(step.num_tokens for step in warm), sum(step.num_trained for step in warm)
    ratio = num_trained / num_tokens
    known = products_of([longest_step(rows, config), steps[0]], config, handle, trained_ratio=ratio)
    new = products_of(steps, config, handle, trained_ratio=ratio) - known
    longer_s = sum(step.seconds for step in cold) - sum(step.seconds for step in warm[1:])
    product_s = seconds_of_product(longer_s, len(new), product_bytes=handle.dtype.itemsize)
    trained = handle.require_trained("measure_speed")
    return Speed(
        train_tokens_per_s=num_tokens / sum(step.seconds for step in warm),
        score_tokens_per_s=warm[0].num_tokens / score_s,
        depth=handle.shape.num_layers - trained.first_layer,
        trained_ratio=ratio,
        threads=handle.threads,
        product_bytes=handle.dtype.itemsize,
        seconds=time.perf_counter() - started,
        runtime_gib=runtime_gib,
        file_bytes=sum(path.stat().st_size for path in weight_paths(handle.base_dir)),
        has_stored=trainer.form.trunk is not None,
        product_s=product_s,
        longest_step_s=longest.seconds,
    )


def seconds_of_product(longer_s: float, num_new: int, *, product_bytes: int) -> float:
    """Seconds to compile a product, from how much longer steps with new ones took than the same steps again.

    Few new ones say little: then it is what was measured elsewhere. In fp32 nothing is compiled.
    """
    if product_bytes == 4:
        return 0.0
    return min(MAX_PRODUCT_S, max(0.0, longer_s / num_new)) if num_new >= MIN_NEW_PRODUCTS else USUAL_PRODUCT_S


def products_of(
    steps: Sequence[Sequence[RenderedRow]], config: TuneConfig, handle: Handle, *, trained_ratio: float
) -> frozenset[Product]:
    """Products of these steps, of which `config` says what trains."""
    found: frozenset[Product] = frozenset()
    first_layer = handle.require_trained("measure_speed").first_layer
    for step in steps:
        one = TuneConfig(max_row_tokens=config.max_row_tokens, passes=1.0, step_tokens=10**9)
        ahead = look_ahead([len(row.tokens) for row in step], [], config=one, threads=handle.threads)
        found |= products(
            handle.shape,
            config,
            ahead,
            depth=handle.shape.num_layers - first_layer,
            trained_ratio=trained_ratio,
            is_stored=trainer_of(handle).form.trunk is not None,
        )
    return found
