"""The compact block beside transformers' own module, in fp32: the check that they are one function.

    >>> check_compact(base_dir, base_sha256=sha256)  # doctest: +SKIP
    Checked(difference=3.1e-07, num_layers=30, of_layers=30)

The check reads the base twice, so what it found is remembered in the model cache, by the bytes of the weights and of
the config, the source of the block, and the versions of torch and transformers: a change of any of them checks again.
"""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metier.core.errors import ModelError, StoreError
from metier.core.folders import read_json, write_json
from metier.core.hashing import file_sha256, value_hash
from metier.core.seeds import generator
from metier.engine.batch import make_batch, micro_batch
from metier.engine.families import read_config, read_shape
from metier.engine.handle import Handle
from metier.engine.llama import Stack
from metier.engine.lowrank import Working
from metier.engine.weight_files import read_weights, weight_paths
from metier.engine.weights import LlamaShape, LlamaWeights, linear_widths
from metier.models import cache_dir

__all__ = ["Checked", "check_compact", "verify_against_reference"]

log = logging.getLogger(__name__)

MAX_DIFFERENCE = 1e-5
NUM_TOKENS = 48
MEMORY_SHARE = 0.8
"""Share of the free memory the two fp32 models may take."""
BLOCK_SOURCES = (
    "attention", "batch", "dora", "families", "gradients", "head", "llama", "lowrank", "norm", "products", "rotary",
    "varlen", "weight_files", "weights",
)  # fmt: skip
"""The modules whose code the result depends on: those that read a base and compute it, and what they import."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """How far the compact block is from transformers' own forward."""

    difference: float
    """Largest relative difference of a log-probability."""
    num_layers: int
    """Layers compared: all, or as many as fp32 memory allowed."""
    of_layers: int

    @property
    def is_equal(self) -> bool:
        """Whether both are one function, up to rounding."""
        return self.difference < MAX_DIFFERENCE

    @property
    def sentence(self) -> str:
        """What was compared, and what was found."""
        layers = f"{self.num_layers} of {self.of_layers} layers" if self.num_layers < self.of_layers else "all layers"
        return f"differs from transformers' own forward by {self.difference:.1e} in fp32 ({layers})"


class _Row:
    """Random tokens, every one trained."""

    def __init__(self, row_id: str, tokens: list[int]) -> None:
        self.row_id, self.tokens, self.weight = row_id, tokens, [0.0] + [1.0] * (len(tokens) - 1)


def check_compact(base_dir: Path, *, base_sha256: str) -> Checked:
    """The difference for a base the compact block should compute; from memory where it was found before."""
    path = cache_dir() / "checked" / f"{_identity(base_dir, base_sha256)[:32]}.json"
    if path.exists():
        try:
            return Checked(**read_json(path))
        except (StoreError, TypeError) as err:
            log.warning("%s: not readable (%s); the base is checked again", path, err)
    shape = read_shape(base_dir)
    num_layers = layers_that_fit(shape, _free_bytes())
    checked = Checked(
        difference=_difference(base_dir, base_dir, num_layers=num_layers),
        num_layers=num_layers,
        of_layers=shape.num_layers,
    )
    log.info("%s: the compact block %s", base_dir, checked.sentence)
    try:
        write_json(path, asdict(checked))
    except (StoreError, ValueError) as err:  # ValueError: the difference is NaN, which is not JSON
        log.warning("%s: not remembered (%s); the next load checks again", path, err)
    return checked


def verify_against_reference(handle: Handle, base_dir: Path) -> float:
    """Largest relative difference of log-probabilities on random tokens, base weights, both in fp32.

    Raises:
        ModelError: the difference is above 1e-5: this base must not be tuned or scored with the compact block.
    """
    worst = _difference(handle.base_dir, base_dir, num_layers=handle.shape.num_layers)
    if not worst < MAX_DIFFERENCE:
        raise ModelError(
            f"{base_dir}: the compact block differs from transformers' own forward by {worst:.2g}, more than "
            f"{MAX_DIFFERENCE:g}; this architecture is not one it computes. Choose another base."
        )
    return worst


def _identity(base_dir: Path, base_sha256: str) -> str:
    """What the difference depends on."""
    import transformers

    here = Path(__file__).parent
    return value_hash(
        {
            "base": base_sha256,
            "config": file_sha256(base_dir / "config.json"),
            "block": [file_sha256(here / f"{name}.py") for name in BLOCK_SOURCES],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "threshold": MAX_DIFFERENCE,
        }
    )


def layers_that_fit(shape: LlamaShape, free_bytes: int | None) -> int:
    """How many layers can be compared: both models stand in fp32 side by side. At least one; None: no limit known."""
    if free_bytes is None:
        return shape.num_layers
    layer = sum(width_in * width_out for width_in, width_out in linear_widths(shape).values())
    outer = (1 if shape.tied_head else 2) * shape.vocab * shape.width
    fits = (MEMORY_SHARE * free_bytes / (2 * torch.float32.itemsize) - outer) // layer
    return int(max(1, min(shape.num_layers, fits)))


def _free_bytes() -> int | None:
    """Memory the system can give without swapping; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


@torch.no_grad()
def _difference(base_dir: Path, peer_dir: Path, *, num_layers: int) -> float:
    """Of the first layers and the head, on three rows of random tokens."""
    shape = replace(read_shape(base_dir), num_layers=num_layers)
    weights = read_weights(weight_paths(base_dir), shape, torch.float32, "cpu")
    rng = generator(0, "reference")
    lengths = (NUM_TOKENS, NUM_TOKENS // 2, NUM_TOKENS // 2)
    rows = [_Row(str(i), rng.integers(0, shape.vocab, n).tolist()) for i, n in enumerate(lengths)]
    peer = _peer(peer_dir, num_layers)
    worst = 0.0
    for row, mine_T in zip(rows, _compact_logp(weights, rows), strict=True):
        ids = torch.tensor([row.tokens])
        logp_T = torch.log_softmax(peer(ids).logits[0, :-1].float(), -1).gather(1, ids[0, 1:, None])[:, 0]
        apart = float(((mine_T - logp_T).abs() / logp_T.abs().clamp_min(1.0)).max())
        worst = max(worst, apart) if apart == apart else float("inf")  # NaN on either side is a difference
    return worst


def _compact_logp(weights: LlamaWeights, rows: list[_Row]) -> list[Tensor]:
    """Log-probability of every token after the first of each row, by the compact block."""
    batch = make_batch(rows)
    stack = Stack(weights, torch.float32, Working(None, weights, torch.float32))
    micro = micro_batch(batch, range(len(rows)))
    logp_T = torch.zeros(batch.num_tokens)
    logp_T[micro.place_P] = -stack.score(micro)
    return [logp_T[start + 1 : start + len(row.tokens)] for row, start in zip(rows, batch.row_start_R, strict=False)]


def _peer(base_dir: Path, num_layers: int) -> Any:  # Any: the class is chosen by config
    """Transformers' own module with its first layers, fp32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base_dir)
    is_cut = num_layers < read_config(base_dir)["num_hidden_layers"]
    if is_cut:
        config.num_hidden_layers = num_layers
        if getattr(config, "layer_types", None):  # getattr: only families with two kinds of layers have the list
            config.layer_types = config.layer_types[:num_layers]
    with redirect_stderr(io.StringIO()):  # transformers draws a progress bar and lists the layers that are left out
        return AutoModelForCausalLM.from_pretrained(base_dir, config=config, dtype=torch.float32).eval()
