"""Runs of drawn settings on random models whose tensors outweigh the interpreter: predicted in one process, run in another.

Run: python -m tests.tune.drawn_runs '{"draw": ..., "part": "predict" | "run"}'  (prints one JSON object)
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from safetensors.torch import save_file

from metier.core.tune_config import TuneConfig
from metier.engine import read_shape
from metier.render import RenderedPair, RenderedRow
from metier.tune import Options, estimate, estimate_pairs, rehearse, tune, tune_pairs

BASES = {
    "narrow": {"num_layers": 6, "width": 384, "ff_width": 1024, "vocab": 32_000, "heads": 6, "kv_heads": 2},
    "wide": {"num_layers": 6, "width": 512, "ff_width": 1408, "vocab": 16_000, "heads": 8, "kv_heads": 4},
}
"""Random Llamas of 22 and 26 million weights."""


def random_base(base_dir: Path, *, name: str) -> Path:
    """One of `BASES`, written as transformers writes one."""
    s = BASES[name]
    width, kv = s["width"], s["width"] // s["heads"] * s["kv_heads"]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": s["vocab"], "hidden_size": width,
        "intermediate_size": s["ff_width"], "num_hidden_layers": s["num_layers"], "num_attention_heads": s["heads"],
        "num_key_value_heads": s["kv_heads"], "head_dim": width // s["heads"], "hidden_act": "silu",
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    sizes = {"model.embed_tokens.weight": (s["vocab"], width), "model.norm.weight": (width,)}
    for i in range(s["num_layers"]):
        at = f"model.layers.{i}."
        sizes |= {at + "input_layernorm.weight": (width,), at + "post_attention_layernorm.weight": (width,)}
        sizes |= {
            f"{at}self_attn.{n}_proj.weight": (w, width) for n, w in (("q", width), ("k", kv), ("v", kv), ("o", width))
        }
        sizes |= {f"{at}mlp.{n}_proj.weight": (s["ff_width"], width) for n in ("gate", "up")}
        sizes[f"{at}mlp.down_proj.weight"] = (width, s["ff_width"])
    tensors = {
        key: torch.ones(size) if len(size) == 1 else torch.randn(*size, generator=rng) * 0.04
        for key, size in sizes.items()
    }
    base_dir.mkdir(parents=True)
    save_file(
        {key: value.bfloat16() for key, value in tensors.items()},
        str(base_dir / "model.safetensors"),
        metadata={"format": "pt"},
    )
    (base_dir / "config.json").write_text(json.dumps(config))
    return base_dir


def methods() -> list[str]:
    """Every method the settings take today."""
    taken = []
    for method in get_args(get_type_hints(TuneConfig)["method"]):
        try:
            TuneConfig(method=method)
        except ValueError:
            continue
        taken.append(method)
    return taken


def drawn(rng: np.random.Generator, *, num_layers: int = 0) -> dict[str, Any]:
    """One configuration: base, batch, length, rank, depth, method, objective, precision, stored states, rows.

    Runs of some seconds at least: nobody plans shorter ones, and a clock says little of them. `num_layers` is that of
    another base than one of `BASES`.
    """
    name = str(rng.choice(list(BASES)))
    longest = int(rng.choice([120, 300, 800]))
    step_tokens = int(rng.choice([512, 1024, 2048]))
    objective = str(rng.choice(["sft", "sft", "dpo"]))
    lengths: list[int] = []
    while sum(lengths) < max(8_000, 4 * step_tokens):
        lengths.append(int(rng.integers(longest // 3, longest + 1)))
    lengths += lengths[-1:] * (len(lengths) % 2)  # rows of pairs come in twos
    method = str(rng.choice(methods()))
    layers = num_layers or BASES[name]["num_layers"]
    config: dict[str, Any] = {
        "objective": objective, "method": method, "depth": int(rng.choice([0, layers // 2, 2])),
        # Pairs have passes of their own; rows that are read once are not stored.
        "passes": float(rng.choice([1.0, 2.0])) if objective == "sft" else 0.0,
        "step_tokens": step_tokens, "evals": int(rng.integers(1, 3)), "patience": 0,
        "product_dtype": str(rng.choice(["bf16", "fp32"])), "trunk_gib": float(rng.choice([0.0, 4.0])),
    }  # fmt: skip
    if method != "full":
        config["rank"] = int(rng.choice([4, 16, 64]))
    return {"base": name, "lengths": lengths, "dev": [longest] * 4 + lengths[:4], "config": config}


def made_rows(lengths: list[int], *, vocab: int, seed: int) -> list[RenderedRow]:
    """Random rows of these lengths, the last two fifths of each trained."""
    rng = np.random.default_rng(seed)
    return [
        RenderedRow(f"r{i}", rng.integers(0, vocab, n).tolist(), [0.0] * (n - 2 * n // 5) + [1.0] * (2 * n // 5))
        for i, n in enumerate(lengths)
    ]


def predict(draw: Mapping[str, Any], base_dir: Path, work_dir: Path) -> dict[str, Any]:
    """Minutes and memory after a rehearsal of exactly this configuration."""
    config, shape = TuneConfig(**draw["config"]), read_shape(base_dir)
    train, dev = (made_rows(draw[part], vocab=shape.vocab, seed=1) for part in ("lengths", "dev"))
    found = rehearse(train, dev, config, base=base_dir, work_dir=work_dir / "rehearsal", threads=2)
    if config.objective == "dpo":
        pairs = [list(zip(draw[part][0::2], draw[part][1::2], strict=True)) for part in ("lengths", "dev")]
        told = estimate_pairs(train_pairs=pairs[0], dev_pairs=pairs[1], shape=shape, config=config, speed=found.speed)
    else:
        told = estimate(
            train_tokens=draw["lengths"], dev_tokens=draw["dev"], shape=shape, config=config, speed=found.speed
        )
    seconds = 60 * told.minutes + found.load_s
    return {"seconds": seconds, "gib": told.gib, "parts": told.memory.as_text(), "rehearsed_s": found.seconds}


def run(draw: Mapping[str, Any], base_dir: Path, work_dir: Path) -> dict[str, Any]:
    """Minutes and peak memory of the run itself."""
    config, shape = TuneConfig(**draw["config"]), read_shape(base_dir)
    train, dev = (made_rows(draw[part], vocab=shape.vocab, seed=1) for part in ("lengths", "dev"))
    start = time.perf_counter()
    options = Options(threads=2)
    where: dict[str, Any] = {"base": base_dir, "out_dir": work_dir / "run", "seed": 0, "options": options}
    if config.objective == "dpo":
        tune_pairs(as_pairs(train), as_pairs(dev), config, **where)
    else:
        tune(train, dev, config, **where)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    return {"seconds": seconds, "gib": peak / 2**20}


def as_pairs(rows: list[RenderedRow]) -> list[RenderedPair]:
    """Neighbouring rows as chosen and rejected."""
    return [RenderedPair(row_id=a.row_id, chosen=a, rejected=b) for a, b in zip(rows[0::2], rows[1::2], strict=True)]


def main() -> None:
    given = json.loads(sys.argv[1])
    assert {f.name for f in fields(TuneConfig)} >= given["draw"]["config"].keys()
    with tempfile.TemporaryDirectory() as work:
        part = predict if given["part"] == "predict" else run
        print(json.dumps(part(given["draw"], Path(given["base_dir"]), Path(work))))


if __name__ == "__main__":
    main()
