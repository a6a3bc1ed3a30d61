"""Small random models of many families, written by transformers itself: every parameter is drawn, norms and biases too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCAB = 97
SMALL = {
    "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

COMPACT: dict[str, dict[str, Any]] = {  # Any: settings of transformers' config classes
    "llama": {"model_type": "llama", "tie_word_embeddings": True},
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "llama 3.1": {"model_type": "llama", "head_dim": 8, "rope_parameters": LLAMA3},
    "linear": {"model_type": "llama", "rope_parameters": LINEAR},
    "mistral": {"model_type": "mistral", "head_dim": 16, "sliding_window": None},
    "mistral, window never reached": {"model_type": "mistral", "sliding_window": 1024},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2 with yarn": {"model_type": "qwen2", "rope_parameters": YARN, "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    "qwen3 untied with biases": {
        "model_type": "qwen3", "head_dim": 8, "attention_bias": True, "tie_word_embeddings": False,
    },
}  # fmt: skip


def write_model(
    model_dir: Path, settings: dict[str, Any], *, seed: int = 0, std: float = 0.15
) -> Path:  # Any: as above
    """A random model of `settings` on top of `SMALL`, saved as transformers saves it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = settings["model_type"]
    config = AutoConfig.for_model(kind, **{**SMALL, **{k: v for k, v in settings.items() if k != "model_type"}})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, std)
    model.save_pretrained(model_dir)
    return model_dir


OTHERS: dict[str, dict[str, Any]] = {  # Any: as above
    "gemma2": {
        "model_type": "gemma2", "head_dim": 8, "sliding_window": 16, "final_logit_softcapping": 5.0,
        "attn_logit_softcapping": 4.0, "query_pre_attn_scalar": 8,
    },
    "gemma3": {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "gpt_neox": {"model_type": "gpt_neox", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "phi": {"model_type": "phi"},
    "gpt2": {"model_type": "gpt2", "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 1024, "n_inner": 80},
}  # fmt: skip
KEEPS_STATE: dict[str, dict[str, Any]] = {
    "mamba": {"model_type": "mamba", "state_size": 8, "time_step_rank": 6}
}  # Any: as above
"""Layers with a state instead of keys and values: trained and scored, not decoded."""
