"""What only a GPU can do, and the refusals where there is none.

    >>> check_device("cpu", base_bits=4)  # doctest: +SKIP
    ModelError: base_bits is 4 on cpu: 4-bit weights need CUDA; ...

The code here is written against documented interfaces and has not been run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch

from metier.core.errors import ModelError
from metier.core.extras import require
from metier.core.tune_config import OptimizerName

__all__ = ["CONTEXT_GIB", "check_device", "device_peak_gib", "four_bit", "free_gib", "held_gib", "told"]

CONTEXT_GIB = 0.5
"""What CUDA holds on a device beside tensors (assumed; .3 to 1)."""


def check_device(device: str, *, base_bits: int = 16, optimizer: OptimizerName = "adamw") -> None:
    """Refuse a device that is not there, and what only CUDA computes anywhere else.

    Raises:
        ModelError: it cannot take effect on this machine.
    """
    if base_bits not in (16, 4):
        raise ModelError(f"base_bits is {base_bits}; expected 16, or 4 on CUDA.")
    is_cuda = torch.device(device).type == "cuda"
    if base_bits == 4 and not is_cuda:
        raise ModelError(f"base_bits is 4 on {device}: 4-bit weights need CUDA; load with device='cuda', or 16 bits.")
    if optimizer == "adamw8bit" and not is_cuda:
        raise ModelError(
            f"optimizer is 'adamw8bit' on {device}: moments in 8 bits need CUDA; load with device='cuda', or take "
            "'adamw'."
        )
    if is_cuda and not torch.cuda.is_available():
        raise ModelError(
            f"device is {device!r}, but torch {torch.__version__} finds no CUDA GPU here. Use device='cpu', or a "
            "machine with a GPU and torch's CUDA build."
        )


def four_bit(dtype: torch.dtype, device: str) -> dict[str, Any]:  # Any: transformers' keywords
    """How transformers reads a base for QLoRA: NF4, scales quantised once more, products in `dtype`.

    Raises:
        MissingExtra: bitsandbytes is not installed.

    Source: Dettmers et al. 2023, "QLoRA".
    """
    require("bitsandbytes", extra="cuda", why="reading weights in 4 bits")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    # By number: rank r of several processes has made device r its own.
    place = torch.device(device)
    number = torch.cuda.current_device() if place.index is None else place.index
    return {"quantization_config": config, "device_map": {"": number}}


def told(device: str) -> str:
    """Why a run computes where it does: a GPU that is there and not used is named."""
    if device == "cpu" and torch.cuda.is_available():
        return "tune.device; a CUDA GPU is here, which 'cuda' would take"
    return f"tune.device; {torch.cuda.get_device_name()}" if device != "cpu" else "tune.device"


def free_gib() -> float:
    """Memory of the current CUDA device that is free now, GiB."""
    return float(torch.cuda.mem_get_info()[0]) / 2**30


def held_gib() -> float:
    """Memory of the current CUDA device that this process holds now, GiB."""
    return float(torch.cuda.memory_reserved()) / 2**30 + CONTEXT_GIB


def device_peak_gib() -> float:
    """The most this process has held of the current CUDA device so far, GiB; 0 where it uses none."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # untyped in torch
        return 0.0
    return float(torch.cuda.max_memory_reserved()) / 2**30 + CONTEXT_GIB
