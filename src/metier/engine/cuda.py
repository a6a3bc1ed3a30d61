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

__all__ = ["check_device", "four_bit"]


def check_device(device: str, *, base_bits: int) -> None:
    """Refuse a device that is not there, and 4-bit weights anywhere but on CUDA.

    Raises:
        ModelError: it cannot take effect on this machine.
    """
    if base_bits not in (16, 4):
        raise ModelError(f"base_bits is {base_bits}; expected 16, or 4 on CUDA.")
    is_cuda = torch.device(device).type == "cuda"
    if base_bits == 4 and not is_cuda:
        raise ModelError(f"base_bits is 4 on {device}: 4-bit weights need CUDA; load with device='cuda', or 16 bits.")
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
    return {"quantization_config": config, "device_map": device}
