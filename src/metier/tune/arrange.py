"""In what form a run is computed: decided before its first step, told, and stored; a resumed run takes the same.

    >>> arrange(handle, rows, config, Plan(...)).lines()[8]  # doctest: +SKIP
    'layout: packed (tune.layout)'

What changes the bits of a run (layout, shared prefix, stored states) is read again from the run's folder on resume,
whatever a new measurement would say.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from metier.core.errors import ModelError, StoreError
from metier.core.folders import read_json, write_json
from metier.core.tune_config import TuneConfig
from metier.engine import Handle
from metier.engine.batch import last_input
from metier.engine.choose import choose_checkpointing, choose_layout
from metier.engine.cuda import free_gib, told
from metier.engine.form import Choice, Execution, Form
from metier.engine.loop import MIN_WORKER_TOKENS, trainer_of
from metier.engine.prefix import MIN_PREFIX_TOKENS, common_prefix
from metier.engine.trunk import Trunk, open_trunk
from metier.tune.result import Options
from metier.tune.schedule import MIN_READS

if TYPE_CHECKING:
    from metier.render import RenderedRow

__all__ = ["EXECUTION_NAME", "NOT_REHEARSED", "RunRows", "arrange"]

log = logging.getLogger(__name__)

EXECUTION_NAME = "execution.json"
NOT_REHEARSED = "no rehearsal measured the layouts"
"""Why layout = "auto" is packed."""
PLAIN = "transformers' own modules compute steps in one form"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRows:
    """The rows of a run, and where they are used."""

    all: Sequence[RenderedRow]
    """Train and dev."""
    mean_reads: float
    """How often the run reads a train row."""
    first_step: Sequence[RenderedRow]
    """A normal step: what is timed."""


def arrange(
    handle: Handle, rows: RunRows, config: TuneConfig, *, out_dir: Path, resumed: bool, options: Options
) -> Execution:
    """Decide, tell, store, and set the handle up; rows' states that are not stored yet are computed now.

    Raises:
        StoreError: the disk is full, or an unfinished run has lost its states and there is no room for them.
    """
    path, trunk_dir = out_dir / EXECUTION_NAME, options.trunk_dir or out_dir.parent / "trunk"
    before = Execution.from_json(read_json(path)) if resumed and path.exists() else None
    trainer = trainer_of(handle)
    prefix, prefix_choice = _prefix(rows.all, takes_forms=trainer.trainee.takes_forms)
    trunk, num_bytes, trunk_choice = _trunk(handle, rows, config, len(prefix), trunk_dir, before)
    handle.ranks.require_same(trunk is None, what="whether states below the adapted layers are stored")
    form = Form(prefix=tuple(prefix), trunk=trunk)
    trainer.verbs.submit(trainer.take_form, form).result()
    if trunk is not None:
        if not handle.ranks.is_first:
            handle.ranks.wait()  # the first one computes what is not stored, the others find it
        trainer.verbs.submit(trunk.fill, trainer, rows.all, on_progress=lambda share: _told(share, options)).result()
        if handle.ranks.is_first:
            handle.ranks.wait()
    layout = handle.ranks.gather(_layout(handle, rows.first_step, config, before, options))[0]
    longest = max(last_input(row.weight) for row in rows.all) - len(prefix)
    step_tokens = max(0, config.step_tokens - len(prefix) * len(rows.first_step))  # computed with the rows themselves
    workers = max(1, min(trainer.max_workers, step_tokens // MIN_WORKER_TOKENS))
    micro_tokens = max(longest, min(trainer.micro_tokens, step_tokens // workers))
    checkpointing = _checkpointing(handle, config, micro_tokens=micro_tokens, workers=workers)
    form = replace(form, layout=layout.name, checkpointing=checkpointing.name == "on")  # type: ignore[arg-type]  # packed or padded
    trainer.verbs.submit(trainer.take_form, form).result()
    first_layer = handle.require_trained("tune").first_layer
    execution = Execution(
        block=Choice(name=handle.backend.name, reason=handle.backend.why),
        product_dtype=_dtype(handle, config) if before is None else before.product_dtype,
        threads=handle.threads,
        workers=Choice(
            name=str(workers),
            reason=f"of {trainer.max_workers}; {step_tokens} tokens a step, {MIN_WORKER_TOKENS} each at least",
        ),
        micro_tokens=Choice(
            name=str(micro_tokens), reason=f"at most {trainer.micro_tokens} a worker at a time, or one row"
        ),
        layout=layout,
        checkpointing=checkpointing,
        prefix=prefix_choice,
        trunk=trunk_choice,
        device=Choice(name=str(handle.backend.device), reason=told(config.device)),
        base=_base(config),
        optimizer=_optimizer(config),
        head=trainer.trainee.head,
        prefix_tokens=len(prefix),
        trunk_layers=first_layer if trunk is not None else 0,
        trunk_bytes=num_bytes if trunk is not None else 0,
    )
    for line in execution.lines():
        _tell(line, options)
    if handle.ranks.is_first:
        write_json(path, execution.as_json())
    return execution


def _tell(line: str, options: Options) -> None:
    log.info("%s", line)
    if options.say is not None:
        options.say(line)


def _told(share: float, options: Options) -> None:
    _tell(f"states below the adapted layers: {share:.0%} computed", options)


def _prefix(rows: Sequence[RenderedRow], *, takes_forms: bool) -> tuple[list[int], Choice]:
    if not takes_forms:
        return [], Choice(name="none", reason=PLAIN)
    shared = common_prefix([row.tokens for row in rows], [row.weight for row in rows], least=1)
    told = f"{len(shared)} tokens are the same in all {len(rows)} rows"
    if len(shared) < MIN_PREFIX_TOKENS:
        return [], Choice(name="none", reason=f"{told}; it pays from {MIN_PREFIX_TOKENS}")
    return shared, Choice(name=f"{len(shared)} tokens", reason=f"{told}; computed once a step")


def _trunk(
    handle: Handle,
    rows: RunRows,
    config: TuneConfig,
    skip: int,
    trunk_dir: Path,
    before: Execution | None,
) -> tuple[Trunk | None, int, Choice]:
    """The stored states, the bytes they need, and why."""
    first_layer, limit = handle.require_trained("tune").first_layer, config.trunk_gib * 2**30
    if not first_layer:
        return None, 0, Choice(name="none", reason="all layers are adapted")
    if not trainer_of(handle).trainee.takes_forms:
        return None, 0, Choice(name="none", reason=PLAIN)
    if not limit:
        return None, 0, Choice(name="none", reason="tune.trunk_gib is 0")
    if before is not None and not before.trunk_layers:
        return None, 0, Choice(name="none", reason=f"as the run began: {before.trunk.reason}")
    if before is None and rows.mean_reads < MIN_READS:
        return (
            None,
            0,
            Choice(name="none", reason=f"a row is read {rows.mean_reads:.2f} times; it pays from {MIN_READS}"),
        )
    trunk, num_bytes = open_trunk(handle, rows.all, skip=skip, trunk_dir=trunk_dir, limit_bytes=int(limit))
    told = f"{num_bytes / 2**30:.3f} GiB for {len(rows.all)} rows, trained ones read {rows.mean_reads:.1f} times"
    if trunk is not None:
        return (
            trunk,
            num_bytes,
            Choice(name=f"{first_layer} layers", reason=f"{told}, at most {config.trunk_gib:g} GiB"),
        )
    why = "over tune.trunk_gib" if num_bytes > limit else "not free on the disk, or held by other runs"
    if before is not None:
        raise StoreError(
            f"{trunk_dir}: the run began with stored states and needs {told}, {why}. Free the space and run the same "
            "command again: it resumes."
        )
    log.warning("the states below the adapted layers are not stored: %s, %s", told, why)
    return None, num_bytes, Choice(name="none", reason=f"{told}, {why} ({config.trunk_gib:g} GiB)")


def _layout(
    handle: Handle, rows: Sequence[RenderedRow], config: TuneConfig, before: Execution | None, options: Options
) -> Choice:
    """What is set, what a rehearsal finds now, or the plain one: two runs of one command never time and differ."""
    if before is not None:
        return before.layout
    if not trainer_of(handle).trainee.takes_forms:
        _refuse_form("layout", config.layout, plain="packed")
        return Choice(name="packed", reason=PLAIN)
    if config.layout != "auto":
        return Choice(name=config.layout, reason=options.layout_why)
    if options.times_layouts:
        return choose_layout(handle, rows)
    return Choice(name="packed", reason=NOT_REHEARSED)


def _checkpointing(handle: Handle, config: TuneConfig, *, micro_tokens: int, workers: int) -> Choice:
    """The same bits either way, so a resumed run may decide anew."""
    if not trainer_of(handle).trainee.takes_forms:
        _refuse_form("checkpointing", config.checkpointing, plain="off")
        return Choice(name="off", reason=PLAIN)
    if config.checkpointing != "auto":
        return Choice(name=config.checkpointing, reason="tune.checkpointing")
    return choose_checkpointing(handle, micro_tokens=micro_tokens, workers=workers, free_bytes=_free_bytes(config))


def _refuse_form(name: str, value: str, *, plain: str) -> None:
    """Raise `ModelError` where a form is asked for that the base's forward does not have."""
    if value not in ("auto", plain):
        raise ModelError(f"tune.{name} is {value!r}, but {PLAIN}; leave the setting out for this base.")


def _dtype(handle: Handle, config: TuneConfig) -> Choice:
    name = str(handle.dtype).removeprefix("torch.")
    measured = "measured to be the faster one here" if config.device == "cpu" else "what a GPU multiplies fastest"
    why = "tune.product_dtype" if config.product_dtype != "auto" else measured
    return Choice(name=name, reason=why)


def _base(config: TuneConfig) -> Choice:
    if config.base_bits == 4:
        return Choice(name="4 bits", reason="tune.base_bits; NF4 by bitsandbytes, products in product_dtype")
    return Choice(name="in product_dtype", reason="tune.base_bits is 16: nothing is quantised")


def _optimizer(config: TuneConfig) -> Choice:
    moments = "8 bits, by bitsandbytes" if config.optimizer == "adamw8bit" else "fp32"
    return Choice(name=config.optimizer, reason=f"tune.optimizer; moments in {moments}")


def _free_bytes(config: TuneConfig) -> float:
    """Memory a step could still take where it is computed; a container's limit counts where it is lower."""
    if config.device == "cuda":
        return free_gib() * 2**30
    free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if sys.platform == "linux":
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), free)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        free = min(free, int(text) - float(used.read_text(encoding="ascii")))
    return free
