"""From a folder of safetensors to a `Handle` with fused matrices.

    >>> handle = load(Path("base"), adapter=AdapterSpec(rank=16, alpha=32.0))  # doctest: +SKIP

The architectures are those of `metier.engine.families`; anything else is refused with what was found. Fetches nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Literal, Protocol

import torch

from metier.core.errors import ModelError
from metier.core.hashing import file_sha256
from metier.engine.families import read_shape
from metier.engine.handle import AdapterSpec, Handle
from metier.engine.peft_files import new_adapter, read_adapter
from metier.engine.ranks import current_ranks
from metier.engine.reference import check_compact
from metier.engine.weight_files import read_weights, weight_paths
from metier.engine.weights import LlamaShape

__all__ = ["close", "load"]

log = logging.getLogger(__name__)

DtypeName = Literal["bf16", "fp32", "auto"]


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
) -> Handle:
    """Load a base model, with a new adapter (drawn from `seed`), one from a PEFT folder, or none.

    Raises:
        ModelError: a file is missing, the architecture is not one the compact block computes, or the
            adapter does not fit the base.
    """
    base_dir = base if isinstance(base, Path) else base.dir
    shape = read_shape(base_dir)
    use_dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}.get(dtype)
    if use_dtype is None:
        use_dtype = current_ranks().gather(fastest_dtype(shape, device))[0]  # each might measure another one
    paths = weight_paths(base_dir)
    base_sha256 = _sha256_of(paths)
    checked = check_compact(base_dir, base_sha256=base_sha256)
    if not checked.is_equal:
        raise ModelError(f"{base_dir}: the compact block {checked.sentence}, more than 1e-5. Choose another base.")
    handle = Handle(
        weights=read_weights(paths, shape, use_dtype, device),
        adapter=None,
        dtype=use_dtype,
        threads=threads or len(os.sched_getaffinity(0)),
        base_dir=base_dir,
        base_sha256=base_sha256,
    )
    if isinstance(adapter, AdapterSpec):
        handle.adapter = new_adapter(shape, adapter, seed=seed, device=device)
    elif adapter is not None:
        handle.adapter = read_adapter(adapter, shape, device=device)
    return handle


def close(handle: Handle) -> None:
    """Stop the worker threads of the handle; its weights go when the last reference does."""
    while handle.closers:
        handle.closers.pop()()
    handle.trainer = None


def _sha256_of(paths: list[Path]) -> str:
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
