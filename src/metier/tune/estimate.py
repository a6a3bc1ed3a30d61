"""What a run will take, before it starts: minutes from a measured speed, memory from the shapes.

    >>> speed = measure_speed(handle, rows, config)  # doctest: +SKIP
    >>> estimate(num_tokens=200_000, dev_tokens=20_000, shape=shape, config=config, speed=speed)  # doctest: +SKIP
    TuneEstimate(minutes=11.2, gib=1.9, num_steps=195)

Speed is measured on this machine for a few seconds and carried to other depths by counting products.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metier.core.errors import DataError
from metier.core.tune_config import TuneConfig
from metier.engine import Handle, Linear, forward_backward, logprobs, make_batch
from metier.engine.attention import QUERY_BLOCK
from metier.engine.compact import MICRO_TOKENS
from metier.engine.head import CHUNK
from metier.engine.loop import MIN_WORKER_TOKENS, trainer_of
from metier.engine.peft_files import linear_widths
from metier.engine.weights import LlamaShape
from metier.tune.schedule import DEFAULT_PASSES, step_tokens_of

if TYPE_CHECKING:
    from metier.render import RenderedRow

__all__ = ["Speed", "TuneEstimate", "estimate", "measure_speed"]

RUNTIME_GIB = 0.65
"""What Python, torch and their threads hold beside tensors (measured, docs/tune.md)."""
CHECKPOINT_S = 0.5
"""One checkpoint and one export, flushed to disk."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneEstimate:
    """What a run is predicted to take."""

    minutes: float
    gib: float
    """Peak memory of the process."""
    num_steps: int


def estimate(
    *,
    num_tokens: int,
    dev_tokens: int,
    shape: LlamaShape,
    config: TuneConfig,
    speed: Speed,
    longest_row: int = 0,
) -> TuneEstimate:
    """Minutes and peak memory of tuning on rows of `num_tokens` tokens in all, `longest_row` in the longest."""
    depth = min(config.depth or shape.num_layers, shape.num_layers)
    measured = step_cost(shape, speed.depth, speed.trained_ratio)
    passes = config.passes or DEFAULT_PASSES
    config = replace(config, step_tokens=step_tokens_of(config, round(passes * num_tokens)))
    train_s = passes * num_tokens / speed.train_tokens_per_s
    train_s *= step_cost(shape, depth, speed.trained_ratio) / measured
    num_steps = max(1, round(passes * num_tokens / config.step_tokens))
    evals = min(config.evals, num_steps)
    dev_s = (evals + 1) * dev_tokens / speed.score_tokens_per_s + evals * CHECKPOINT_S
    gib = peak_gib(
        shape,
        config,
        depth=depth,
        threads=speed.threads,
        product_bytes=speed.product_bytes,
        longest_row=longest_row or min(config.max_row_tokens, config.step_tokens),
    )
    return TuneEstimate(minutes=(train_s + dev_s) / 60, gib=gib, num_steps=num_steps)


def step_cost(shape: LlamaShape, depth: int, trained_ratio: float) -> float:
    """Multiplications a token of one step: every layer forward, the top `depth` also backward, the head thrice."""
    layer = sum(width_in * width_out for width_in, width_out in linear_widths(shape).values())
    head = shape.vocab * shape.width * trained_ratio
    # 1.15: the low-rank parts, norms and attention of a backward layer cost more than those of a forward one.
    return layer * (shape.num_layers + 1.15 * depth) + 2 * head


def peak_gib(
    shape: LlamaShape, config: TuneConfig, *, depth: int, threads: int, product_bytes: int, longest_row: int
) -> float:
    """Peak memory of a run, counted from the tensors that exist at once."""
    widths = linear_widths(shape)
    d, f, q = shape.width, shape.ff_width, shape.num_heads * shape.head_width
    kv = shape.num_kv_heads * shape.head_width
    p = product_bytes
    layer_weights = sum(width_in * width_out for width_in, width_out in widths.values()) + 2 * d
    num_embeddings = 1 if shape.tied_head else 2
    base = p * (shape.num_layers * layer_weights + num_embeddings * shape.vocab * d + d)
    masters = depth * config.rank * sum(map(sum, widths.values()))
    workers = max(1, min(threads, config.step_tokens // MIN_WORKER_TOKENS))
    # fp32 masters, two moments, one export; a gradient per worker; copies for the products.
    adapter = masters * (4 * 4 + 4 * workers + 2 * p)
    tokens = max(min(MICRO_TOKENS, config.step_tokens // workers), longest_row)
    kept = p * (2 * d + 2 * q + 2 * kv + 2 * f + 7 * config.rank) + 8 * d + 8
    kept += p * (q + kv) if shape.has_head_norm else 0  # queries and keys before their norm
    weights = 3 * shape.num_heads * min(longest_row, QUERY_BLOCK)
    passing = p * (4 * d + 3 * (q + 2 * kv) + 5 * f + 4 * q + weights) + 4 * (4 * d + 2 * (q + kv))
    # In bf16 the logits exist twice, and oneDNN holds a reordered copy of the head for each worker.
    head = CHUNK * shape.vocab * 4 + (p * shape.vocab * (CHUNK + d) if p < 4 else 0)
    activations = workers * (tokens * (depth * kept + passing) + head)
    return RUNTIME_GIB + (base + adapter + activations) / 2**30


def measure_speed(handle: Handle, rows: Sequence[RenderedRow], config: TuneConfig) -> Speed:
    """Time a normal step, after the longest rows have warmed the memory up; a few seconds, changes no weight.

    Raises:
        DataError: no row within the limit.
    """
    started = time.perf_counter()
    kept = [row for row in rows if len(row.tokens) <= config.max_row_tokens]
    if not kept:
        raise DataError(f"measure_speed: 0 of {len(rows)} rows have at most {config.max_row_tokens} tokens.")
    step_tokens = step_tokens_of(
        config, round((config.passes or DEFAULT_PASSES) * sum(len(row.tokens) for row in kept))
    )
    normal: list[RenderedRow] = []
    num_tokens = 0
    for row in kept:
        if normal and num_tokens + len(row.tokens) > step_tokens:
            break
        normal.append(row)
        num_tokens += len(row.tokens)
    longest = max(kept, key=lambda row: len(row.tokens))
    trainer = trainer_of(handle)
    forward_backward(handle, make_batch([longest, *normal[: len(normal) // 4]]), Linear()).result()
    batch = make_batch(normal)
    # Twice: the first step of a shape compiles its products, which a run does once and this would count in full.
    stats = [forward_backward(handle, batch, Linear()).result() for _ in range(2)][-1]
    trainer.verbs.submit(trainer.discard).result()
    start = time.perf_counter()
    logprobs(handle, batch).result()
    score_s = time.perf_counter() - start
    adapter = handle.require_adapter("measure_speed")
    return Speed(
        train_tokens_per_s=stats.num_tokens / stats.seconds,
        score_tokens_per_s=stats.num_tokens / score_s,
        depth=handle.shape.num_layers - adapter.first_layer,
        trained_ratio=stats.num_trained / stats.num_tokens,
        threads=handle.threads,
        product_bytes=handle.dtype.itemsize,
        seconds=time.perf_counter() - started,
    )
