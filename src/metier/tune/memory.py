"""Peak memory of a tuning run on this engine, counted from the tensors that exist at once.

    >>> peak_memory(shape, config, ahead, machine, trained_ratio=0.4).gib  # doctest: +SKIP
    2.4

Every part is told apart, so that a refusal can say what to make smaller.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path

import torch

from metier.core.tune_config import TuneConfig
from metier.engine.attention import QUERY_BLOCK
from metier.engine.cuda import CONTEXT_GIB
from metier.engine.head import CHUNK, TRAINED_CHUNK
from metier.engine.products import GROUPS
from metier.engine.trunk import bin_tokens
from metier.engine.weights import LlamaShape, linear_widths
from metier.tune.kernels import products, stored_products, trains_head
from metier.tune.schedule import MIN_READS
from metier.tune.steps_ahead import StepsAhead

__all__ = ["Machine", "MemoryParts", "available_gib", "peak_memory", "resident_gib", "runtime_gib"]

GIB = 2**30
KERNEL_BYTES = 0.7 * 2**20
"""What oneDNN keeps of one compiled product (measured on seven kinds of products, 60 shapes each: 0.63 to 0.72 MiB)."""
MAX_KERNELS = 1024
"""Each worker forgets the oldest beyond."""
PADDED = 1.1
"""Places of attention over tokens: rows of a group are padded to its longest (measured, 1.02 to 1.2)."""
MOST_TRAINED = 1.5
"""Share of trained tokens in the micro-batch with most of them, over that of all rows."""
ADAPTER_BYTES = 12
"""Bytes a value of an adapter takes beside masters, moments and gradients: drawn, scaled and exported in fp32."""
QUANTISED_BYTES = 0.55
"""Bytes of a 4-bit weight with its scales, .5 to .6."""
MOMENT_BYTES = {"adamw": 4.0, "adamw8bit": 1 + 4 / 256}
"""Bytes of one of a trained value's two moments; in 8 bits 256 of them share a scale."""
NAMES_A_LAYER, ROUNDING = 12, 65536 / 2
"""Buffers a kept block has, and values by which one is larger than asked for, on average."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What of this machine enters the count."""

    threads: int
    product_bytes: int
    """Bytes of a value in the products: 2 (bf16) or 4."""
    runtime_gib: float
    """What the process held before the base was loaded: interpreter, torch and what else is imported (measured)."""
    file_bytes: int = 0
    """Bytes of the base's safetensors; read whole before they are laid out."""
    compiles: bool = True
    """Whether products are compiled for every size, as oneDNN does in bf16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryParts:
    """Peak memory by part, GiB."""

    runtime: float
    """Interpreter, torch, imports."""
    base: float
    """The base's weights."""
    trained: float
    """Masters, moments, gradients, and copies for the products."""
    activations: float
    """What the backward pass reads, and what passes."""
    head: float
    """Logits of one chunk a worker."""
    kernels: float
    """Compiled products."""
    stored: float
    """States of the frozen layers, mapped from disk."""

    @property
    def gib(self) -> float:
        """All parts together."""
        return float(sum(getattr(self, f.name) for f in fields(self)))  # getattr: every field is a part

    def as_text(self) -> str:
        """The parts, largest first."""
        sizes = {f.name: float(getattr(self, f.name)) for f in fields(self)}  # getattr: every field is a part
        return ", ".join(f"{name} {sizes[name]:.2f}" for name in sorted(sizes, key=lambda name: -sizes[name]))


def peak_memory(
    shape: LlamaShape, config: TuneConfig, ahead: StepsAhead, machine: Machine, *, trained_ratio: float
) -> MemoryParts:
    """Peak memory of a run whose batches are `ahead`: of all its processes together, on CUDA of one device."""
    one = _peak_of_one(shape, config, ahead, machine, trained_ratio=trained_ratio)
    num = config.processes
    if num == 1 or config.device == "cuda":
        return one
    # Each holds the whole model and maps the same stored states; the one that began them waits beside.
    parts = {f.name: num * float(getattr(one, f.name)) for f in fields(one)}  # getattr: every field is a part
    return MemoryParts(**{**parts, "stored": one.stored, "runtime": parts["runtime"] + machine.runtime_gib})


