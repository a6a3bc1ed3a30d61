"""Which bytes a base model is: fingerprints of weights, tokenizer and template, and what a folder must hold.

Hashing 270 MB takes a moment, so fingerprints are stored beside the model with each file's size and
modification time, and are computed again only when one of those changed.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from metier.core.errors import ModelError
from metier.core.folders import read_json, write_json
from metier.core.hashing import file_sha256, sha256_hex, value_hash

__all__ = ["Identity", "check_folder", "config_sha256", "identity_of", "read_identity", "weight_files"]

IDENTITY_NAME = "identity.json"
_MAX_HEADER_BYTES = 100 << 20  # the safetensors format's own limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Fingerprints of one model folder."""

    base_sha256: str
    """Of the safetensors file; of the names and hashes where there are several."""
    tokenizer_sha256: str
    """Of the names and hashes of tokenizer.json and tokenizer_config.json."""
    template_sha256: str
    """Of the chat template's text; empty for a model without one."""
    num_params: int
    """Numbers stored in the safetensors files."""


_NO_FUNCTION = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
"""Settings of config.json that say where the weights come from and how they are held, not what they compute."""


def config_sha256(model_dir: Path) -> str:
    """Fingerprint of config.json: the same weights under another `rope_theta` are another function."""
    config = _json_object(model_dir / "config.json")
    kept = {name: value for name, value in config.items() if name not in _NO_FUNCTION}
    return sha256_hex(json.dumps(kept, sort_keys=True).encode())  # some configs hold Infinity, which is not JSON


def weight_files(model_dir: Path) -> list[Path]:
    """The safetensors files of a folder, in order of name."""
    return sorted(path for path in model_dir.glob("*.safetensors") if not path.name.startswith("adapter"))


def check_folder(model_dir: Path, *, name: str, needs_template: bool = True) -> None:
    """Refuse a folder that is not a complete, safe model.

    Raises:
        ModelError: files are missing (all are named), the weights are pickles, or the model wants
            its own code run.
    """
    missing = [needed for needed in ("config.json", "tokenizer.json") if not (model_dir / needed).is_file()]
    if not weight_files(model_dir):
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in model_dir.glob(pattern))
        if pickles:
            raise ModelError(
                f"{name}: the weights are {pickles[0]}, a pickle, which can run code when it is opened; expected "
                "safetensors. Convert them where you trust them: model.save_pretrained(folder)."
            )
        missing.append("model.safetensors")
    if missing:
        raise ModelError(
            f"{name}: {model_dir} lacks {', '.join(missing)}; expected config.json, tokenizer.json and safetensors."
        )
    config = _json_object(model_dir / "config.json")
    tokenizer_config = _json_object(model_dir / "tokenizer_config.json")
    if "auto_map" in config or "auto_map" in tokenizer_config:
        raise ModelError(
            f"{name}: its config names code of its own (auto_map), which is never run here; expected an "
            "architecture that transformers knows. Choose another base model."
        )
    _check_shards(model_dir, name=name)
    if needs_template and not template_text(model_dir):
        raise ModelError(
            f"{name}: {model_dir} has no chat template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json). Use the instruct version of the model, or add the template it was tuned with."
        )


def _check_shards(model_dir: Path, *, name: str) -> None:
    index_path = model_dir / "model.safetensors.index.json"
    if not index_path.is_file():
        return
    wanted = set(_json_object(index_path).get("weight_map", {}).values())
    absent = sorted(wanted - {path.name for path in weight_files(model_dir)})
    if absent:
        raise ModelError(f"{name}: {model_dir} lacks {', '.join(absent)}, which its index names; fetch them again.")


def _json_object(path: Path) -> dict[str, Any]:  # Any: whatever the model's author wrote
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise ModelError(f"{path}: not readable as JSON ({err}); fetch the model again.") from err
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds {type(value).__name__}; expected a JSON object.")
    return value


def template_text(model_dir: Path) -> str:
    """The chat template as transformers will read it; empty where there is none."""
    path = model_dir / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = _json_object(model_dir / "tokenizer_config.json").get("chat_template", "")
    if isinstance(template, list):  # several named templates: transformers takes the one called default
        named = {entry.get("name"): entry.get("template", "") for entry in template if isinstance(entry, dict)}
        template = named.get("default", "")
    return template if isinstance(template, str) else ""


def _count_params(path: Path) -> int:
    """Numbers in a safetensors file, from its header alone.

    Raises:
        ModelError: the file is cut short or is not safetensors.
    """
    problem = f"{path}: not a complete safetensors file; fetch the model again."
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise ModelError(problem)
        header_size = struct.unpack("<Q", start)[0]
        if header_size > min(size - 8, _MAX_HEADER_BYTES):
            raise ModelError(problem)
        try:
            header = json.loads(file.read(header_size))
        except ValueError as err:
            raise ModelError(problem) from err
    tensors = [entry for key, entry in header.items() if key != "__metadata__"]
    if max((entry["data_offsets"][1] for entry in tensors), default=0) != size - 8 - header_size:
        raise ModelError(problem)
    return sum(prod(entry["shape"]) for entry in tensors)


def _identity_paths(model_dir: Path) -> list[Path]:
    names = ("chat_template.jinja", "config.json", "tokenizer.json", "tokenizer_config.json")
    return weight_files(model_dir) + [model_dir / name for name in names if (model_dir / name).is_file()]


def _stamps(model_dir: Path) -> dict[str, list[int]]:
    """Size in bytes and modification time in ns of every file the identity depends on."""
    stats = {path.name: path.stat() for path in _identity_paths(model_dir)}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def compute_identity(model_dir: Path) -> Identity:
    """Hash every file of a checked folder."""
    weights = weight_files(model_dir)
    num_params = sum(_count_params(path) for path in weights)
    shas = {path.name: file_sha256(path) for path in weights}
    base_sha256 = next(iter(shas.values())) if len(shas) == 1 else value_hash(shas)
    names = ("tokenizer.json", "tokenizer_config.json")
    tokenizer = {name: file_sha256(model_dir / name) for name in names if (model_dir / name).is_file()}
    template = template_text(model_dir)
    return Identity(
        base_sha256=base_sha256,
        tokenizer_sha256=value_hash(tokenizer),
        template_sha256=sha256_hex(template.encode()) if template else "",
        num_params=num_params,
    )


def read_identity(model_dir: Path, record_path: Path) -> Identity | None:
    """The stored fingerprints, or None where there are none or a file changed since."""
    if not record_path.is_file():
        return None
    record = read_json(record_path)
    if not isinstance(record, dict) or record.get("stamps") != _stamps(model_dir):
        return None
    return Identity(**record["identity"])


def identity_of(model_dir: Path, record_path: Path) -> Identity:
    """The fingerprints of a checked folder, from its record where no file changed, else computed and recorded."""
    stored = read_identity(model_dir, record_path)
    if stored is not None:
        return stored
    stamps = _stamps(model_dir)
    identity = compute_identity(model_dir)
    write_json(record_path, {"identity": asdict(identity), "stamps": stamps})
    return identity
