"""What tuning a base takes before anybody owns the machine: memory, hours and money, from published shapes and prices.

    >>> [row] = cost_rows(bases=["Llama-3.1-8B"], methods=["lora"], devices=["H100"])
    >>> row.fits, round(row.gib, 1)
    (True, 19.3)

On an accelerator memory follows the tensors that exist at once with activation checkpointing; on a processor it is what
`memory.py` counts for a run of this engine, with activations kept where they fit. Hours follow the products of that
form over the share of the peak that is assumed for the device. It is a first answer for choosing a machine; a rehearsal
on it is the second.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from metier.core.config import nearest
from metier.core.errors import ConfigError
from metier.core.tune_config import TuneConfig
from metier.engine.weights import LlamaShape
from metier.tune.memory import MOMENT_BYTES, Machine, base_bytes, base_weights, num_trained, peak_memory
from metier.tune.steps_ahead import StepsAhead, look_ahead

__all__ = ["METHODS", "Activations", "CostRow", "Workload", "activations", "cost_rows", "table_text"]

GIB = 2**30
METHODS = ("lora", "qlora", "dora", "full", "full-8bit")
"""qlora: lora on a base in 4 bits; full-8bit: full with moments in 8 bits. Both need CUDA."""
RANK = 16
STEP_TOKENS, LOGIT_TOKENS = 4096, 1024
"""Tokens of one forward pass, and of the logits that exist at once."""
RUNTIME_GIB = 1.0
"""CUDA's context and the interpreter, between .5 and 2."""
PROCESSOR_RUNTIME_GIB = 0.4
"""Interpreter, torch and imports (assumed; a plan measures it)."""
NEEDS_CUDA = ("qlora", "full-8bit")
TRAINED_BYTES = 10
"""Bytes of a trained weight beside its two moments: bf16 copy, fp32 master and gradient."""
FREE_SHARE = 0.92
"""Share of a device's memory that is there to be used; the rest is fragments."""
FULL_WIDTH = 2048
"""Width from which a base fills an accelerator; below, the share of the peak falls in proportion (assumed)."""
PRODUCTS = {"full": 8, "full-8bit": 8, "lora": 6, "qlora": 6, "dora": 6}
"""Multiply-adds, times two, a weight and token: 6 for full tuning, 4 with a frozen base, and 2 to compute again."""


class Workload(NamedTuple):
    """What is to be tuned on."""

    num_rows: int = 5000
    row_tokens: int = 500
    passes: float = 3

    @property
    def num_tokens(self) -> float:
        """Tokens over all passes."""
        return self.num_rows * self.row_tokens * self.passes


class Activations(NamedTuple):
    """GiB of a checkpointed forward and backward pass."""

    layer: float
    """One layer while it is computed again."""
    checkpoints: float
    """The input of every layer, bf16."""
    logits: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CostRow:
    """One base, method and device."""

    base: str
    num_params: int
    method: str
    device: str
    gib: float
    """Peak memory of one device."""
    device_gib: float
    fits: bool
    """False also where the device cannot compute the method: a processor has no 4-bit weights and no 8-bit moments."""
    is_processor: bool
    hours: float
    low: float
    """Money at the lowest price of the table; `high` at the highest."""
    high: float
    price_date: str
    price_source: str


@cache
def _table(name: str) -> dict[str, Any]:
    return tomllib.loads(files("metier.tune").joinpath("tables", f"{name}.toml").read_text(encoding="utf-8"))


def shape_of(base: str) -> LlamaShape:
    """The shape of a base of the table.

    Raises:
        ConfigError: the table has no such base.
    """
    entry = _entry("bases", "base", base)
    numbers = {key: value for key, value in entry.items() if key != "name"}
    return LlamaShape(**numbers, max_positions=8192, rope_theta=1e4, norm_eps=1e-5)


def _entry(table: str, key: str, name: str) -> dict[str, Any]:
    known = {entry["name"]: entry for entry in _table(table)[key]}
    if name not in known:
        raise ConfigError(f"{table}.toml has no {key} {name!r}; {nearest(name, list(known))}")
    found: dict[str, Any] = known[name]
    return found


def activations(
    shape: LlamaShape, *, tokens: int, factor: float, logit_tokens: int, logit_bytes: float = 4
) -> Activations:
    """Memory of the activations of `tokens` tokens with every layer checkpointed.

    Source: the tensors of a decoder block counted; `factor` is measured (`tables/bases.toml`). Llama-3-8B at 32,768
    tokens with all logits: 7.00 + 8.00 + 15.66 GiB.
    """
    return Activations(
        layer=2 * factor * tokens * shape.width / GIB,
        checkpoints=2 * shape.num_layers * tokens * shape.width / GIB,
        logits=logit_bytes * logit_tokens * shape.vocab / GIB,
    )


def weights_gib(shape: LlamaShape, method: str, *, rank: int = RANK) -> float:
    """Memory of the weights and of all that trains."""
    trained_bytes = TRAINED_BYTES + 2 * MOMENT_BYTES["adamw8bit" if method == "full-8bit" else "adamw"]
    if method in ("full", "full-8bit"):
        return trained_bytes * base_weights(shape) / GIB
    config = TuneConfig(rank=rank, method="dora" if method == "dora" else "lora")
    trained = num_trained(shape, config, depth=shape.num_layers)
    base = base_bytes(shape, value_bytes=2, base_bits=4 if method == "qlora" else 16)
    return (base + trained_bytes * trained) / GIB


