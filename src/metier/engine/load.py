"""From a folder of safetensors to a `Handle`.

    >>> handle = load(Path("base"), adapter=AdapterSpec(rank=16, alpha=32.0))  # doctest: +SKIP

The compact block computes the architectures of `metier.engine.families`; transformers' own modules the rest. Fetches
nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch

from metier.core.hashing import file_sha256, sha256_hex
from metier.core.tune_config import OptimizerName
from metier.engine.backend import Backend
from metier.engine.compact import CompactBackend
from metier.engine.cuda import check_device, four_bit
from metier.engine.families import read_config, read_shape, why_not_compact
from metier.engine.full import take_over
from metier.engine.handle import AdapterSpec, Handle
from metier.engine.module_backend import load_module
from metier.engine.peft_files import refuse_other_base
from metier.engine.ranks import current_ranks
from metier.engine.reference import check_compact
from metier.engine.weight_files import read_weights, weight_paths
from metier.engine.weights import LlamaShape
from metier.models import config_sha256

__all__ = ["Place", "close", "load"]

log = logging.getLogger(__name__)

DtypeName = Literal["bf16", "fp32", "auto"]


class Place(NamedTuple):
    """Where a model is computed, and in how many bits what can be kept in fewer is kept."""

    device: str = "cpu"
    base_bits: Literal[16, 4] = 16
    optimizer: OptimizerName = "adamw"


class ModelFolder(Protocol):
    """What `metier.models.resolve` returns, as far as loading needs it."""

    @property
    def dir(self) -> Path:
        """Folder with config.json and safetensors."""
        ...


def load(
    base: ModelFolder | Path,
    *,
    adapter: AdapterSpec | Path | None = None,
    seed: int = 0,
    dtype: DtypeName = "auto",
    threads: int | None = None,
    device: str = "cpu",
    base_bits: Literal[16, 4] = 16,
    optimizer: OptimizerName = "adamw",
) -> Handle:
    """Load a base model, with a new adapter (drawn from `seed`), one from a PEFT folder, or none.

    The compact block computes it where it is known to be transformers' own function; else transformers' modules
    do, with the reason in `handle.forward`. Under `AdapterSpec(method="full")` the weights themselves are to train.
    `base_bits` 4 reads the frozen weights in 4 bits (QLoRA), `optimizer` adamw8bit keeps moments in 8; both need CUDA.

    Raises:
        ModelError: a file is missing, neither forward computes the architecture, or the adapter does not fit the base.
    """
    check_device(device, base_bits=base_bits, optimizer=optimizer)
    base_dir = base if isinstance(base, Path) else base.dir
    shape = read_shape(base_dir)
    spec = adapter if isinstance(adapter, AdapterSpec) else None
    if spec is not None and not why_not_compact(read_config(base_dir)):
        spec.require_fit(shape)
    use_dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}.get(dtype)
    if use_dtype is None:
        use_dtype = current_ranks().gather(fastest_dtype(shape, device))[0]  # each might measure another one
    base_sha256 = sha256_of(weight_paths(base_dir))
    is_full = spec is not None and spec.method == "full"
    if base_bits == 4:
        why = "its weights are read in 4 bits"
        settings = four_bit(use_dtype, device)
        backend: Backend = load_module(base_dir, shape, use_dtype, device, why=why, settings=settings)
        # Weights in 4 bits are another base: its adapters, checkpoints and fingerprints are told apart.
        base_sha256 = sha256_hex(f"{base_sha256} nf4".encode())
    else:
        read_dtype = torch.float32 if is_full else use_dtype
        backend = _backend(base_dir, shape, read_dtype, device, base_sha256=base_sha256)
    # Modules of transformers say that they cannot be tuned whole; the compact block needs no adapter for it.
    takes_over = is_full and isinstance(backend, CompactBackend)
    handle = Handle(
        backend=backend,
        adapter=None if adapter is None or takes_over else backend.adapter(adapter, seed=seed),
        dtype=use_dtype,
        threads=threads or _share_of_cores(),
        base_dir=base_dir,
        base_sha256=base_sha256,
        config_sha256=config_sha256(base_dir),
        optimizer=optimizer,
    )
    if isinstance(adapter, Path):
        refuse_other_base(adapter, handle)
    if spec is not None and isinstance(backend, CompactBackend) and is_full:
        backend.dtype = use_dtype
        handle.full = take_over(backend.weights, first_layer=spec.first_layer, dtype=use_dtype)
        handle.full.tuned_from = base_sha256
        handle.full.base_fingerprint = handle.fingerprint
    return handle


def _backend(base_dir: Path, shape: LlamaShape, dtype: torch.dtype, device: str, *, base_sha256: str) -> Backend:
    """The compact block where it is the base's own function, transformers' modules where it is not."""
    reason = why_not_compact(read_config(base_dir))
    if not reason:
        checked = check_compact(base_dir, base_sha256=base_sha256)
        if checked.is_equal:
            weights = read_weights(weight_paths(base_dir), shape, dtype, device)
            return CompactBackend(weights, dtype, why=f"it {checked.sentence}")
        reason = f"the compact block {checked.sentence}"
    log.warning("%s: computed by transformers' own modules, several times slower: %s", base_dir.name, reason)
    return load_module(base_dir, shape, dtype, device, why=reason)


def _share_of_cores() -> int:
    """Cores of this process among those that share its steps; the same number for each of them."""
    ranks = current_ranks()
    return ranks.gather(max(1, len(os.sched_getaffinity(0)) // ranks.size))[0]


def close(handle: Handle) -> None:
    """Stop the worker threads of the handle; its weights go when the last reference does."""
    while handle.closers:
        handle.closers.pop()()
    handle.trainer = None


def sha256_of(paths: list[Path]) -> str:
    """SHA-256 of one file's bytes, or of the hashes of several."""
    if len(paths) == 1:
        return file_sha256(paths[0])
    return hashlib.sha256("".join(file_sha256(path) for path in paths).encode()).hexdigest()


def fastest_dtype(shape: LlamaShape, device: str = "cpu", *, rows: int = 256) -> torch.dtype:
    """bf16 or fp32, whichever multiplies faster here; bf16 on an accelerator.

    Two CPUs of one price differ fourfold in this, so it is measured (some 30 milliseconds, best of 15,
    alternating) and fp32 is kept unless bf16 is at least 1.2 times as fast.
    """
    if device != "cpu":
        return torch.bfloat16
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    pairs = {
        dtype: (torch.ones(rows, shape.width, dtype=dtype), torch.ones(shape.ff_width, shape.width, dtype=dtype))
        for dtype in best
    }
    for _ in range(15):
        for dtype, (x, w) in pairs.items():
            start = time.perf_counter()
            torch.nn.functional.linear(x, w)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return torch.bfloat16 if best[torch.bfloat16] * 1.2 < best[torch.float32] else torch.float32
