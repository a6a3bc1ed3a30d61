"""A small random Llama and prompts for the decoder's tests."""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

from metier.engine import AdapterSpec, Decoder, Handle, Request, Sample, load

VOCAB = 384
STOPS = frozenset(range(24))
"""Many, so that some replies of a random model end with one."""


@functools.lru_cache(maxsize=1)
def model_dir() -> Path:
    """A folder with three layers, six query and two key/value heads; wide weights, so that replies differ."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.25,
        rope_theta=10000.0,
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="metier-decode-"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def handle(dtype: str = "fp32", *, adapter_seed: int | None = None) -> Handle:
    """The loaded model; with `adapter_seed` it carries a low-rank update of that seed on its upper two layers."""
    spec = None if adapter_seed is None else AdapterSpec(rank=4, alpha=8.0, first_layer=1)
    found = load(model_dir(), adapter=spec, dtype=dtype, threads=1)  # type: ignore[arg-type]  # a literal in the callers
    if found.adapter is not None and adapter_seed is not None:
        draw = torch.Generator().manual_seed(adapter_seed)
        with torch.no_grad():
            found.adapter.masters_P.copy_(torch.randn(found.adapter.masters_P.shape, generator=draw) * 0.05)
    return found


def reference(dtype: torch.dtype = torch.float32) -> Any:  # Any: the class is chosen by config
    """transformers' own module of the same weights."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_dir(), dtype=dtype).eval()


def prompts(num: int, *, shared: int = 0, seed: int = 0, longest: int = 40) -> list[list[int]]:
    """Random prompts of 1 to `longest` tokens after `shared` common ones."""
    draw = random.Random(seed)
    head = [draw.randrange(24, VOCAB) for _ in range(shared)]
    return [head + [draw.randrange(24, VOCAB) for _ in range(draw.randint(1, longest))] for _ in range(num)]


def drain(decoder: Decoder, requests: list[Request]) -> list[Sample]:
    """All requests at once, without looking for shared prefixes."""
    ids = [decoder.add(request) for request in requests]
    done: dict[int, Sample] = {}
    while decoder.num_active or decoder.num_waiting:
        done.update({event.id: event.finished for event in decoder.step() if event.finished is not None})
    return [done[one] for one in ids]
