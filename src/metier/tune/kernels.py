"""How many products of different shape a run has in bf16: oneDNN compiles each and keeps it.

Counted by the shapes themselves, as oneDNN tells them apart, so that two layers of one size count once.

    >>> len(products(shape, config, ahead, depth=2, trained_ratio=0.4, is_stored=False))  # doctest: +SKIP
    391
"""

from __future__ import annotations

from collections.abc import Iterator

from metier.core.tune_config import TuneConfig
from metier.engine.attention import QUERY_BLOCK
from metier.engine.batch import TOKEN_MULTIPLE
from metier.engine.head import CHUNK, TRAINED_CHUNK
from metier.engine.products import GROUPS
from metier.engine.trunk import bin_tokens
from metier.engine.weights import LlamaShape, linear_widths
from metier.tune.steps_ahead import StepsAhead

__all__ = ["Product", "products", "stored_products", "trains_head"]

Product = tuple[str, int, int, int]
"""What it is for, rows, the width that is summed over, columns."""


def products(
    shape: LlamaShape, config: TuneConfig, ahead: StepsAhead, *, depth: int, trained_ratio: float, is_stored: bool
) -> frozenset[Product]:
    """Different products of the steps and scores of a run whose top `depth` layers train."""
    found: set[Product] = set()
    for widths, trains in ((ahead.widths, True), (ahead.scored_widths, False)):
        for n in widths:
            m = -(-round(trained_ratio * n) // TOKEN_MULTIPLE) * TOKEN_MULTIPLE
            found |= set(_of_layers(shape, config, n, m, depth=depth, trains=trains, is_stored=is_stored))
            has_gradient = trains and config.method == "full" and trains_head(shape, depth=depth)
            found |= set(_of_head(shape, m, trains=trains, has_gradient=has_gradient))
    for groups, trains in ((ahead.groups, True), (ahead.scored_groups, False)):
        for rows, length in groups:
            found |= set(_of_attention(shape, rows, length, trains=trains))
    return frozenset(found)


def stored_products(shape: LlamaShape, config: TuneConfig, ahead: StepsAhead) -> frozenset[Product]:
    """Different products of computing the states that are stored: they are met before the first step."""
    found: set[Product] = set()
    for n in map(bin_tokens, ahead.stored_lengths):
        for group in GROUPS:
            found |= set(_of_group(shape, config, group, n, adapted=False, trains=False))
    for length in ahead.stored_lengths:
        found |= set(_of_attention(shape, 1, length, trains=False))
    return frozenset(found)


def _of_layers(
    shape: LlamaShape, config: TuneConfig, n: int, m: int, *, depth: int, trains: bool, is_stored: bool
) -> Iterator[Product]:
    """Of a micro-batch of `n` tokens, `m` of them trained: the top layer computes only these after its keys."""
    has_more = depth > 1
    if depth < shape.num_layers and not is_stored:
        yield from (
            product for group in GROUPS for product in _of_group(shape, config, group, n, adapted=False, trains=False)
        )
    for group in GROUPS:
        if has_more or group == "qkv":
            yield from _of_group(shape, config, group, n, adapted=True, trains=trains)
        if group != "qkv":
            yield from _of_group(shape, config, group, m, adapted=True, trains=trains)


def _of_group(
    shape: LlamaShape, config: TuneConfig, group: str, rows: int, *, adapted: bool, trains: bool
) -> Iterator[Product]:
    """Of linear layers with one input: their product, its low-rank parts, and all of it on the way back."""
    widths = linear_widths(shape)
    width_in, width = widths[GROUPS[group][0]][0], sum(widths[name][1] for name in GROUPS[group])
    yield "forward", rows, width_in, width
    if trains:
        yield "back", rows, width, width_in
    if adapted and config.method == "full":
        if trains:
            yield "outer", width, rows, width_in
        return
    low = config.rank * sum(not config.targets or name in config.targets for name in GROUPS[group]) if adapted else 0
    if low:
        yield "forward", rows, width_in, low
        yield "up", rows, low, width
    if low and trains:
        yield "back", rows, width, low
        yield "back", rows, low, width_in
        yield "outer", low, rows, width_in
        yield "outer", low, rows, width


def trains_head(shape: LlamaShape, *, depth: int) -> bool:
    """Whether full tuning of the top `depth` layers trains the head: not where it shares frozen embeddings."""
    return depth == shape.num_layers or not shape.tied_head


def _of_head(shape: LlamaShape, m: int, *, trains: bool, has_gradient: bool) -> Iterator[Product]:
    """Of the chunks of `m` trained tokens."""
    chunk = TRAINED_CHUNK if has_gradient else CHUNK
    for rows in {min(m, chunk), m % chunk} - {0}:
        yield "forward", rows, shape.width, shape.vocab
        if trains:
            yield "back", rows, shape.vocab, shape.width
        if has_gradient:
            yield "outer", shape.vocab, rows, shape.width


def _of_attention(shape: LlamaShape, rows: int, length: int, *, trains: bool) -> Iterator[Product]:
    """Of rows padded to one length: scores and values of each block of queries, and on the way back their gradients."""
    per_key = shape.num_heads // shape.num_kv_heads
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        queries = (stop - start) * per_key
        # Batches of another number of rows, and rows of another length, are other products.
        at = f"{rows} x {length}"
        yield f"scores {at}", queries, shape.head_width, stop
        yield f"values {at}", queries, stop, shape.head_width
        if trains:
            yield f"keys {at}", stop, queries, shape.head_width
