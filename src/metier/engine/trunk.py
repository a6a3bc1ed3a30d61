"""The trunk: what enters the first adapted layer, computed once a row for all passes, seeds and runs.

With only the top k layers adapted, the layers below give the same hidden states every time a row is seen. They are
computed in bulk before the first step, so that the bits depend on the row's tokens and nothing else: on one thread, in
products of `BIN_TOKENS` tokens whichever rows share them (a longer row has one of its own), and with attention to one
row at a time; on a GPU every row alone. A warm cache, a cold one and one that threw rows away then give the same run.
Kept as bf16; the first pass reads the rounded states too. Tokens after a row's last trained one are not computed, nor
those of a shared prefix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metier.core.hashing import value_hash
from metier.engine.batch import TOKEN_MULTIPLE, Batch, MicroBatch, TokenRow, last_input, make_batch, micro_batch
from metier.engine.handle import Handle
from metier.engine.llama import Stack
from metier.engine.trunk_files import STATE_BYTES, TrunkFiles, make_room

if TYPE_CHECKING:
    from metier.engine.loop import Trainer

__all__ = ["Trunk", "bin_tokens", "open_trunk"]


TRUNK_VERSION = 2
"""Raised where the code computes other bits for the layers below."""
BIN_TOKENS = 512
"""Tokens of one product. A product of another size is compiled anew and may round another way."""
BLOCK_BYTES = 32 << 20
"""States computed and written at a time; a killed run loses no more."""


class Trunk:
    """States of the rows of a run, on disk; rows that are not there are computed when they are needed.

    `skip` is everywhere the length of the prefix that the rows share and that is not in their states.
    """

    def __init__(self, files: TrunkFiles) -> None:
        self.files = files

    def gather(self, batch: Batch, micro: MicroBatch, stack: Stack, *, skip: int) -> Tensor:
        """The states of a micro-batch's rows where their tokens are, zero where nothing is: (N, D) bf16."""
        size = (len(micro.input_N), stack.shape.width)
        states_ND = stack.buffers.take("trunk", *size, dtype=torch.bfloat16).zero_()
        for row, at, length in zip(micro.rows, micro.row_at, micro.lengths, strict=True):
            found = self.files.views.get(row_key(batch, row, skip + length, skip=skip))
            (states,) = compute_states(batch, [row], stack, skip=skip) if found is None else (found,)
            states_ND[at : at + length] = states
        return states_ND

    def fill(
        self, trainer: Trainer, rows: Sequence[TokenRow], *, on_progress: Callable[[float], None] | None = None
    ) -> int:
        """Check the rows that are on disk, compute and write the others; returns how many were computed.

        Raises:
            StoreError: the disk is full; what was written before stays usable.
        """
        batch = make_batch(rows)
        skip = trainer.skip_of(batch)
        reads = [last_input(row.weight) for row in rows]
        row_by_key = {row_key(batch, r, num, skip=skip): r for r, num in enumerate(reads)}
        self.files.take(row_by_key)
        missing = {key: reads[r] - skip for key, r in row_by_key.items() if key not in self.files.views}
        total, done, block = sum(missing.values()), 0, dict[str, int]()
        last = next(reversed(missing), None)
        for key, num in missing.items():
            block[key] = num
            if key == last or sum(block.values()) * self.files.token_bytes >= BLOCK_BYTES:
                # Attention on a GPU takes all rows of a bin at once: there every row is alone.
                bins = _bins(block) if trainer.handle.backend.device.type == "cpu" else [[each] for each in block]
                self.files.append(self._block(trainer, batch, row_by_key, bins))
                done += sum(block.values())
                block = {}
                if on_progress is not None:
                    on_progress(done / total)
        return len(missing)

    def _block(
        self, trainer: Trainer, batch: Batch, row_by_key: dict[str, int], bins: list[list[str]]
    ) -> dict[str, Tensor]:
        """States of the rows of some bins, shared among the workers."""
        prefix, skip = trainer.prefix_of(batch), trainer.skip_of(batch)
        workers = trainer.handle.threads
        trainer.prepare(workers)
        if prefix is not None:
            trainer.alone(prefix.forward_lower)

        def work(worker: int) -> dict[str, Tensor]:
            stack, found = trainer.stacks[worker], dict[str, Tensor]()
            stack.past = None if prefix is None else prefix.lower
            with torch.no_grad():
                for keys in bins[worker::workers]:
                    rows = [row_by_key[key] for key in keys]
                    found |= dict(zip(keys, compute_states(batch, rows, stack, skip=skip), strict=True))
            return found

        futures = [trainer.pools[worker].submit(work, worker) for worker in range(workers)]
        return {key: states for future in futures for key, states in future.result().items()}


