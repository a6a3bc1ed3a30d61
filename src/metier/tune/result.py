"""What a tuning run takes beside settings and rows, says while it runs, and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metier.engine.form import Execution

__all__ = ["Options", "Progress", "TuneResult"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run is, after each step."""

    step: int
    num_steps: int
    loss_nats: float
    dev_loss_nats: float | None
    tokens_per_s: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a run is done, beside what is learned."""

    start: Path | None = None
    """Folder of the adapter, or of the fully tuned model, to go on from; None starts from the base."""
    threads: int | None = None
    """Cores; None takes all this process may use."""
    on_progress: Callable[[Progress], None] | None = None
    say: Callable[[str], None] | None = None
    """Told, a line each, what the run chose for itself and why, before its first step."""
    trunk_dir: Path | None = None
    """Where the states below the adapted layers are kept for all runs that share rows; None: beside `out_dir`."""
    layout_why: str = "tune.layout"
    """Why `tune.layout` is what it is, told with it."""
    times_layouts: bool = False
    """Whether layout = "auto" times both on the first step: a rehearsal does, a run takes what one found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneResult:
    """What a run gave."""

    adapter_dir: Path
    """The best checkpoint's adapter, PEFT files; under method full a model folder."""
    best_step: int
    num_steps: int
    """Steps planned."""
    last_step: int
    """Last step taken; below `num_steps` where patience ended the run."""
    dev_curve: tuple[tuple[int, float], ...]
    """(step, dev loss in nats: of sft a trained token, of dpo a pair); step 0 is the model the run started from."""
    lr: float
    step_tokens: int
    num_rows: int
    """Examples trained on: rows, or pairs of them."""
    num_dropped: int
    """Rows longer than `max_row_tokens`, listed in dropped.jsonl."""
    num_tokens: int
    """Tokens seen over all passes."""
    num_trained: int
    seconds: float
    """Of the steps, dev scores and what comes before the first, over all resumptions."""
    fingerprint: str
    """Of base and best adapter together."""
    execution: Execution
    """In what form the run was computed, and why."""
