"""A fully tuned model as a folder that transformers and `load` read, and which file holds what was tuned.

    >>> export_model(handle, Path("model"))  # doctest: +SKIP
    >>> load(Path("model")).fingerprint == handle.fingerprint  # doctest: +SKIP
    True

The weights are written in the precision of the products: the very numbers whose dev loss was measured.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from metier.core.errors import ConfigError, ModelError
from metier.core.folders import storage_error, write_json, write_pieces
from metier.engine.handle import AdapterSpec, Handle
from metier.engine.load import DtypeName, ModelFolder, Place, load, sha256_of
from metier.engine.model_bytes import model_bytes
from metier.engine.weight_files import weight_paths
from metier.engine.weights import LINEAR_NAMES

__all__ = ["changes_nothing", "continue_tuned", "export_model", "load_tuned", "tuned_file"]

CPU = Place()
COPIED = (".json", ".jinja", ".txt", ".model")
"""Kinds of files that make a tokenizer, a chat template and generation settings."""
NOT_COPIED = ("config.json", "identity.json", "model.safetensors.index.json")
"""config.json is written anew; the others would speak of the base's bytes."""


def export_model(handle: Handle, model_dir: Path) -> Path:
    """Write the tuned weights with the base's config, tokenizer and template into `model_dir`; returns the folder.

    Raises:
        ModelError: the weights of the handle are not what trains.
        StoreError: the folder cannot be written.
    """
    if handle.full is None:
        raise ModelError("export_model: the weights of this model do not train; load it with method='full'.")
    config = json.loads((handle.base_dir / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = str(handle.dtype).removeprefix("torch.")
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        for path in sorted(handle.base_dir.iterdir()):
            if path.suffix in COPIED and path.name not in NOT_COPIED and path.is_file():
                shutil.copyfile(path, model_dir / path.name)
    except OSError as err:
        raise storage_error(model_dir, err) from err
    write_pieces(model_dir / "model.safetensors", model_bytes(handle.weights, base_sha256=handle.full.tuned_from))
    write_json(model_dir / "config.json", config)
    return model_dir


def tuned_file(tuned_dir: Path) -> Path:
    """The file whose bytes are what was tuned: the adapter's, or the model's where its weights were."""
    is_adapter = (tuned_dir / "adapter_config.json").exists() or not (tuned_dir / "config.json").exists()
    return tuned_dir / ("adapter_model.safetensors" if is_adapter else "model.safetensors")


def load_tuned(
    base: ModelFolder | Path,
    tuned_dir: Path,
    *,
    base_sha256: str,
    dtype: DtypeName = "auto",
    threads: int | None = None,
    place: Place = CPU,
) -> Handle:
    """A tuned model from either kind of folder: the base with its adapter, or a model whose weights were tuned.

    Raises:
        ModelError: a file is missing or not whole, or it was tuned from another base than `base_sha256`.
    """
    path = tuned_file(tuned_dir)
    if path.name.startswith("adapter"):
        return load(base, adapter=tuned_dir, dtype=dtype, threads=threads, **place._asdict())
    _refuse_other_base(path, base_sha256)
    return load(tuned_dir, dtype=dtype, threads=threads, **place._asdict())


def continue_tuned(
    base_dir: Path,
    tuned_dir: Path,
    spec: AdapterSpec,
    *,
    dtype: DtypeName = "auto",
    threads: int | None = None,
    place: Place = CPU,
) -> Handle:
    """A tuned model made ready to train on: its adapter, or all of its weights; it stays one of the same base.

    Raises:
        ConfigError: the adapter has another form than `spec`.
        ModelError: as of `load_tuned`, or an adapter stands where a model is wanted.
    """
    if spec.method != "full":
        handle = load(base_dir, adapter=tuned_dir, dtype=dtype, threads=threads, **place._asdict())
        found, wanted = handle.require_adapter("tune").form, handle.backend.form_of(spec)
        if found != wanted:
            raise ConfigError(
                f"{tuned_dir}: {_words(found, handle)}; the settings say {_words(wanted, handle)}. Set [tune] method, "
                "targets, rank, alpha and depth to those of the adapter the run starts from."
            )
        return handle
    path, base_sha256 = tuned_file(tuned_dir), sha256_of(weight_paths(base_dir))
    if path.name.startswith("adapter"):
        raise ModelError(
            f"{tuned_dir}: an adapter, but method = 'full' goes on from a model. Set tune.method to its own."
        )
    _refuse_other_base(path, base_sha256)
    handle = load(tuned_dir, adapter=spec, dtype=dtype, threads=threads, **place._asdict())
    assert handle.full is not None, "loaded with method full"
    handle.full.tuned_from = base_sha256
    return handle


def _words(form: list[Any], handle: Handle) -> str:  # Any: JSON values
    """The form of an adapter in words."""
    method, rank, scale, first_layer, targets = form
    where = "" if targets == list(LINEAR_NAMES) else f" on {', '.join(targets)}"
    alpha = scale * (math.sqrt(rank) if method == "rslora" else rank)
    return f"{method}{where}, rank {rank}, alpha {alpha:g}, top {handle.shape.num_layers - first_layer} layers"


def _refuse_other_base(path: Path, base_sha256: str) -> None:
    """Raise `ModelError` unless a model's file is whole and was tuned from this base."""
    try:
        with safe_open(str(path), framework="pt") as file:
            tuned_from = (file.metadata() or {}).get("base_sha256", "")
    except (OSError, SafetensorError) as err:
        raise ModelError(
            f"{path}: not a whole safetensors file ({err}). Restore it from a copy, or delete its folder and "
            "tune again."
        ) from err
    if tuned_from != base_sha256:
        raise ModelError(
            f"{path}: tuned from base {tuned_from[:12] or 'unknown'}, but this base is {base_sha256[:12]}. Name the "
            "base it was tuned from, or tune again."
        )


@torch.no_grad()
def changes_nothing(handle: Handle) -> bool:
    """Whether what was tuned gives the base's own outputs."""
    if handle.full is not None:
        return handle.fingerprint == handle.full.base_fingerprint
    low_ranks = [part for layer in handle.require_adapter("changes_nothing").layers for part in layer.values()]
    if any(bool(part.b.any()) for part in low_ranks):
        return False
    return handle.adapter is None or handle.adapter.method != "dora" or not _has_own_lengths(handle)


def _has_own_lengths(handle: Handle) -> bool:
    """Whether a magnitude of DoRA differs from the length of its row."""
    from metier.engine.lowrank import Working

    working = Working(handle.adapter, handle.weights, torch.float32)
    factors = [pair.factor for pairs in working.pairs for pair in pairs.values()]
    return any(factor is not None and bool(factor.any()) for factor in factors)