def row_key(batch: Batch, row: int, num_read: int, *, skip: int) -> str:
    """Names the states of a row: a hash of the tokens that are read, and how many of them are a shared prefix."""
    start = batch.row_start_R[row]
    tokens = batch.tokens_T[start : start + num_read].numpy().tobytes()
    return hashlib.sha256(skip.to_bytes(4, "big") + tokens).hexdigest()


def bin_tokens(num_tokens: int) -> int:
    """Rows of a product that computes so many tokens: of several rows one bin, of a longer row its own size."""
    return BIN_TOKENS if num_tokens <= BIN_TOKENS else num_tokens + -num_tokens % TOKEN_MULTIPLE


def compute_states(batch: Batch, rows: Sequence[int], stack: Stack, *, skip: int) -> list[Tensor]:
    """States of rows that fit one bin, or of one that does not; on one thread, each (tokens, D) bf16."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    device = stack.weights.embed_VD.device
    spans = (batch.weight_T[batch.row_start_R[r] : batch.row_start_R[r + 1]].numpy() for r in rows)
    num_tokens = sum(last_input(weight_T) - skip for weight_T in spans)
    micro = micro_batch(batch, rows, device=device, skip=skip, grouped=False, fill_to=bin_tokens(num_tokens))
    states_ND = stack.states(micro).to(torch.bfloat16).cpu()
    torch.set_num_threads(threads)
    at = dict(zip(micro.rows, zip(micro.row_at, micro.lengths, strict=True), strict=True))
    return [states_ND[start : start + num] for start, num in map(at.__getitem__, rows)]


def _bins(tokens_by_key: dict[str, int]) -> list[list[str]]:
    """Rows that share one product, at most `BIN_TOKENS` tokens; the longest first, each where the least is left."""
    bins: list[list[str]] = []
    free: list[int] = []
    for key, num in sorted(tokens_by_key.items(), key=lambda item: (-item[1], item[0])):
        fitting = [b for b, left in enumerate(free) if left >= num]
        if fitting:
            best = min(fitting, key=lambda b: free[b])
            bins[best].append(key)
            free[best] -= num
        else:
            bins.append([key])
            free.append(BIN_TOKENS - num)
    return bins


def open_trunk(
    handle: Handle, rows: Sequence[TokenRow], *, skip: int, trunk_dir: Path, limit_bytes: int
) -> tuple[Trunk | None, int]:
    """The trunk for these rows, and the bytes they need; none where they pass the limit or the disk has no room.

    Folders of other bases and depths that no run has open are evicted for it, the least recently used first; then
    rows of this one that are not wanted.

    Raises:
        StoreError: the folder cannot be written.
    """
    batch, reads = make_batch(rows), [last_input(row.weight) for row in rows]
    tokens_by_key = {row_key(batch, r, num, skip=skip): num - skip for r, num in enumerate(reads)}
    needed = sum(tokens_by_key.values()) * handle.shape.width * STATE_BYTES
    if needed > limit_bytes:
        return None, needed
    folder = trunk_dir / value_hash(_identity(handle))[:32]
    files = TrunkFiles(folder, handle.shape.width)
    stored = files.stored()
    new = sum(num for key, num in tokens_by_key.items() if key not in stored) * files.token_bytes
    held = files.num_tokens * files.token_bytes
    if make_room(trunk_dir, folder, wanted_bytes=held + new, limit_bytes=limit_bytes):
        return Trunk(files), needed
    if held + new > needed:  # there are rows nobody asked for now
        files.keep_only(tokens_by_key)
        if make_room(trunk_dir, folder, wanted_bytes=needed, limit_bytes=limit_bytes):
            return Trunk(files), needed
    files.close()
    return None, needed


def _identity(handle: Handle) -> dict[str, str | int]:
    """What the bits of a row's states depend on beside its tokens."""
    return {
        "version": TRUNK_VERSION,
        "base": handle.function_sha256,
        "layer": handle.require_trained("trunk cache").first_layer,
        "dtype": str(handle.dtype),
        # Another build or kind of core rounds its products otherwise.
        "torch": torch.__version__,
        "device": str(handle.weights.embed_VD.device),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
