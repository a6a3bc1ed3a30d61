"""`[tune]`: everything that changes the weights of a tuning run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metier.core.config import Settings, nearest
from metier.core.errors import ConfigError
from metier.core.ranges import above, at_least, within

__all__ = ["LINEAR_NAMES", "DpoConfig", "Method", "OptimizerName", "TuneConfig"]

Method = Literal["lora", "rslora", "dora", "full"]
"""Which weights train: low-rank adapters in three forms, or the weights themselves."""
OptimizerName = Literal["adamw", "adamw8bit"]
"""What moves them, by the precision of its moments."""
LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of one block, in the order of use; adapters and `targets` are named after them."""
DEFAULT_RANK, DEFAULT_ALPHA = 16, 32.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoConfig(Settings):
    """`[tune.dpo]`: learning which of two replies to a prompt is the better one; with objective = "dpo" only."""

    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """The pair loss: sigmoid keeps widening the margin between the replies, ipo aims at a fixed one."""
    beta: float = 0.1
    """How dear it is to leave the model the run started from; with ipo the margin aimed at is 1 / (2 beta)."""
    label_smoothing: float = 0.0
    """Share of pairs that are taken to be the wrong way round; sigmoid only."""
    length_normalised: bool = False
    """Whether a reply counts by its mean log-probability a token instead of the sum; ipo always takes the mean."""
    lr: float = 0.0
    """Peak learning rate; 0 takes a tenth of that of sft, be it set, searched or given by the rule."""
    passes: float = 1.0
    """How often every pair is seen."""
    pairs: Literal["file", "mined"] = "mined"
    """Where pairs come from: rows of the files with a chosen and a rejected reply, or the gold reply of each train
    row against a sample of the model's own that breaks a convention."""
    samples: int = 4
    """Replies drawn for each prompt when pairs are mined."""
    temperature: float = 1.0
    """Temperature of these draws."""

    def __post_init__(self) -> None:
        above("beta", self.beta, 0)
        within("label_smoothing", self.label_smoothing, 0, 0.5, ends="[)")
        within("lr", self.lr, 0, 1, ends="[)")
        above("passes", self.passes, 0)
        at_least("samples", self.samples, 1)
        above("temperature", self.temperature, 0)
        for name in ("label_smoothing", "length_normalised"):
            if self.loss == "ipo" and getattr(self, name):  # getattr: the names stand one line above
                raise ConfigError(
                    f"{name} has no effect with loss = 'ipo', which takes the mean a token, unsmoothed; drop it."
                )
        if self.pairs == "file" and (self.samples, self.temperature) != (4, 1.0):
            raise ConfigError(
                f"samples is {self.samples} and temperature {self.temperature}, but pairs = 'file' draws no replies; "
                "drop them, or set pairs = 'mined'."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig(Settings):
    """`[tune]`: everything that changes the weights of one run."""

    objective: Literal["sft", "dpo"] = "sft"
    """What is learned: the gold replies, or, after them, which of two replies is the better one."""
    dpo: DpoConfig | None = None
    """How pairs of replies are made and learned from; with objective = "dpo" only."""
    method: Literal["lora", "rslora", "dora", "full"] = "lora"
    """Which weights train: adapters (rslora: scaled by the root of the rank; dora: with magnitudes), or all weights."""
    targets: tuple[str, ...] = ()
    """Linear layers that carry adapters, by PEFT's names, for example "q_proj"; empty: all seven."""
    depth: int = 0
    """How many of the top layers train; 0 lets the plan choose within the budget."""
    rank: int = DEFAULT_RANK
    """Rank of the adapters."""
    alpha: float = DEFAULT_ALPHA
    """Scale of the adapters; the update is multiplied by alpha / rank, under rslora by alpha / sqrt(rank)."""
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
    patience: int = 3
    """Dev evaluations in a row without a lower loss after which the run stops; 0 never stops early."""
    product_dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of the matrix products; auto measures which is faster here. Masters and loss are fp32."""
    layout: Literal["auto", "packed", "padded"] = "auto"
    """Rows end to end or padded to their neighbours' length; auto: what the rehearsal measured, packed without one."""
    checkpointing: Literal["auto", "on", "off"] = "auto"
    """Compute inner values again on the way back instead of keeping them; auto does where memory would not do."""
    trunk_gib: float = 4.0
    """Disk space for the states that enter the lowest adapted layer, in GiB; 0 computes them again in every pass.

    Nothing is stored where train rows are read once, whatever this is."""
    processes: int = 1
    """Processes that share each step, started by torchrun: an equal share of the cores each, or on CUDA a device."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the run computes, the base's own replies included; cuda is never taken unasked, for it rounds otherwise."""
    base_bits: Literal[16, 4] = 16
    """Bits of a frozen weight: 16 is product_dtype, 4 QLoRA's NF4, with device = "cuda" and method lora or rslora."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """AdamW with moments in fp32, or in 8 bits by bitsandbytes; 8 bits with device = "cuda" only."""

    def __post_init__(self) -> None:
        if self.dpo is not None and self.objective != "dpo":
            raise ConfigError(
                f"[tune.dpo] has no effect with objective = {self.objective!r}; set it to 'dpo', or drop the table."
            )
        self._check_targets()
        self._check_full()
        self._check_device()
        within("lr", self.lr, 0, 1, ends="[)")
        within("warmup_ratio", self.warmup_ratio, 0, 1, ends="[)")
        at_least("step_tokens", self.step_tokens, 0)
        at_least("patience", self.patience, 0)
        at_least("trunk_gib", self.trunk_gib, 0)
        for name in ("rank", "max_row_tokens", "evals", "processes"):
            at_least(name, getattr(self, name), 1)  # getattr: the names stand one line above
        above("alpha", self.alpha, 0)
        if self.depth < 0 or self.passes < 0 or self.max_grad_norm <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"depth is {self.depth}, passes {self.passes}, max_grad_norm {self.max_grad_norm}, weight_decay "
                f"{self.weight_decay}; expected none negative and max_grad_norm above 0."
            )

    def _check_targets(self) -> None:
        """Refuse a layer that no block has, or one named twice."""
        for place, name in enumerate(self.targets):
            if name not in LINEAR_NAMES:
                raise ConfigError(
                    f"targets names {name!r}, which is no linear layer; {nearest(name, list(LINEAR_NAMES))}"
                )
            if name in self.targets[:place]:
                raise ConfigError(f"targets names {name!r} twice; name it once.")

    def _check_full(self) -> None:
        """Refuse a setting of adapters where there are none."""
        given = {
            "rank": (self.rank, DEFAULT_RANK),
            "alpha": (self.alpha, DEFAULT_ALPHA),
            "targets": (self.targets, ()),
        }
        for name, (value, default) in given.items():
            if self.method == "full" and value != default:
                raise ConfigError(
                    f"{name} is {value!r}, but method = 'full' trains the weights themselves and has no adapter; "
                    "drop the setting, or set method = 'lora'."
                )

    def _check_device(self) -> None:
        """Refuse what only CUDA computes anywhere else, and weights in 4 bits that would have to train."""
        for name, value, default in (("base_bits", self.base_bits, 16), ("optimizer", self.optimizer, "adamw")):
            if self.device != "cuda" and value != default:
                raise ConfigError(
                    f"{name} is {value!r}, but device = {self.device!r} does not compute it; set device = 'cuda', or "
                    "drop the setting."
                )
        if self.base_bits == 4 and self.method in ("dora", "full"):
            why = "trains the weights themselves" if self.method == "full" else "needs their norms"
            raise ConfigError(
                f"base_bits is 4, but method = {self.method!r} {why}; set method to 'lora' or 'rslora', or base_bits "
                "to 16."
            )
