"""Several processes that share each step: which of them this is, and the little they tell each other.

    >>> ranks = open_ranks()  # in a process that torchrun started  # doctest: +SKIP
    >>> ranks.sum_in_order(grad_P)  # every rank holds the same bits afterwards  # doctest: +SKIP

Every rank holds the whole model, knows the whole step and computes its share of the micro-batches. Gradients are
added in the order of the ranks, so R ranks of one thread give the bits of one process with R worker threads; up to
rounding where rows share a prefix, which each rank computes on its own cores and goes back through with its own sums.
gloo on CPUs; nccl on CUDA, one device a rank.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from metier.core.errors import ConfigError, ModelError

__all__ = ["Ranks", "close_ranks", "current_ranks", "open_ranks"]

CHUNK_NUMBERS = 1 << 22
"""Numbers exchanged at a time: every rank holds this many of each other rank (16 MiB a rank in fp32)."""
WAIT_MINUTES = 30
"""How long a rank waits for the others; a rank that died is noticed at once, as its connection breaks."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those that share each step; alone where nothing says otherwise."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files; the others never do."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """What every rank says, in their order; waits for all of them."""
        if self.size == 1:
            return [value]
        said: list[T] = [value] * self.size
        dist.all_gather_object(said, value)
        return said

    def wait(self) -> None:
        """Go on when every rank is here."""
        self.gather(None)

    def sum_in_order(self, sum_P: Tensor) -> None:
        """Replace a flat tensor by its sum over all ranks, rank 0 first: the same bits on every rank."""
        if self.size == 1:
            return
        for part in torch.split(sum_P, CHUNK_NUMBERS):
            others = [torch.empty_like(part) for _ in range(self.size)]
            dist.all_gather(others, part)
            part.copy_(others[0])
            for other in others[1:]:
                part.add_(other)

    def require_same(self, value: object, *, what: str) -> None:
        """Check that every rank says the same.

        Raises:
            ModelError: they do not.
        """
        said = self.gather(value)
        if any(other != said[0] for other in said[1:]):
            raise ModelError(
                f"{what} differs between the {self.size} processes of this run ({', '.join(map(str, said))[:200]}). "
                "They must read the same folders and run the same version on equal machines; run the same command "
                "again, it resumes, or set tune.processes = 1."
            )


def open_ranks(*, device: str = "cpu") -> Ranks:
    """Join the processes that torchrun started with this one; on CUDA, take the device of this one's number.

    Raises:
        ConfigError: torchrun did not start this process.
    """
    missing = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} not set; expected a process started by torchrun, as tune.processes does."
        )
    if device == "cuda":
        local_rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= count:
            raise ConfigError(
                f"process {local_rank} of this run has no device: torch finds {count} CUDA devices, and each process "
                "takes one. Set tune.processes to at most that."
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(minutes=WAIT_MINUTES))
    return current_ranks()


def current_ranks() -> Ranks:
    """This process among those it has joined; alone where it joined none."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(rank=dist.get_rank(), size=dist.get_world_size())


def close_ranks() -> None:
    """Leave the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
