"""What a run lets the machine decide, with its reason: the layout of rows, and whether memory asks for checkpoints.

>>> choose_layout(handle, rows).name  # doctest: +SKIP
'packed'
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from metier.core.errors import counted
from metier.engine.batch import TokenRow, make_batch
from metier.engine.form import Choice, Layout
from metier.engine.handle import Handle
from metier.engine.head import CHUNK
from metier.engine.loop import forward_backward, trainer_of
from metier.engine.losses import Linear
from metier.engine.weights import LlamaShape

__all__ = ["choose_checkpointing", "choose_layout", "step_bytes"]

ENOUGH_S = 12.0
"""Seconds after which no further turn begins: a step of the default takes some of them on two cores."""
WORTH_RATIO = 0.97
"""A layout other than packed is taken where its steps need at most this share of the time: less is noise."""


def choose_layout(handle: Handle, rows: Sequence[TokenRow], *, repeats: int = 5) -> Choice:
    """The layout in which a step of these rows takes less time; the two take turns, at most `repeats` steps each.

    A few steps' time, after `ENOUGH_S` no further turn; no weight changes, and gradients of a step that was begun are
    thrown away.

    Raises:
        ModelError: the handle has no adapter, or a loss is not finite.
    """
    trainer = trainer_of(handle)
    batch, form = make_batch(rows), trainer.form
    layouts: tuple[Layout, Layout] = ("packed", "padded")
    seconds: dict[Layout, list[float]] = {layout: [] for layout in layouts}
    try:
        began = time.perf_counter()
        for turn in range(repeats + 1):
            if turn > 1 and time.perf_counter() - began > ENOUGH_S:
                break
            for layout in layouts if turn % 2 else layouts[::-1]:
                trainer.form = replace(form, layout=layout)
                start = time.perf_counter()
                forward_backward(handle, batch, Linear()).result()
                if turn:  # the first step of a shape compiles its products
                    seconds[layout].append(time.perf_counter() - start)
    finally:
        trainer.form = form
        trainer.verbs.submit(trainer.discard).result()
    ratio = median(padded / packed for packed, padded in zip(seconds["packed"], seconds["padded"], strict=True))
    name: Layout = "padded" if ratio <= WORTH_RATIO else "packed"
    told = (
        f"padded steps took {ratio:.2f} of the time of packed ones, median of {counted(len(seconds['packed']), 'turn')}"
    )
    return Choice(name=name, reason=told, seconds={each: median(seconds[each]) for each in layouts})


def choose_checkpointing(handle: Handle, *, micro_tokens: int, workers: int, free_bytes: float) -> Choice:
    """On only where a step would not fit into the free memory without.

    `micro_tokens` is the largest number of tokens a worker computes at a time. An error is not raised where even
    with checkpoints it does not fit: the prediction is a count, and the plan refuses before.
    """
    depth = handle.shape.num_layers - handle.require_trained("tune").first_layer
    sizes = {
        is_on: workers
        * step_bytes(
            handle.shape, depth=depth, tokens=micro_tokens, value_bytes=handle.dtype.itemsize, checkpointing=is_on
        )
        for is_on in (False, True)
    }
    need, least, free = sizes[False] / 2**30, sizes[True] / 2**30, free_bytes / 2**30
    if sizes[False] <= free_bytes:
        return Choice(name="off", reason=f"a step needs {need:.2f} GiB beside the base, {free:.2f} are free")
    return Choice(
        name="on", reason=f"a step needs {need:.2f} GiB beside the base and {free:.2f} are free; with it {least:.2f}"
    )


def step_bytes(shape: LlamaShape, *, depth: int, tokens: int, value_bytes: int, checkpointing: bool) -> float:
    """Bytes of one worker's step over `tokens` tokens: what the way back reads, and what passes."""
    d, f, q = shape.width, shape.ff_width, shape.num_heads * shape.head_width
    qkv = q + 2 * shape.num_kv_heads * shape.head_width
    # Of a block: two norms, q k v, attention's output, gate and up; and two pieces of the residual stream in fp32.
    inner = value_bytes * (2 * d + qkv + q + 2 * f) + 4 * d
    kept = 4 * d * depth + inner * (1 if checkpointing else depth)
    passing = value_bytes * (4 * d + 3 * qkv + 5 * f) + 4 * (4 * d + 2 * qkv)
    logits = CHUNK * shape.vocab * (4 if value_bytes == 4 else 4 + value_bytes)
    return tokens * (kept + passing) + logits
