"""Decoding through transformers' own modules: one cache for all active rows, aligned at their ends.

Rows are padded on the left, so every row's next token has one place; a row that enters pads the others, one that leaves
gives its place to the last. Slower than the compact block's slots, and exact for any model that keeps keys and values.

Shapes: B active rows, T places of the longest, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metier.core.errors import ModelError
from metier.engine.cache import Trunk
from metier.engine.decode_rows import Row, Scores

if TYPE_CHECKING:
    from transformers import DynamicCache

__all__ = ["ModuleRows"]


class ModuleRows:
    """The active rows of one module."""

    can_share = False
    can_guess = False

    def __init__(self, module: Any) -> None:  # Any: the class is chosen by config
        self.module = module
        self.device = module.get_input_embeddings().weight.device
        self.cache: DynamicCache | None = None
        self.mask_BT = torch.zeros(0, 0, dtype=torch.long, device=self.device)
        parameters = inspect.signature(module.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def enter(self, staying: Sequence[Row], entering: Sequence[Row], trunks: Sequence[Trunk]) -> Scores:  # noqa: ARG002  # no trunks here
        """Read the prompts, padded on the left, and put them behind the rows that stay."""
        from transformers import DynamicCache

        length = max(len(row.tail) for row in entering)
        ids = torch.zeros(len(entering), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(entering):
            ids[i, length - len(row.tail) :] = torch.tensor(row.tail)
            mask[i, length - len(row.tail) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        cache = DynamicCache()
        scores = self._forward(ids, mask, (mask.cumsum(-1) - 1).clamp_min(0), cache)
        if not staying:
            self.cache, self.mask_BT = cache, mask
        else:
            self._join(cache, mask)
        return scores

    def advance(self, rows: Sequence[Row]) -> Scores:
        """One token further for all rows."""
        ids = torch.tensor([[row.tokens[-1]] for row in rows], device=self.device)
        position = torch.tensor([[row.num_own] for row in rows], device=self.device)
        self.mask_BT = F.pad(self.mask_BT, (0, 1), value=1)
        return self._forward(ids, self.mask_BT, position, self.cache)

    def advance_alone(self, row: Row, guess: Sequence[int]) -> Scores:
        """Never called: guesses are off.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"request {row.id}: {len(guess)} guessed tokens, but this forward takes one at a time.")

    def leave(self, row: Row, last: Row) -> None:
        """Forget a row; the last takes its slot, and places no row needs any more go."""
        keep = list(range(len(self.mask_BT) - 1))
        if last is not row:
            keep[row.slot] = last.slot
        index = torch.tensor(keep, dtype=torch.long, device=self.device)
        self.mask_BT = self.mask_BT[index]
        unused = int((self.mask_BT.sum(0) == 0).sum()) if keep else self.mask_BT.shape[1]
        self.mask_BT = self.mask_BT[:, unused:]
        self._each(lambda part: part[index, :, unused:])

    def _forward(self, ids: Tensor, mask: Tensor, position: Tensor, cache: DynamicCache | None) -> Scores:
        """Logits of the last place, fp32."""
        given = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache, **self.last_only}
        if self.takes_positions:
            given["position_ids"] = position
        found = self.module(**given, use_cache=True)
        if getattr(found, "past_key_values", None) is not cache:  # getattr: models with a state name it otherwise
            raise ModelError(
                f"{type(self.module).__name__} keeps a state instead of keys and values; it trains and scores here, "
                "but is not decoded. Choose another base."
            )
        logit_BV = found.logits[:, -1].float()
        return Scores(logit_BV, logit_BV, logit_BV)  # fp32: the choice looks at logits alone

    def _join(self, other: DynamicCache, mask: Tensor) -> None:
        """Put another cache's rows behind this one's, both padded on the left to the longer."""
        assert self.cache is not None, "rows that stay have a cache"
        length = max(self.mask_BT.shape[1], mask.shape[1])
        own, new = length - self.mask_BT.shape[1], length - mask.shape[1]
        self.mask_BT = torch.cat([F.pad(self.mask_BT, (own, 0)), F.pad(mask, (new, 0))])
        for mine, theirs in zip(self.cache.layers, other.layers, strict=True):
            mine.keys = torch.cat([F.pad(mine.keys, (0, 0, own, 0)), F.pad(theirs.keys, (0, 0, new, 0))])
            mine.values = torch.cat([F.pad(mine.values, (0, 0, own, 0)), F.pad(theirs.values, (0, 0, new, 0))])

    def _each(self, change: Any) -> None:  # Any: Tensor -> Tensor
        """Change the keys and values of every layer."""
        assert self.cache is not None, "a row that leaves has a cache"
        for layer in self.cache.layers:
            layer.keys, layer.values = change(layer.keys), change(layer.values)
