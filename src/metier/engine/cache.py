"""Keys and values of the rows being decoded, and of the prefixes they share.

One row owns one slot; active rows fill the slots from 0 without holes, so a decode step reads plain
slices. Keys are kept in fp32 (scores are the sensitive part, and the fp32 product is as fast on a CPU at
three queries a head), values in the model's dtype. On a CPU memory is zeroed lazily by the system: what no
row has reached costs nothing. Layers lie in groups, so that a resize holds old and new of one group only.

Shapes: L layers, S slots, K key/value heads, T positions, E head width, P prefix positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metier.engine.weights import LlamaShape

__all__ = ["KvCache", "Trunk"]


ALIGNMENT = 64
"""Bytes of a cache line."""
GROUP_LAYERS = 6
"""Layers of one piece of memory: large enough to come straight from the system, small beside the whole."""


class KvCache:
    """Slots of equal capacity; `resize` changes both without losing the active rows."""

    def __init__(self, shape: LlamaShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self.slots = 0
        self.capacity = 0
        self._keys = [self._new(size, 0, 0, torch.float32) for size in self._group_sizes()]
        self._values = [self._new(size, 0, 0, dtype) for size in self._group_sizes()]

    def _group_sizes(self) -> list[int]:
        whole, rest = divmod(self.shape.num_layers, GROUP_LAYERS)
        return [GROUP_LAYERS] * whole + [rest] * bool(rest)

    def _new(self, num_layers: int, slots: int, capacity: int, dtype: torch.dtype) -> Tensor:
        size = (num_layers, slots, self.shape.num_kv_heads, capacity, self.shape.head_width)
        if self.device.type != "cpu":
            return torch.zeros(size, dtype=dtype, device=self.device)
        # torch.zeros writes every page; numpy leaves that to the system, which gives pages when they are reached.
        num_bytes = dtype.itemsize * math.prod(size)
        memory = np.zeros(num_bytes + ALIGNMENT, dtype=np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        return torch.from_numpy(memory[start : start + num_bytes]).view(dtype).view(size)

    def key(self, layer: int) -> Tensor:
        """Keys of one layer, (S, K, T, E)."""
        return self._keys[layer // GROUP_LAYERS][layer % GROUP_LAYERS]

    def value(self, layer: int) -> Tensor:
        """Values of one layer, (S, K, T, E)."""
        return self._values[layer // GROUP_LAYERS][layer % GROUP_LAYERS]

    def resize(self, slots: int, capacity: int, *, num_active: int, num_used: int) -> None:
        """New slots and capacity; the first `num_active` slots keep their first `num_used` positions."""
        for groups, dtype in ((self._keys, torch.float32), (self._values, self.dtype)):
            for i, old in enumerate(groups):
                new = self._new(old.shape[0], slots, capacity, dtype)
                if num_active:
                    new[:, :num_active, :, :num_used] = old[:, :num_active, :, :num_used]
                groups[i] = new
        self.slots, self.capacity = slots, capacity

    def move(self, source: int, target: int, length: int) -> None:
        """Copy one row's first `length` positions to another slot."""
        for group in (*self._keys, *self._values):
            group[:, target, :, :length] = group[:, source, :, :length]

    def copy_in(self, trunk: Trunk, slot: int) -> None:
        """Put a trunk's keys and values in front of a slot."""
        for layer in range(self.shape.num_layers):
            self.key(layer)[slot, :, : trunk.length] = trunk.key_LKPE[layer]
            self.value(layer)[slot, :, : trunk.length] = trunk.value_LKPE[layer]

    def row_index(self, slot_N: Tensor, position_N: Tensor) -> Tensor:
        """Where the heads of N tokens lie in `layer` views flattened to (S K T, E); token-major, (N K)."""
        heads = torch.arange(self.shape.num_kv_heads, device=self.device)
        row_NK = (slot_N[:, None] * self.shape.num_kv_heads + heads) * self.capacity + position_N[:, None]
        return row_NK.flatten()

    def write(self, layer: int, row_index: Tensor, key_NKE: Tensor, value_NKE: Tensor) -> None:
        """Store the keys and values of N tokens of one layer in place."""
        width = self.shape.head_width
        self.key(layer).view(-1, width).index_copy_(0, row_index, key_NKE.reshape(-1, width))
        self.value(layer).view(-1, width).index_copy_(0, row_index, value_NKE.reshape(-1, width))


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
