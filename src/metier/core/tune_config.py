"""`[tune]`: everything that changes the weights of a tuning run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metier.core.config import Settings
from metier.core.errors import ConfigError
from metier.core.ranges import above, at_least, within

__all__ = ["TuneConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig(Settings):
    """`[tune]`: everything that changes the weights of one supervised run."""

    method: Literal["lora", "full"] = "lora"
    """Which weights train: low-rank adapters on all linear layers, or all weights."""
    depth: int = 0
    """How many of the top layers are adapted; 0 lets the plan choose within the budget."""
    rank: int = 16
    """Rank of the adapters."""
    alpha: float = 32.0
    """Scale of the adapters; the update is multiplied by alpha / rank."""
    lr: float = 0.0
    """Peak learning rate per optimizer step; 0 derives it from the width of the base and the method."""
    passes: float = 0.0
    """How often every train row is seen; 0 lets the plan choose within the budget."""
    max_row_tokens: int = 1024
    """Longest row kept; longer rows are dropped and counted, never cut."""
    step_tokens: int = 0
    """Tokens, padding not counted, of one optimizer step; 0 takes what gives about 400 steps, 512 to 2,048."""
    warmup_ratio: float = 0.06
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: float = 0.0
    """Weight decay of AdamW, per step."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are scaled down."""
    evals: int = 6
    """Evaluations of the dev loss over the run; the best checkpoint is kept."""
    product_dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of the matrix products; auto measures which is faster here. Masters and loss are fp32."""

    def __post_init__(self) -> None:
        if self.method != "lora":
            raise ConfigError(f"method is {self.method!r}; this version tunes adapters only: method = 'lora'.")
        within("lr", self.lr, 0, 1, ends="[)")
        within("warmup_ratio", self.warmup_ratio, 0, 1, ends="[)")
        at_least("step_tokens", self.step_tokens, 0)
        for name in ("rank", "max_row_tokens", "evals"):
            at_least(name, getattr(self, name), 1)  # getattr: the names stand one line above
        above("alpha", self.alpha, 0)
        if self.depth < 0 or self.passes < 0 or self.max_grad_norm <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"depth is {self.depth}, passes {self.passes}, max_grad_norm {self.max_grad_norm}, weight_decay "
                f"{self.weight_decay}; expected none negative and max_grad_norm above 0."
            )
