"""What moves the masters: AdamW with its moments in fp32, or in 8 bits on CUDA.

    >>> make_optimizer("adamw", masters_P)  # doctest: +SKIP

All that trains lies in one buffer, so an optimizer knows one tensor. Its state is taken and given back by name,
whatever the names are: `metier.engine.state` writes it with every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metier.core.extras import require
from metier.core.tune_config import OptimizerName

__all__ = ["Moments", "give_back", "make_optimizer", "moments_of"]

BETAS, EPS = (0.9, 0.999), 1e-8


class Moments(NamedTuple):
    """What an optimizer remembers of its one tensor."""

    tensors: dict[str, Tensor]
    numbers: dict[str, float]
    """What it keeps as plain numbers."""


def make_optimizer(name: OptimizerName, masters_P: Tensor) -> torch.optim.Optimizer:
    """The optimizer of this name over all that trains; learning rate and decay are set at every step.

    Raises:
        MissingExtra: 8 bits are asked for and bitsandbytes is not installed.

    Source: of 8 bits: Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization".
    """
    if name == "adamw":
        return torch.optim.AdamW([masters_P], lr=0.0, betas=BETAS, eps=EPS, fused=True)
    bitsandbytes = require("bitsandbytes", extra="cuda", why="an optimizer with moments in 8 bits")
    # From one value up: by default it would keep fp32 moments of fewer than 4,096 values and not say so.
    made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
        [masters_P], lr=0.0, betas=BETAS, eps=EPS, weight_decay=0.0, min_8bit_size=1
    )
    return made


def moments_of(optimizer: torch.optim.Optimizer) -> Moments:
    """Its state now, on the CPU; empty before the first step.

    Raises:
        TypeError: an entry is neither a tensor nor a number; a checkpoint could not bring it back.
    """
    found = Moments({}, {})
    for name, value in optimizer.state.get(_masters(optimizer), {}).items():
        if isinstance(value, Tensor):
            found.tensors[name] = value.detach().cpu().contiguous()
        elif isinstance(value, int | float):
            found.numbers[name] = value
        else:
            raise TypeError(f"{type(optimizer).__name__}: {name} is {type(value).__name__}; expected tensor or number.")
    return found


def give_back(optimizer: torch.optim.Optimizer, moments: Moments) -> None:
    """Put a state taken by `moments_of` in place of its own, bit for bit."""
    masters_P = _masters(optimizer)
    # Not by load_state_dict: it would cast tensors to the masters' precision.
    state: Mapping[str, Any] = {  # Any: tensors and numbers
        **{name: value.to(masters_P.device) for name, value in moments.tensors.items()},
        **moments.numbers,
    }
    optimizer.state[masters_P] = dict(state)


def _masters(optimizer: torch.optim.Optimizer) -> Tensor:
    masters_P: Tensor = optimizer.param_groups[0]["params"][0]
    return masters_P
