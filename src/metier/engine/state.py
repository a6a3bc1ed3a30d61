"""Checkpoints that are whole or absent: masters, moments and counters, enough to go on bit for bit.

A checkpoint is a folder with `state.safetensors` and `state.json`. A new one is written beside the old
one, flushed, and takes its place by rename; a process killed in between leaves the old one, and
`load_state` finds it under either name.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from metier.core.errors import ModelError, StoreError
from metier.core.folders import storage_error
from metier.engine.handle import Handle
from metier.engine.loop import Trainer, trainer_of
from metier.engine.optimizer import Moments, give_back, moments_of

__all__ = ["drop_state", "find_state", "load_state", "save_state", "state_names"]

STATE_VERSION = 4
MOMENT = "optimizer."
"""What the names of an optimizer's tensors begin with."""


def save_state(handle: Handle, state_dir: Path, *, facts: Mapping[str, Any] | None = None) -> None:
    """Write the state after the last completed step; `facts` (JSON values) come back from `load_state`.

    Raises:
        StoreError: the disk is full or the folder cannot be written; the previous checkpoint is intact.
    """
    trainer = trainer_of(handle)
    trainer.verbs.submit(_save, trainer, state_dir, dict(facts or {})).result()


def _save(trainer: Trainer, state_dir: Path, facts: dict[str, Any]) -> None:  # Any: JSON values
    if trainer.pending:
        raise ModelError("save_state: a step is half done; call optim_step first.")
    trainer.prepare(1)
    trainer.prepare_gradients()
    assert trainer.optimizer is not None
    moments = moments_of(trainer.optimizer)
    tensors = {"masters": trainer.masters_P.detach().cpu()}
    tensors |= {MOMENT + name: value for name, value in moments.tensors.items()}
    part_dir, old_dir = _beside(state_dir, "part"), _beside(state_dir, "old")
    try:
        shutil.rmtree(part_dir, ignore_errors=True)
        part_dir.mkdir(parents=True)
        save_file(tensors, str(part_dir / "state.safetensors"))
        counters = {"version": STATE_VERSION, "step": trainer.step, "numbers": moments.numbers}
        text = json.dumps({**counters, **_identity(trainer), "facts": facts})
        (part_dir / "state.json").write_text(text, encoding="utf-8")
        for path in (*part_dir.iterdir(), part_dir):
            _flush(path)
        if state_dir.exists():
            shutil.rmtree(old_dir, ignore_errors=True)
            state_dir.rename(old_dir)
        part_dir.rename(state_dir)
        _flush(state_dir.parent)
        shutil.rmtree(old_dir, ignore_errors=True)
    except OSError as err:
        raise storage_error(state_dir, err) from err
    except SafetensorError as err:
        # safetensors wraps the operating system's error in its text.
        raise StoreError(
            f"{state_dir}: could not be written ({err}). The previous checkpoint is intact; free some space and run "
            "the same command again: it resumes."
        ) from err


def find_state(state_dir: Path) -> Path | None:
    """Where the last whole checkpoint is: in its folder, or beside it if a save was cut short; None if nowhere."""
    for folder in (state_dir, _beside(state_dir, "old")):
        if (folder / "state.json").exists():
            return folder
    return None


def state_names(state_dir: Path) -> tuple[str, ...]:
    """The names a checkpoint may have on the disk: whole, being written, being replaced."""
    return tuple(folder.name for folder in _folders(state_dir))


def drop_state(state_dir: Path) -> None:
    """Delete a checkpoint that is no longer needed, and what a cut-short save left beside it."""
    for folder in _folders(state_dir):
        shutil.rmtree(folder, ignore_errors=True)


def _folders(state_dir: Path) -> tuple[Path, ...]:
    return (_beside(state_dir, "part"), _beside(state_dir, "old"), state_dir)


def load_state(handle: Handle, state_dir: Path) -> dict[str, Any]:  # Any: JSON values
    """Go back to a saved step; returns the `facts` it was saved with.

    Raises:
        StoreError: there is no whole checkpoint.
        ModelError: it belongs to another base, adapter form, precision or thread count.
    """
    trainer = trainer_of(handle)
    return trainer.verbs.submit(_load, trainer, state_dir).result()


def _load(trainer: Trainer, state_dir: Path) -> dict[str, Any]:  # Any: JSON values
    found_dir = find_state(state_dir)
    if found_dir is None:
        raise StoreError(f"{state_dir}: expected a checkpoint, found none; start without resuming.")
    try:
        state = json.loads((found_dir / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(str(found_dir / "state.safetensors"))
    except (OSError, ValueError, SafetensorError) as err:
        raise StoreError(f"{found_dir}: not readable as a checkpoint ({err}); delete it to start again.") from err
    for name, value in {"version": STATE_VERSION, **_identity(trainer)}.items():
        if state.get(name) != value:
            raise ModelError(
                f"{found_dir}: the checkpoint was made with {name} = {state.get(name)!r}, this run has {value!r}; "
                "resume with the same settings, or delete the folder to start again."
            )
    trainer.prepare(1)
    trainer.prepare_gradients()
    trainer.discard()
    assert trainer.optimizer is not None
    masters_P = trainer.masters_P
    with torch.no_grad():
        masters_P.copy_(tensors["masters"])
    named = {name.removeprefix(MOMENT): tensor for name, tensor in tensors.items() if name.startswith(MOMENT)}
    give_back(trainer.optimizer, Moments(named, state["numbers"]))
    trainer.step = state["step"]
    trainer.publish()
    facts: dict[str, Any] = state["facts"]
    return facts


def _identity(trainer: Trainer) -> dict[str, Any]:  # Any: JSON values
    """What must be equal for a resumed run to be the same run."""
    handle = trainer.handle
    return {
        "base": handle.function_sha256,
        "adapter": handle.require_trained("save_state").form,
        "dtype": str(handle.dtype).removeprefix("torch."),
        "threads": handle.threads,
        "optimizer": handle.optimizer,
    }


def _beside(state_dir: Path, suffix: str) -> Path:
    return state_dir.with_name(f".{state_dir.name}.{suffix}")


def _flush(path: Path) -> None:
    """Have the disk hold what was written, before a rename makes it count."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
