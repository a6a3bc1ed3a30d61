"""Which architectures the compact block computes, and the numbers of a base's config.json.

    >>> read_shape(Path("Qwen3-0.6B")).has_head_norm  # doctest: +SKIP
    True

Llama, Mistral, Qwen2 and Qwen3 are one block with options: biases, a norm of each head's queries and keys,
scaled rotary positions. What a family's code fixes stands in `FAMILIES`; what a config fixes is read from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metier.core.errors import ModelError
from metier.engine.rotary import KINDS, read_rope, rope_kind
from metier.engine.weights import LlamaShape

__all__ = ["read_config", "read_shape", "why_not_compact"]

Config = Mapping[str, Any]  # Any: JSON values of a config.json


class _Family(NamedTuple):
    """What a model_type's code fixes, whatever its config says."""

    qkv_bias: bool | None
    """None: `attention_bias` of the config decides, for q, k, v and o."""
    has_head_norm: bool = False
    has_window_switch: bool = False
    """Whether `sliding_window` counts only with `use_sliding_window`."""
    reads_mlp_bias: bool = False


FAMILIES = {
    "llama": _Family(None, reads_mlp_bias=True),
    "mistral": _Family(False),
    "qwen2": _Family(True, has_window_switch=True),
    "qwen3": _Family(None, has_head_norm=True, has_window_switch=True),
}


NO_LAST_POSITION = 1 << 20
"""Positions of a model that counts none."""


def read_config(base_dir: Path) -> dict[str, Any]:  # Any: JSON values
    """The config.json of a model folder.

    Raises:
        ModelError: it is missing or not JSON.
    """
    path = base_dir / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ModelError(
            f"{path}: not readable ({err}); expected a model folder with config.json and safetensors."
        ) from err
    return config


def read_shape(base_dir: Path) -> LlamaShape:
    """The architecture a folder's config.json names; of others than the compact block's, the sizes alone.

    Raises:
        ModelError: no config.json, quantised weights, or an architecture transformers does not know.
    """
    config = read_config(base_dir)
    if config.get("quantization_config") is not None:
        raise ModelError(
            f"{base_dir / 'config.json'}: quantization_config is {config['quantization_config']!r}; the weights are "
            "quantised already. Choose the base as it was before."
        )
    return general_shape(base_dir) if why_not_compact(config) else compact_shape(config)


def why_not_compact(config: Config) -> str:
    """The first setting the compact block does not compute, as `name is value`; empty where it computes all."""
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None:
        return f"model_type is {config.get('model_type')!r}"
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    partial = config.get("partial_rotary_factor") or (rope or {}).get("partial_rotary_factor") or 1.0
    kinds = set(config.get("layer_types") or ["full_attention"])
    window = config.get("sliding_window") if _has_window(config, family) else None
    wrong = {
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "sliding_window": window is not None and window < config["max_position_embeddings"],
        "layer_types": not kinds <= {"full_attention", "sliding_attention"},
        "rope_parameters": rope_kind(config) not in KINDS,
        "partial_rotary_factor": partial != 1.0,
    }
    shown = {**config, "rope_parameters": rope, "partial_rotary_factor": partial}
    return next((f"{name} is {shown.get(name)!r}" for name, is_wrong in wrong.items() if is_wrong), "")


def _has_window(config: Config, family: _Family) -> bool:
    """Whether `sliding_window` is in force in any layer."""
    return not family.has_window_switch or bool(config.get("use_sliding_window"))


def compact_shape(config: Config) -> LlamaShape:
    """The numbers of a config the compact block computes."""
    family = FAMILIES[config["model_type"]]
    heads = int(config["num_attention_heads"])
    has_bias = bool(config.get("attention_bias")) if family.qkv_bias is None else family.qkv_bias
    theta, scaling = read_rope(config)
    return LlamaShape(
        num_layers=int(config["num_hidden_layers"]),
        width=int(config["hidden_size"]),
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_width=_head_width(config, heads),
        ff_width=int(config["intermediate_size"]),
        vocab=int(config["vocab_size"]),
        max_positions=int(config["max_position_embeddings"]),
        rope_theta=theta,
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        rope_scaling=scaling,
        has_qkv_bias=has_bias,
        has_out_bias=has_bias and family.qkv_bias is None,
        has_ff_bias=family.reads_mlp_bias and bool(config.get("mlp_bias")),
        has_head_norm=family.has_head_norm,
    )


def _head_width(config: Config, heads: int) -> int:
    """`head_dim`; where a config leaves it out, what its family takes then."""
    if config.get("head_dim"):
        return int(config["head_dim"])
    return 128 if config["model_type"] == "qwen3" else int(config["hidden_size"]) // heads


def general_shape(base_dir: Path) -> LlamaShape:
    """The numbers of any causal language model that size its memory and time.

    Raises:
        ModelError: transformers does not know the architecture, or its config lacks them.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(base_dir, local_files_only=True).get_text_config()
        given: Mapping[str, Any] = config.to_dict()  # Any: JSON values
        # Where layers keep a state there are no heads and no last position: counted as one head, as long as rows come.
        keeps_state = "state_size" in given and "num_attention_heads" not in given
        heads = 1 if keeps_state else int(config.num_attention_heads)
        width = int(config.hidden_size)
        return LlamaShape(
            num_layers=int(config.num_hidden_layers),
            width=width,
            num_heads=heads,
            num_kv_heads=int(given.get("num_key_value_heads") or heads),
            head_width=int(given.get("head_dim") or width // heads),
            ff_width=int(given.get("intermediate_size") or given.get("ffn_dim") or 4 * width),
            vocab=int(config.vocab_size),
            max_positions=NO_LAST_POSITION if keeps_state else int(config.max_position_embeddings),
            rope_theta=10000.0,
            norm_eps=1e-6,
            tied_head=bool(given.get("tie_word_embeddings", True)),
        )
    except (ValueError, KeyError, OSError, AttributeError, StrictDataclassError) as err:
        said = " ".join(str(err).split())
        raise ModelError(
            f"{base_dir / 'config.json'}: transformers knows no causal language model for it ({said}). "
            "Choose another base."
        ) from err