def processor_gib(shape: LlamaShape, method: str, work: Workload, *, cores: int, recomputes: bool) -> float:
    """Peak memory of this engine's own run in bf16, every token trained; what needs CUDA counts as what does not."""
    config = TuneConfig(
        method={"qlora": "lora", "full-8bit": "full"}.get(method, method),  # type: ignore[arg-type]  # one of METHODS
        passes=work.passes,
        max_row_tokens=work.row_tokens,
        checkpointing="on" if recomputes else "off",
        rank=RANK,
    )
    # The base's file is not counted: the system takes its pages back where memory is short.
    machine = Machine(threads=cores, product_bytes=2, runtime_gib=PROCESSOR_RUNTIME_GIB)
    return peak_memory(shape, config, _ahead(config, work, cores), machine, trained_ratio=1.0).gib


@cache
def _ahead(config: TuneConfig, work: Workload, cores: int) -> StepsAhead:
    return look_ahead([work.row_tokens] * work.num_rows, [work.row_tokens], config=config, threads=cores)


def hours_of(shape: LlamaShape, method: str, work: Workload, *, tflops: float, recomputes: bool = True) -> float:
    """Hours of a run at the products a second that are reached."""
    products = PRODUCTS[method] - (0 if recomputes else 2)
    looked_up = 0 if shape.tied_head else shape.vocab * shape.width  # an embedding is read, not multiplied
    return products * (base_weights(shape) - looked_up) * work.num_tokens / (tflops * 1e12) / 3600


def cost_rows(
    *,
    bases: Sequence[str] = (),
    methods: Sequence[str] = METHODS,
    devices: Sequence[str] = (),
    work: Workload | None = None,
) -> list[CostRow]:
    """Every base x method x device asked for; empty takes all of the table.

    Raises:
        ConfigError: a name that is not in the tables.
    """
    all_bases = bases or [entry["name"] for entry in _table("bases")["base"]]
    all_devices = devices or [entry["name"] for entry in _table("devices")["device"]]
    wanted = work or Workload()
    return [
        _row(base, method, _entry("devices", "device", device), wanted)
        for base in all_bases
        for method in methods
        for device in all_devices
    ]


def _row(base: str, method: str, device: dict[str, Any], work: Workload) -> CostRow:  # Any: a table of TOML
    if method not in METHODS:
        raise ConfigError(f"method {method!r} is not in the cost table; {nearest(method, list(METHODS))}")
    shape, count = shape_of(base), device["count"]
    device_gib, cores = device["memory_gb"] * 1e9 / GIB, device.get("cores", 0)
    usable = FREE_SHARE * device_gib
    recomputes, filled = True, min(1.0, shape.width / FULL_WIDTH)
    if cores:
        kept = processor_gib(shape, method, work, cores=cores, recomputes=False)
        recomputes, filled = kept > usable, 1.0
        gib = processor_gib(shape, method, work, cores=cores, recomputes=True) if recomputes else kept
    else:
        factor = next(value for family, value in _table("bases")["layer_factor"].items() if base.startswith(family))
        passing = activations(shape, tokens=STEP_TOKENS, factor=factor, logit_tokens=LOGIT_TOKENS, logit_bytes=6)
        gib = RUNTIME_GIB + weights_gib(shape, method) / count + sum(passing)
    reached = count * device["peak_tflops"] * device["mfu"] * filled
    hours = hours_of(shape, method, work, tflops=reached, recomputes=recomputes)
    price = _table("prices")["price"][device["price"]]
    return CostRow(
        base=base,
        num_params=base_weights(shape),
        method=method,
        device=device["name"],
        gib=gib,
        device_gib=device_gib,
        fits=gib <= usable and not (cores and method in NEEDS_CUDA),
        is_processor=cores > 0,
        hours=hours,
        low=hours * count * price["low"],
        high=hours * count * price["high"],
        price_date=price["date"],
        price_source=price["source"],
    )


def table_text(work: Workload | None = None) -> str:
    """The whole table as a page: a line per base and method, a column per device."""
    wanted = work or Workload()
    rows = cost_rows(work=wanted)
    devices = list(dict.fromkeys(row.device for row in rows))
    currency = _table("prices")["currency"]
    lines = [
        f"{wanted.num_rows:,} rows of {wanted.row_tokens} tokens, {wanted.passes:g} passes: "
        f"{wanted.num_tokens / 1e6:.1f} million tokens. Adapters of rank {RANK} on all linear layers. A cell holds "
        f"hours and {currency} at the lowest to the highest price, on a processor also GiB; - where it does not fit.",
        "",
        "| base | weights | method | GiB of one accelerator | " + " | ".join(devices) + " |",
        "|---|---|---|---|" + "---|" * len(devices),
    ]
    by_line: dict[tuple[str, str], list[CostRow]] = {}
    for row in rows:
        by_line.setdefault((row.base, row.method), []).append(row)
    for (base, method), cells in by_line.items():
        one = next(row for row in cells if not row.is_processor and not row.device.startswith("8 x"))
        shown = " | ".join(_cell(row) for row in cells)
        lines.append(f"| {base} | {one.num_params / 1e9:.2f} B | {method} | {one.gib:.1f} | {shown} |")
    lines += ["", f"| device | {currency} an hour | date | source |", "|---|---|---|---|"]
    for device in _table("devices")["device"]:
        price = _table("prices")["price"][device["price"]]
        said = f"{price['low']:.2f} to {price['high']:.2f}"
        lines.append(f"| {device['name']} | {said} | {price['date']} | {price['source']} |")
    return "\n".join(lines)


def _cell(row: CostRow) -> str:
    if not row.fits:
        return "-"
    hours = f"{row.hours:.2g}" if row.hours < 100 else f"{row.hours:,.0f}"
    memory = f", {row.gib:.1f} GiB" if row.is_processor else ""
    return f"{hours} h, {_money(row.low)} to {_money(row.high)}{memory}"


def _money(amount: float) -> str:
    return f"{amount:.2g}" if amount < 10 else f"{amount:,.0f}"
