"""Angles of rotary positions: plain, and the scalings of longer contexts that do not depend on the text's length.

    >>> RopeScaling(kind="linear", factor=4.0)  # doctest: +ELLIPSIS
    RopeScaling(kind='linear', factor=4.0, ...)

`dynamic` and `longrope` choose their angles by the text at hand; they are not computed here.

Shapes: E head width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["RopeScaling", "read_rope", "rotary_frequencies"]

KINDS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeScaling:
    """How the angles of a longer context follow from those of the original one."""

    kind: str
    """linear, llama3 or yarn."""
    factor: float
    """How many times longer the context is."""
    low: float = 1.0
    """llama3: waves longer than original / low are stretched by the factor. yarn: turns, below likewise (beta_slow)."""
    high: float = 4.0
    """llama3: waves shorter than original / high stay. yarn: turns, above which they stay (beta_fast)."""
    original_positions: int = 0
    """Positions of the original context; not used by linear."""
    attention_factor: float = 1.0
    """Cosine and sine are multiplied by it; only of yarn."""
    is_rounded: bool = True
    """yarn: whether the bounds between kept and stretched are whole dimensions."""


def read_rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:  # Any: JSON values
    """The base of the angles and their scaling, from a config.json; its kind must be one of `KINDS`."""
    rope: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = rope_kind(config)
    if kind == "default":
        return theta, None
    factor = float(rope["factor"])
    original = int(
        config.get("original_max_position_embeddings")
        or rope.get("original_max_position_embeddings")
        or config["max_position_embeddings"]
    )
    if kind == "linear":
        return theta, RopeScaling(kind=kind, factor=factor)
    if kind == "llama3":
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        return theta, RopeScaling(kind=kind, factor=factor, low=low, high=high, original_positions=original)
    return theta, RopeScaling(
        kind=kind,
        factor=factor,
        low=float(rope.get("beta_slow") or 1.0),
        high=float(rope.get("beta_fast") or 32.0),
        original_positions=original,
        attention_factor=_attention_factor(rope, factor),
        is_rounded=bool(rope.get("truncate", True)),
    )


def rope_kind(config: Mapping[str, Any]) -> str:  # Any: JSON values
    """The name a config gives its scaling."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _attention_factor(rope: Mapping[str, Any], factor: float) -> float:  # Any: JSON values
    """Of yarn: given, or from the factor."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])

    def grown(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return grown(float(rope["mscale"])) / grown(float(rope["mscale_all_dim"]))
    return grown(1.0)


def rotary_frequencies(
    head_width: int, theta: float, scaling: RopeScaling | None, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Angle a position for each pair of dimensions, radians, fp32 (E / 2).

    Source: Llama 3.1's model card for `llama3`; Peng et al. 2023 (arXiv:2309.00071) for `yarn`. The order of the
    fp32 operations is transformers', since an angle far into a text shows every rounding.
    """
    plain = 1.0 / theta ** (torch.arange(0, head_width, 2, dtype=torch.float32, device=device) / head_width)
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    if scaling.kind == "llama3":
        return _llama3(plain, scaling)
    return _yarn(plain, head_width, theta, scaling)


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Short waves stay, long ones are stretched, those between are mixed."""
    wave = 2 * math.pi / plain
    share = (scaling.original_positions / wave - scaling.low) / (scaling.high - scaling.low)
    mixed = (1 - share) * plain / scaling.factor + share * plain
    is_short = wave < scaling.original_positions / scaling.high
    is_long = wave > scaling.original_positions / scaling.low
    return torch.where(is_long, plain / scaling.factor, torch.where(is_short, plain, mixed))


def _yarn(plain: Tensor, head_width: int, theta: float, scaling: RopeScaling) -> Tensor:
    """Dimensions that turn often stay, those that turn seldom are stretched, a ramp between."""

    def dimension(turns: float) -> float:
        wave = scaling.original_positions / (turns * 2 * math.pi)
        return head_width * math.log(wave) / (2 * math.log(theta))

    low, high = dimension(scaling.high), dimension(scaling.low)
    if scaling.is_rounded:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_width - 1)
    if low == high:
        high += 0.001
    place = torch.arange(head_width // 2, dtype=torch.float32, device=plain.device)
    kept = 1 - ((place - low) / (high - low)).clamp(0, 1)
    stretched = 1.0 / (scaling.factor * (1.0 / plain))
    return stretched * (1 - kept) + plain * kept
