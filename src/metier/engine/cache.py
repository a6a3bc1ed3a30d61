"""Keys and values of the rows being decoded, and of the prefixes they share.

One row owns one slot; active rows fill the slots from 0 without holes, so a decode step reads plain
slices. Keys are kept in fp32 (scores are the sensitive part, and the fp32 product is as fast on a CPU at
three queries a head), values in the model's dtype. Memory is zeroed lazily by the system: what no row
has reached costs nothing.

Shapes: L layers, S slots, K key/value heads, T positions, E head width, P prefix positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from metier.engine.weights import LlamaShape

__all__ = ["KvCache", "Trunk"]


class KvCache:
    """Slots of equal capacity; `resize` changes both without losing the active rows."""

    def __init__(self, shape: LlamaShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self.slots = 0
        self.capacity = 0
        self.key_LSKTE = self._new(0, 0, torch.float32)
        self.value_LSKTE = self._new(0, 0, dtype)

    def _new(self, slots: int, capacity: int, dtype: torch.dtype) -> Tensor:
        s = self.shape
        size = (s.num_layers, slots, s.num_kv_heads, capacity, s.head_width)
        return torch.zeros(size, dtype=dtype, device=self.device)

    def resize(self, slots: int, capacity: int, *, num_active: int, num_used: int) -> None:
        """New slots and capacity; the first `num_active` slots keep their first `num_used` positions."""
        key, value = self.key_LSKTE, self.value_LSKTE
        self.key_LSKTE = self._new(slots, capacity, torch.float32)
        self.value_LSKTE = self._new(slots, capacity, self.dtype)
        if num_active:
            self.key_LSKTE[:, :num_active, :, :num_used] = key[:, :num_active, :, :num_used]
            self.value_LSKTE[:, :num_active, :, :num_used] = value[:, :num_active, :, :num_used]
        self.slots, self.capacity = slots, capacity

    def move(self, source: int, target: int, length: int) -> None:
        """Copy one row's first `length` positions to another slot."""
        self.key_LSKTE[:, target, :, :length] = self.key_LSKTE[:, source, :, :length]
        self.value_LSKTE[:, target, :, :length] = self.value_LSKTE[:, source, :, :length]

    def copy_in(self, trunk: Trunk, slot: int) -> None:
        """Put a trunk's keys and values in front of a slot."""
        self.key_LSKTE[:, slot, :, : trunk.length] = trunk.key_LKPE
        self.value_LSKTE[:, slot, :, : trunk.length] = trunk.value_LKPE

    def row_index(self, slot_N: Tensor, position_N: Tensor) -> Tensor:
        """Where the heads of N tokens lie in `layer` views flattened to (S K T, E); token-major, (N K)."""
        heads = torch.arange(self.shape.num_kv_heads, device=self.device)
        row_NK = (slot_N[:, None] * self.shape.num_kv_heads + heads) * self.capacity + position_N[:, None]
        return row_NK.flatten()

    def write(self, layer: int, row_index: Tensor, key_NKE: Tensor, value_NKE: Tensor) -> None:
        """Store the keys and values of N tokens of one layer in place."""
        width = self.shape.head_width
        self.key_LSKTE[layer].view(-1, width).index_copy_(0, row_index, key_NKE.reshape(-1, width))
        self.value_LSKTE[layer].view(-1, width).index_copy_(0, row_index, value_NKE.reshape(-1, width))


@dataclass(slots=True, eq=False)
class Trunk:
    """A prefix several rows share: computed once, read by all of them; copied only where there is but one slot."""

    tokens: tuple[int, ...]
    keep: bool = False
    """Whether it outlives its last row."""
    num_users: int = 0
    key_LKPE: Tensor = field(default_factory=lambda: torch.empty(0))
    """fp32, for decode steps."""
    value_LKPE: Tensor = field(default_factory=lambda: torch.empty(0))
    is_ready: bool = False

    @property
    def length(self) -> int:
        """Tokens of the prefix."""
        return len(self.tokens)

    def drop(self) -> None:
        """Free the keys and values; they are computed again when needed."""
        self.key_LKPE = self.value_LKPE = torch.empty(0)
        self.is_ready = False