def _peak_of_one(
    shape: LlamaShape, config: TuneConfig, ahead: StepsAhead, machine: Machine, *, trained_ratio: float
) -> MemoryParts:
    """Peak memory of each process of the run."""
    is_stored = stored_bytes(shape, config, ahead) > 0
    scores_at_once = machine.threads if is_stored else ahead.scoring_workers  # all of them fill the stored states
    training, scoring = (-(-num // config.processes) for num in (ahead.workers, scores_at_once))
    workers = max(training, scoring)  # one that only scores has a gradient and a head as well
    p = machine.product_bytes
    depth = min(config.depth or shape.num_layers, shape.num_layers)
    on_cpu = config.device == "cpu"
    base = base_bytes(shape, value_bytes=p, base_bits=config.base_bits)
    if config.method == "full" and p == 4:  # the products read the masters themselves
        base -= p * num_trained(shape, config, depth=depth)
    # While the base is laid out its file is in memory as well; what trains comes after. In the file's own precision
    # it stays mapped, all of it once read, beside the fused copies.
    laying_out = float(machine.file_bytes) if on_cpu else 0.0
    if on_cpu and round(machine.file_bytes / max(1, base_weights(shape))) == (4 if config.method == "full" else p):
        base += p * shape.num_layers * fused_weights(shape)
        laying_out = 0.0
    trained = trained_bytes(shape, config, depth=depth, workers=workers, product_bytes=p)
    activations = training * _activations(shape, config, ahead, depth=depth, p=p, trained_ratio=trained_ratio)
    activations += (workers - training) * _scoring(shape, config, ahead, p=p)
    head = workers * _head_bytes(shape, config, ahead, depth=depth, p=p, trained_ratio=trained_ratio)
    stored = stored_bytes(shape, config, ahead) if on_cpu else 0
    kernels = 0.0
    if machine.compiles and on_cpu and p < 4:
        kinds = products(shape, config, ahead, depth=depth, trained_ratio=trained_ratio, is_stored=stored > 0)
        kinds |= stored_products(shape, config, ahead) if stored else frozenset()
        kernels = min(workers * MAX_KERNELS, len(kinds)) * KERNEL_BYTES
    running = trained + activations + head + kernels
    return MemoryParts(
        runtime=machine.runtime_gib if on_cpu else CONTEXT_GIB,
        base=(base + max(0.0, laying_out - running)) / GIB,
        trained=trained / GIB,
        activations=activations / GIB,
        head=head / GIB,
        kernels=kernels / GIB,
        stored=stored / GIB,
    )


def stored_bytes(shape: LlamaShape, config: TuneConfig, ahead: StepsAhead) -> int:
    """Bytes of the states that enter the lowest trained layer, bf16; 0 where `arrange` stores none."""
    if not config.depth or config.depth >= shape.num_layers or ahead.mean_reads < MIN_READS:
        return 0
    wanted = 2 * shape.width * ahead.row_tokens
    return wanted if wanted <= config.trunk_gib * GIB else 0


def layer_weights(shape: LlamaShape) -> int:
    """Values of one block."""
    return sum(width_in * width_out for width_in, width_out in linear_widths(shape).values()) + 2 * shape.width


def fused_weights(shape: LlamaShape) -> int:
    """Values of the matrices of one block that are read apart and laid out as one: q, k, v; gate, up."""
    fused = (name for names in GROUPS.values() if len(names) > 1 for name in names)
    return sum(width_in * width_out for width_in, width_out in map(linear_widths(shape).__getitem__, fused))


def base_weights(shape: LlamaShape) -> int:
    """Values of the base."""
    embeddings = (1 if shape.tied_head else 2) * shape.vocab * shape.width
    return shape.num_layers * layer_weights(shape) + embeddings + shape.width


def base_bytes(shape: LlamaShape, *, value_bytes: int, base_bits: int) -> float:
    """Bytes of the base; in 4 bits its layers are, the embeddings and the head are not."""
    total, in_layers = base_weights(shape), shape.num_layers * layer_weights(shape)
    return value_bytes * (total - in_layers) + (QUANTISED_BYTES if base_bits == 4 else value_bytes) * in_layers


def num_trained(shape: LlamaShape, config: TuneConfig, *, depth: int) -> int:
    """Values that train: low-rank parts (with DoRA a magnitude per output), or all weights of the top layers."""
    if config.method == "full":
        head = 0 if shape.tied_head else shape.vocab * shape.width
        return base_weights(shape) if depth == shape.num_layers else depth * layer_weights(shape) + head + shape.width
    widths = [width for name, width in linear_widths(shape).items() if name in config.targets or not config.targets]
    magnitudes = sum(width_out for _, width_out in widths) if config.method == "dora" else 0
    return depth * (config.rank * sum(map(sum, widths)) + magnitudes)


def trained_bytes(shape: LlamaShape, config: TuneConfig, *, depth: int, workers: int, product_bytes: int) -> float:
    """Bytes of all that trains: masters, two moments and a gradient a worker, and copies."""
    values = num_trained(shape, config, depth=depth)
    kept = 4 + 2 * MOMENT_BYTES[config.optimizer] + 4 * workers
    if config.method == "full":
        # In bf16 the product that is a matrix's gradient has memory of its own before it is added in fp32.
        largest = max(2 * shape.ff_width, shape.vocab * trains_head(shape, depth=depth)) * shape.width
        return values * kept + (workers * product_bytes * largest if product_bytes < 4 else 0)
    widths = linear_widths(shape)
    # B of products that share an input lies in one block-diagonal matrix: thrice for q, k, v, twice for gate, up.
    qkv = sum(widths[name][1] for name in ("q_proj", "k_proj", "v_proj"))
    copies = 3 * widths["q_proj"][0] + 3 * qkv + sum(widths["o_proj"]) + sum(widths["down_proj"])
    copies += 2 * widths["gate_proj"][0] + 4 * widths["gate_proj"][1]
    return values * (kept + ADAPTER_BYTES) + depth * config.rank * copies * product_bytes


def _head_bytes(
    shape: LlamaShape, config: TuneConfig, ahead: StepsAhead, *, depth: int, p: int, trained_ratio: float
) -> float:
    """Bytes of one worker's logits, of one chunk of trained tokens at a time."""
    trains = config.method == "full" and trains_head(shape, depth=depth)
    trained = round(MOST_TRAINED * trained_ratio * max(ahead.micro_tokens, ahead.scored_tokens))
    return min(max(1, trained), TRAINED_CHUNK if trains else CHUNK) * shape.vocab * (4 if p == 4 else 4 + p)


def _activations(
    shape: LlamaShape, config: TuneConfig, ahead: StepsAhead, *, depth: int, p: int, trained_ratio: float
) -> float:
    """Bytes of one worker's named buffers at the largest micro-batch."""
    d, f, q = shape.width, shape.ff_width, shape.num_heads * shape.head_width
    kv = shape.num_kv_heads * shape.head_width
    rank = 0 if config.method == "full" else config.rank
    n, m = ahead.micro_tokens, ahead.micro_tokens * trained_ratio
    turned = PADDED * (q + 2 * kv)
    # A kept block: two norms, q k v rotated, attention's output, gate and up, four low-rank products; two sums in fp32.
    before, after = p * (d + turned + q + 3 * rank) + 4 * d, p * (d + 2 * f + 4 * rank) + 8 * d
    kept = depth * n * before + (depth - 1) * n * after + m * (after + 2 * p * q)
    if config.method == "dora":  # every product's output before its magnitude, for the gradient of that
        kept += depth * n * p * sum(width_out for _, width_out in linear_widths(shape).values())
        kept += n * 4 * max(2 * f, q + 2 * kv, d)  # and the largest of them once in fp32
    if config.checkpointing == "on":  # the input of every block, and one block at a time
        kept = depth * n * 4 * d + n * (before + after)
    computes_below = depth < shape.num_layers and not stored_bytes(shape, config, ahead)
    below = n * _layer_bytes(shape, config, p, adapted=False) if computes_below else 0.0
    forward_only = _only_forward(shape, config, ahead)
    scored = forward_only * _layer_bytes(shape, config, p, adapted=True)
    # Names of layers that keep nothing are shared by training and scoring: the larger counts.
    below = max(below, scored)
    # What passes through once: gradients of each stage, rotary and norms in fp32, logits' input.
    passing = n * (p * (3 * d + 4 * turned + 4 * f + 5 * q + 2 * kv + 3 * rank) + 4 * (5 * d + 2 * (q + kv)))
    passing += max(0, forward_only - n) * _through_bytes(shape, p)
    passing += m * (4 * 2 * d + 2 * p * d) + p * 3 * rank * (max(d, f) + max(turned, 2 * f, d))
    attention = max(3 * _block_bytes(shape, ahead, p, n), _block_bytes(shape, ahead, p, forward_only))
    rounding = depth * NAMES_A_LAYER * ROUNDING * (p + 4) / 2
    rounding += _by_length(shape, config, ahead, p)
    if shape.has_head_norm:  # queries and keys before their norm
        kept += depth * n * p * (q + kv)
    return kept + below + passing + attention + rounding


def _scoring(shape: LlamaShape, config: TuneConfig, ahead: StepsAhead, *, p: int) -> float:
    """Bytes of a worker that never trains."""
    num_tokens = _only_forward(shape, config, ahead)
    tokens = num_tokens * (_layer_bytes(shape, config, p, adapted=True) + _through_bytes(shape, p))
    return tokens + _block_bytes(shape, ahead, p, num_tokens) + _by_length(shape, config, ahead, p)


def _only_forward(shape: LlamaShape, config: TuneConfig, ahead: StepsAhead) -> int:
    """Most tokens of a micro-batch that goes forward only: one that is scored, or whose states are stored."""
    is_stored = stored_bytes(shape, config, ahead) > 0
    return (
        max(ahead.scored_tokens, *(bin_tokens(length) for length in ahead.stored_lengths))
        if is_stored
        else ahead.scored_tokens
    )


def _layer_bytes(shape: LlamaShape, config: TuneConfig, p: int, *, adapted: bool) -> float:
    """Bytes a token of the one layer at a time of which nothing is kept; DoRA has every output twice."""
    d, q, kv = shape.width, shape.num_heads * shape.head_width, shape.num_kv_heads * shape.head_width
    outputs = q + 2 * kv + 2 * d + 2 * shape.ff_width if adapted and config.method == "dora" else 0
    return p * (2 * d + PADDED * (q + 2 * kv) + q + 2 * shape.ff_width + outputs) + 3 * 4 * d


def _through_bytes(shape: LlamaShape, p: int) -> float:
    """Bytes a token that pass through once on the way forward: before and after attention, and in fp32 for it."""
    d, q, kv = shape.width, shape.num_heads * shape.head_width, shape.num_kv_heads * shape.head_width
    return p * (2 * d + 2 * PADDED * (q + 2 * kv) + 2 * q + shape.ff_width) + 4 * (d + 2 * (q + kv))


def _block_bytes(shape: LlamaShape, ahead: StepsAhead, p: int, num_tokens: int) -> int:
    """Bytes of the attention weights of one block of queries."""
    rows = max(1, num_tokens // max(1, ahead.longest_row))
    return p * rows * shape.num_heads * min(ahead.longest_row, QUERY_BLOCK) * ahead.longest_row


def _by_length(shape: LlamaShape, config: TuneConfig, ahead: StepsAhead, p: int) -> int:
    """Bytes of masks and rotary tables a worker keeps for every length of rows."""
    total = 0
    stored = ahead.stored_lengths if stored_bytes(shape, config, ahead) else frozenset()
    for length in stored.union(length for _, length in ahead.groups | ahead.scored_groups):
        blocks = [(start, min(start + QUERY_BLOCK, length)) for start in range(0, length, QUERY_BLOCK)]
        total += p * sum((stop - start) * stop for start, stop in blocks) + 6 * length * shape.head_width
    return total


def runtime_gib() -> float:
    """Memory of this process with all that training imports and starts, GiB; call it before the base is loaded.

    One step of a tiny optimizer and one product a thread: torch imports its compiler with the first optimizer, which
    takes more memory than a small base.
    """
    import_module("transformers")  # loading a base asks for its version
    parameter = torch.zeros(8)
    parameter.grad = torch.zeros(8)
    torch.optim.AdamW([parameter], fused=True).step()
    with ThreadPoolExecutor(2) as pool:
        for dtype in (torch.float32, torch.bfloat16):
            square = torch.ones(256, 256, dtype=dtype)
            pool.submit(torch.mm, square, square).result()
    return resident_gib()


def resident_gib() -> float:
    """Memory this process holds now, GiB."""
    if sys.platform != "linux":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / GIB


def available_gib() -> float:
    """Memory a new process could take on this machine now, GiB; a container's limit counts where it is lower."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    free = total
    if sys.platform == "linux":
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable:")), total)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        free = min(free, (int(text) - int(used.read_text(encoding="ascii"))) / GIB)
    return free
