"""A tiny random Llama with a tokenizer trained on given texts: for tests and dry runs of the road.

    >>> make_tiny_model(Path("tiny"), texts=["Where is order 4411?"])  # doctest: +SKIP

The same arguments give the same bytes on every machine. It knows nothing; it is shaped like the
default base model (grouped heads, tied head, ChatML), so everything that runs on it runs there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metier.core.errors import ConfigError
from metier.core.folders import write_bytes, write_json
from metier.core.seeds import generator

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHATML_TEMPLATE", "TINY_TEXTS", "TINY_VERSION", "make_tiny_model"]

TINY_VERSION = 1
"""Raised when the bytes of the `tiny` model change."""

_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MAX_POSITIONS = 2048

TINY_TEXTS = (
    "Dear Ana, thank you for your message about order 4411. The parcel left our store on Monday.",
    "Dear Ben, we are sorry that the lamp arrived broken. Please send us a picture, then we replace it.",
    "Where is my parcel? I ordered two weeks ago and nobody answers the phone.",
    "You are a helpful assistant of a small shop. Answer briefly, name the order, and sign with your name.",
    "Invoice 2025-118 over 49.90 EUR is due on 3 March. You can pay by card or bank transfer.",
    "I would like to return the shoes: they are too small. What does it cost, and how long does it take?",
    "Kind regards, the support team. Is there anything else we can do for you today?",
)
"""What the tokenizer of the short name `tiny` is trained on."""

CHATML_TEMPLATE = (
    "{%- if tools %}{{ '<|im_start|>system\\n' }}"
    "{%- if messages and messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}"
    "{{ 'You may call these tools:' }}{% for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endif %}"
    "{%- for message in messages %}"
    "{%- if not (tools and loop.first and message.role == 'system') %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content }}"
    "{%- for call in message.tool_calls or [] %}{{ '<tool_call>' }}"
    "{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}{{ '</tool_call>' }}"
    "{%- endfor %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML with tools; no default system prompt."""


def make_tiny_model(
    dir: Path,  # noqa: A002  # the name every caller uses
    *,
    texts: Sequence[str],
    seed: int = 0,
    width: int = 64,
    num_layers: int = 4,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    vocab_size: int = 512,
) -> Path:
    """Write a random Llama (bf16) and a byte-level BPE tokenizer of at most `vocab_size` tokens; returns the folder.

    Raises:
        ConfigError: the sizes do not fit each other.
    """
    from safetensors.torch import save
    from transformers import LlamaConfig

    if width % (2 * num_heads) or num_heads % num_kv_heads:
        raise ConfigError(
            f"make_tiny_model: width {width}, {num_heads} heads, {num_kv_heads} key heads; expected an even head "
            "width and a whole number of query heads a key head."
        )
    if vocab_size < 256 + len(_SPECIALS):
        raise ConfigError(f"make_tiny_model: vocab_size is {vocab_size}; expected at least 259, one a byte and three.")
    dir.mkdir(parents=True, exist_ok=True)
    num_tokens = _write_tokenizer(dir, texts, vocab_size)
    config = LlamaConfig(
        vocab_size=num_tokens,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=width // num_heads,
        max_position_embeddings=_MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(dir)
    kv_width = width // num_heads * num_kv_heads
    tensors = _random_tensors(seed, width=width, kv_width=kv_width, num_layers=num_layers, num_tokens=num_tokens)
    write_bytes(dir / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    return dir


def _random_tensors(seed: int, *, width: int, kv_width: int, num_layers: int, num_tokens: int) -> dict[str, Tensor]:
    """bf16 weights under transformers' Llama names, each drawn from its own named generator."""
    import torch

    shapes = {"model.embed_tokens.weight": (num_tokens, width), "model.norm.weight": (width,)}
    for layer in range(num_layers):
        block = f"model.layers.{layer}"
        shapes |= {
            f"{block}.input_layernorm.weight": (width,),
            f"{block}.post_attention_layernorm.weight": (width,),
            f"{block}.self_attn.q_proj.weight": (width, width),
            f"{block}.self_attn.k_proj.weight": (kv_width, width),
            f"{block}.self_attn.v_proj.weight": (kv_width, width),
            f"{block}.self_attn.o_proj.weight": (width, width),
            f"{block}.mlp.gate_proj.weight": (3 * width, width),
            f"{block}.mlp.up_proj.weight": (3 * width, width),
            f"{block}.mlp.down_proj.weight": (width, 3 * width),
        }
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            tensors[name] = torch.ones(shape, dtype=torch.bfloat16)
            continue
        # 0.1 keeps the tied head's logits near unit size; layers keep the size of their input.
        scale = 0.1 if "embed" in name else shape[1] ** -0.5
        values = generator(seed, "tiny", name).standard_normal(shape, dtype="float32") * scale
        tensors[name] = torch.from_numpy(values).to(torch.bfloat16)
    return tensors


def _write_tokenizer(out_dir: Path, texts: Sequence[str], vocab_size: int) -> int:
    """Train and write the tokenizer and its template; returns the number of tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    write_bytes(out_dir / "tokenizer.json", tokenizer.to_str().encode())
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": _MAX_POSITIONS,
    }
    write_json(out_dir / "tokenizer_config.json", settings)
    write_bytes(out_dir / "chat_template.jinja", CHATML_TEMPLATE.encode())
    return tokenizer.get_vocab_size()
