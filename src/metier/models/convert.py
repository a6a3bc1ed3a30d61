"""Turn a GGUF file into a plain model folder: bf16 safetensors, fast tokenizer, chat template.

Reading a 4-bit GGUF takes about twenty seconds, so it happens once and the result is cached.
"""

from __future__ import annotations

import io
import logging
import os
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from metier.core.errors import ModelError
from metier.core.folders import storage_error

__all__ = ["CONVERSION_VERSION", "convert_gguf", "sync_folder"]

log = logging.getLogger(__name__)

CONVERSION_VERSION = 1
"""Part of the cache key: a changed conversion never meets an old folder."""

_DIGITS_FIRST = {"smollm"}
"""GGUF pre-tokenizers that split every digit off before anything else. transformers' GGUF reader builds
a plain byte-level one instead, which cuts "\\n\\n1." into other tokens than the model was trained on."""


def convert_gguf(gguf_path: Path, out_dir: Path, *, name: str) -> None:
    """Write config.json, model.safetensors (bf16), the tokenizer and chat_template.jinja into `out_dir`.

    Raises:
        ModelError: the file is not a GGUF that transformers can read, or it has no chat template.
        StoreError: the disk is full.
    """
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    log.info("%s: converting %s to bf16 safetensors, once", name, gguf_path.name)
    where: dict[str, Any] = {"gguf_file": gguf_path.name, "local_files_only": True}  # Any: transformers' keywords
    try:
        fields = GGUFReader(gguf_path).fields
        pre = fields["tokenizer.ggml.pre"].contents() if "tokenizer.ggml.pre" in fields else ""
        with redirect_stderr(io.StringIO()):  # transformers draws progress bars there; a library stays silent
            tokenizer = AutoTokenizer.from_pretrained(gguf_path.parent, **where)
            model = AutoModelForCausalLM.from_pretrained(gguf_path.parent, dtype=torch.float32, **where)
    except (ValueError, KeyError, OSError, RuntimeError) as err:
        raise ModelError(
            f"{name}: {gguf_path} could not be read as GGUF: {err}. Fetch it again, or give the model as safetensors."
        ) from err
    if not tokenizer.chat_template:
        raise ModelError(f"{name}: {gguf_path} carries no chat template; use the instruct version of the model.")
    if pre in _DIGITS_FIRST:
        _split_digits_first(tokenizer)
    _save(model, tokenizer, out_dir)


def _save(model: Any, tokenizer: Any, out_dir: Path) -> None:  # Any: transformers' auto classes are untyped
    """Write the weights in bf16, the config and the tokenizer."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Trap: the loaded config still says the weights are a quantised GGUF, and save_pretrained of the model
    # refuses for the same reason; so the weights are written directly.
    if hasattr(model.config, "quantization_config"):  # hasattr: only the GGUF loader sets it
        del model.config.quantization_config
    model.config.dtype = torch.bfloat16
    model.config.architectures = [type(model).__name__]
    tensors, seen = {}, set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:  # a tied head is the embedding and is stored once
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.to(torch.bfloat16).contiguous()
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        model.config.save_pretrained(out_dir)
        model.generation_config.save_pretrained(out_dir)
        tokenizer.save_pretrained(out_dir)
        save_file(tensors, out_dir / "model.safetensors", metadata={"format": "pt"})
        (out_dir / "model.safetensors").chmod(0o644)  # the writer makes it private to one user
    except OSError as err:
        raise storage_error(out_dir, err) from err
    except SafetensorError as err:
        # The writer hides the errno in its text: "I/O error: No space left on device (os error 28)".
        code = str(err).partition("(os error ")[2].partition(")")[0]
        raise storage_error(out_dir, OSError(int(code) if code.isdigit() else 0, str(err))) from err


def _split_digits_first(tokenizer: Any) -> None:  # Any: transformers exports no type for its Rust backend
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def sync_folder(folder: Path) -> None:
    """Flush every file of a folder to the disk, so that the rename after it cannot outrun the bytes."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
