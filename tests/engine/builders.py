"""Tiny models and rows for engine tests: random Llamas without a tokenizer, rows of random tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from metier.render import RenderedRow

VOCAB = 97


def tiny_base(model_dir: Path, *, seed: int = 0, tied: bool = True, num_layers: int = 3, std: float = 0.15) -> Path:
    """A random Llama of width 48 with grouped heads, written as transformers writes one."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "hidden_act": "silu",
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": tied,
    }
    rng = torch.Generator().manual_seed(seed)

    def draw(*size: int, mean: float = 0.0) -> torch.Tensor:
        return torch.randn(*size, generator=rng) * std + mean

    tensors = {"model.embed_tokens.weight": draw(VOCAB, 48), "model.norm.weight": draw(48, mean=1.0)}
    if not tied:
        tensors["lm_head.weight"] = draw(VOCAB, 48)
    for i in range(num_layers):
        at = f"model.layers.{i}."
        tensors[at + "input_layernorm.weight"] = draw(48, mean=1.0)
        tensors[at + "post_attention_layernorm.weight"] = draw(48, mean=1.0)
        for name, size in (("q", (48, 48)), ("k", (16, 48)), ("v", (16, 48)), ("o", (48, 48))):
            tensors[f"{at}self_attn.{name}_proj.weight"] = draw(*size)
        for name, size in (("gate", (80, 48)), ("up", (80, 48)), ("down", (48, 80))):
            tensors[f"{at}mlp.{name}_proj.weight"] = draw(*size)
    model_dir.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(model_dir / "model.safetensors"), metadata={"format": "pt"})
    (model_dir / "config.json").write_text(json.dumps(config))
    return model_dir


def random_row(row_id: str, num_tokens: int, rng: np.random.Generator, *, trained: float = 0.4) -> RenderedRow:
    """A row of random tokens; about `trained` of them are trained, with weights that differ."""
    weight = [0.0, *(float(x) for x in (rng.random(num_tokens - 1) < trained) * rng.uniform(0.5, 2, num_tokens - 1))]
    if not any(weight):
        weight[-1] = 1.0
    return RenderedRow(row_id, rng.integers(0, VOCAB, num_tokens).tolist(), weight)


def random_rows(lengths: list[int], *, seed: int = 0) -> list[RenderedRow]:
    """One random row per length."""
    rng = np.random.default_rng(seed)
    return [random_row(f"r{i}", length, rng) for i, length in enumerate(lengths)]


def pattern_rows(num_rows: int, *, seed: int = 0) -> list[RenderedRow]:
    """Rows a tiny model learns in a few steps: counting up by the step the row starts with."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(num_rows):
        length, stride = int(rng.integers(8, 40)), int(rng.integers(1, 4))
        tokens = [(stride * place) % VOCAB for place in range(length)]
        rows.append(RenderedRow(f"p{seed}-{i}", tokens, [0.0, 0.0] + [1.0] * (length - 2)))
    return rows


def change_config(base_dir: Path, **settings: object) -> None:
    """Other values in config.json over the same weights."""
    path = base_dir / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
