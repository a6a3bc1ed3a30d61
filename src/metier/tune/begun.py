"""A run goes on as it began, also where the machine would decide otherwise by now.

How many cores there are and which precision is the faster one is found out anew by every process, and both change the
bits of a run. What the settings leave to the machine is therefore taken from the folder of a run that left something.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from metier.core.errors import StoreError
from metier.core.folders import finished, read_json
from metier.engine import Handle, close, current_ranks, find_state
from metier.engine.form import Execution
from metier.engine.load import DtypeName
from metier.tune.arrange import EXECUTION_NAME
from metier.tune.result import Options

__all__ = ["STATE_NAME", "TakenUp", "dtype_setting", "take_up", "tell_discarded"]

log = logging.getLogger(__name__)

STATE_NAME = "state"
OTHER = "of other rows, settings or another base"


class TakenUp(NamedTuple):
    """A loaded model, and what its run's folder holds for it."""

    handle: Handle
    wanted: str
    """Hash of all that fixes the result to the bit."""
    is_finished: bool = False
    is_resumable: bool = False
    """Whether there is a checkpoint of exactly this run."""
    discards: str = OTHER
    """What is wrong with whatever else the folder holds."""


class _Begun(NamedTuple):
    dtype: DtypeName
    threads: int


def take_up(
    load: Callable[[DtypeName], Handle],
    hash_of: Callable[[Handle], str],
    *,
    out_dir: Path,
    dtype: DtypeName,
    options: Options,
) -> TakenUp:
    """The model as the run of `out_dir` began with it, if by `hash_of` it is this run; else as the machine decides.

    A finished run is taken whatever `options.threads` is; an unfinished one only where no other number is asked for.
    """
    begun = current_ranks().gather(_begun_in(out_dir))[0]
    if begun is None:
        handle = load(dtype)
        return TakenUp(handle, hash_of(handle), discards="that does not say what it began with")
    handle, discards = load(begun.dtype if dtype == "auto" else dtype), OTHER
    own_threads, handle.threads = handle.threads, begun.threads
    wanted = hash_of(handle)
    is_finished, is_resumable = finished(out_dir, wanted), _is_checkpoint_of(out_dir, wanted)
    if is_finished or is_resumable:
        if is_finished or options.threads in (None, begun.threads):
            if own_threads != begun.threads:
                kept = "the result stands" if is_finished else "it goes on with them"
                _tell(
                    log.info, f"{out_dir}: begun with {begun.threads} threads, here are {own_threads}; {kept}", options
                )
            return TakenUp(handle, wanted, is_finished, is_resumable)
        discards = f"of {begun.threads} threads, and {own_threads} are asked for; sums depend on their number"
    if dtype == "auto":
        close(handle)
        del handle  # one model in memory at a time
        handle = load(dtype)
    handle.threads = own_threads
    return TakenUp(handle, hash_of(handle), discards=discards)


def dtype_setting(name: str) -> DtypeName:
    """The value of `tune.product_dtype` that means torch's dtype of this name."""
    names: dict[str, DtypeName] = {"bfloat16": "bf16", "float32": "fp32"}
    return names[name]


def _is_checkpoint_of(out_dir: Path, wanted: str) -> bool:
    found_dir = find_state(out_dir / STATE_NAME)
    return found_dir is not None and read_json(found_dir / "state.json")["facts"].get("hash") == wanted


def tell_discarded(out_dir: Path, why: str, options: Options) -> None:
    """Say what is about to be deleted, if there is anything a run took its time for."""
    if (out_dir / "done.json").exists():
        what = "a finished run"
    elif find_state(out_dir / STATE_NAME) is not None:
        what = "the checkpoint of an unfinished run"
    else:
        return
    _tell(log.warning, f"{out_dir}: holds {what} {why}. It is deleted, and the run starts at its first step", options)


def _begun_in(out_dir: Path) -> _Begun | None:
    """What the run in a folder was begun with; None where it left nothing that could go on."""
    if not (out_dir / "done.json").exists() and find_state(out_dir / STATE_NAME) is None:
        return None
    try:
        execution = Execution.from_json(read_json(out_dir / EXECUTION_NAME))
        return _Begun(dtype_setting(execution.product_dtype.name), execution.threads)
    except (StoreError, TypeError, KeyError) as err:
        log.warning("%s: what the run began with is not readable (%s)", out_dir, err)
        return None


def _tell(level: Callable[[str, str], None], line: str, options: Options) -> None:
    level("%s", line)
    if options.say is not None:
        options.say(line)
