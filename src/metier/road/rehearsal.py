"""The rehearsal of a plan: everything the tuning does, once, timed and held against memory, disk and budget.

It is stored under the hash of the plan it rehearsed: a later run of the same plan predicts with its speeds, says so,
and computes rows in the layout that was faster (`layout.py`). Nothing else changes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.core.errors import GateClosed
from metier.core.folders import finished, read_json, stage_hash, write_json
from metier.core.seeds import derived_seed
from metier.core.tune_config import TuneConfig
from metier.road.calibrate import Speeds, Workload, measure_workload
from metier.road.cut import Parts
from metier.road.layout import fix_layout, fixed_layout
from metier.road.plan import OVERRUN, Plan, chosen_rows, objective_estimate
from metier.road.progress import minutes_text
from metier.road.rendered import Rendered, instruction_text, render_parts
from metier.road.session import Session

if TYPE_CHECKING:
    from metier.tune import TuneEstimate

__all__ = ["Rehearsed", "rehearse_plan", "require_room", "with_rehearsal"]

REHEARSAL_VERSION = 3
NUM_PROMPTS, REPLY_TOKENS = 4, 32
"""Dev prompts the exported adapter answers, and the longest of its answers."""
MAX_STEP_TOKENS = 2048
"""What a run takes at most where tune.step_tokens is 0."""
MARGIN = 0.15
"""What a prediction after a rehearsal may be off by, as a share."""
SPARE_DISK_GIB = 0.5
"""Left free beside checkpoints and exports: metrics, the report, the ledger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsed:
    """What a rehearsal found."""

    seconds: float
    """Time the rehearsal took."""
    load_s: float
    longest_step_s: float
    """Seconds of the step around the longest row, products compiled on the way."""
    train_tokens_per_s: float
    dev_s: float
    """Seconds of one dev evaluation."""
    save_s: float
    resume_s: float
    """Seconds to load base and checkpoint and take the next step; its bits were those of the uninterrupted run."""
    decode_s: float
    replies: tuple[str, ...]
    """What the adapter of one step answers to dev prompts."""
    tune_minutes: float
    tune_gib: float
    """Peak memory of the tuning alone."""
    memory_parts: str
    disk_gib: float
    """Disk that checkpoints and exports take at most."""
    speed: Mapping[str, Any]
    """What a prediction is made of."""
    chosen: tuple[str, ...]
    """In what form the run is computed, a line for each choice with its reason."""
    layout: Mapping[str, Any]
    """The layout that is faster here, with its reason: later runs of the plan take it."""

    def as_json(self) -> dict[str, Any]:
        """The findings as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Rehearsed:
        """The findings written by `as_json`."""
        return cls(**{**values, "replies": tuple(values["replies"]), "chosen": tuple(values["chosen"])})

    def as_text(self) -> str:
        """The findings for a person."""
        lines = [
            f"rehearsed in {self.seconds:.0f} s: tuning takes {minutes_text(self.tune_minutes)} "
            f"({self.train_tokens_per_s:.0f} tokens a second) and {self.tune_gib:.2f} GiB ({self.memory_parts})",
            f"  load {self.load_s:.1f} s, longest batch {self.longest_step_s:.1f} s, dev {self.dev_s:.1f} s, "
            f"save {self.save_s:.2f} s, resume {self.resume_s:.1f} s with the same bits",
            f"  disk: at most {self.disk_gib:.2f} GiB for checkpoints and the adapter",
        ]
        lines += [f"  {line}" for line in self.chosen]
        lines += [f"  one step's adapter answers: {reply!r}" for reply in self.replies[:2]]
        return "\n".join(lines)


def rehearse_plan(session: Session, parts: Parts, plan: Plan) -> Rehearsed:
    """Rehearse the plan's tuning run, or find the rehearsal of exactly this plan.

    Raises:
        GateClosed: memory, disk or minutes do not suffice; the message holds the setting that makes it fit.
        ModelError: a resumed step differs from the uninterrupted one.
    """
    session.progress.enter("plan")
    session.progress.say("rehearsing: longest batch, normal batch, dev, save, resume, decode")
    rendered = render_parts(session, parts)
    work = measure_workload(session, parts, rendered)

    def do(stage_dir: Path) -> None:
        write_json(
            stage_dir / "rehearsal.json", _rehearse(session, parts, plan, rendered, stage_dir / "work").as_json()
        )

    stage = session.workspace.stage("rehearsal", version=REHEARSAL_VERSION, work=do, **_identity(session, plan))
    found = _repredicted(session, plan, work, _read(session, stage.dir))
    _require_fit(session, plan, work, found)
    return found


def with_rehearsal(session: Session, parts: Parts, plan: Plan) -> Plan:
    """The plan with the rehearsed minutes of the tuning, where a rehearsal of exactly this plan is stored."""
    identity = _identity(session, plan)
    wanted = stage_hash(stage="rehearsal", version=REHEARSAL_VERSION, **identity)
    stage_dir = session.workspace.stage_dir("rehearsal", wanted)
    if not finished(stage_dir, wanted):
        return plan
    work = measure_workload(session, parts, render_parts(session, parts))
    found = _repredicted(session, plan, work, _read(session, stage_dir))
    session.progress.say(
        f"rehearsed: tuning takes {minutes_text(found.tune_minutes)} at {found.train_tokens_per_s:.0f} tokens a "
        f"second, {found.tune_gib:.2f} GiB"
    )
    return _updated(plan, found)


def _read(session: Session, stage_dir: Path) -> Rehearsed:
    """A stored rehearsal; the layout it found is that of the plan from now on, unless a run began before it."""
    from metier.engine.form import Choice

    found = Rehearsed.from_json(read_json(stage_dir / "rehearsal.json"))
    fix_layout(session, Choice(**found.layout))
    return found


def require_room(session: Session, plan: Plan) -> None:
    """Pass only where the machine has the memory and the disk the plan predicts; no model is loaded for it.

    Raises:
        GateClosed: there is too little of one.
    """
    (there, named), needed = _memory_there(session), plan.predictions["peak_memory_gib"][0]
    if needed > there:
        raise GateClosed(
            f"the run is predicted to need {needed:.2f} GiB of memory, {named} is {there:.2f} GiB. Lower "
            "tune.step_tokens, tune.max_row_tokens or tune.depth, or end other programs."
        )
    _require_disk(session, 0.0)


def _memory_there(session: Session) -> tuple[float, str]:
    """GiB that may be used, and what says so: the budget or the machine, whichever is less."""
    from metier.tune import available_gib
    from metier.tune.memory import resident_gib

    if session.config.tune.device == "cuda":
        from metier.engine.cuda import free_gib, held_gib

        machine = free_gib() + held_gib(), "the free memory of the CUDA device"
    else:
        machine = available_gib() + resident_gib(), "the machine's available memory"
    budget = session.config.budget.memory_gib
    return min(machine, (budget, "[budget] memory_gib")) if budget else machine


def _require_disk(session: Session, needed_gib: float) -> None:
    free = shutil.disk_usage(session.project_dir).free / 2**30
    wanted = needed_gib + SPARE_DISK_GIB
    if free < wanted:
        raise GateClosed(
            f"{session.project_dir}: {free:.2f} GiB of disk are free, the run needs {wanted:.2f} GiB for checkpoints, "
            f"adapter and report. Free {wanted - free:.2f} GiB, or move the project."
        )


def _identity(session: Session, plan: Plan) -> dict[str, Any]:  # Any: JSON values
    config = _config(session, plan)
    return {
        "inputs": {"plan": session.stages["plan"].hash},
        "config": {"tune": asdict(config), "num_train_rows": plan.num_train_rows},
    }


def _config(session: Session, plan: Plan) -> TuneConfig:
    return replace(session.config.tune, passes=plan.passes, depth=plan.depth, product_dtype=session.wanted_dtype)


def _rehearse(session: Session, parts: Parts, plan: Plan, rendered: Rendered, work_dir: Path) -> Rehearsed:
    from metier.arms.replier import with_instruction
    from metier.engine import SamplingParams
    from metier.tune import Prompts, rehearse

    seed = session.config.project.seed
    drawn = chosen_rows(len(rendered.train), plan.num_train_rows, seed=seed)
    tuned = next(arm for arm in session.config.arm if arm.kind == "tuned")
    instruction = instruction_text(tuned, session.wordings)
    renderer = session.renderer
    asked = [renderer.prompt_tokens(with_instruction(row, instruction), row.tools) for row in parts.dev[:NUM_PROMPTS]]
    limit, layout, config = session.config.tune.max_row_tokens, fixed_layout(session), _config(session, plan)
    found = rehearse(
        [rendered.train[row] for row in drawn],
        rendered.dev,
        config if layout is None else replace(config, layout=layout.name),  # type: ignore[arg-type]  # packed or padded
        base=session.base,
        work_dir=work_dir,
        seed=derived_seed(seed, "tune"),
        prompts=Prompts(
            tokens=[prompt[:limit] for prompt in asked],
            params=SamplingParams(max_tokens=REPLY_TOKENS, stop_ids=renderer.stop_ids),
        ),
    )
    execution = found.execution if layout is None else replace(found.execution, layout=layout)
    texts = [renderer.template.decode([t for t in reply if t not in renderer.stop_ids]) for reply in found.reply_tokens]
    return Rehearsed(
        seconds=found.seconds,
        load_s=found.load_s,
        longest_step_s=found.speed.longest_step_s,
        train_tokens_per_s=found.speed.train_tokens_per_s,
        dev_s=found.dev_s,
        save_s=found.save_s,
        resume_s=found.resume_s,
        decode_s=found.decode_s,
        replies=tuple(texts),
        tune_minutes=0.0,
        tune_gib=0.0,
        memory_parts="",
        disk_gib=2 * found.checkpoint_gib,  # the new checkpoint is whole before the old one goes
        speed=asdict(found.speed),
        chosen=tuple(execution.lines()),
        layout=asdict(execution.layout),
    )


def _speeds(plan: Plan, found: Rehearsed) -> Speeds:
    """What the plan measured, with what the rehearsal measured in its place."""
    from metier.tune import Speed

    tune = Speed(**{f.name: found.speed[f.name] for f in fields(Speed)})
    return Speeds(**{**plan.speeds, "tune": tune, "load_s": found.load_s})


def _repredicted(session: Session, plan: Plan, work: Workload, found: Rehearsed) -> Rehearsed:
    """The findings with what they predict of the whole run."""
    told = _told(session, plan, work, found, _config(session, plan))
    return replace(found, tune_minutes=told.minutes, tune_gib=told.gib, memory_parts=told.memory.as_text())


def _updated(plan: Plan, found: Rehearsed) -> Plan:
    """The plan with rehearsed predictions in place of the calibrated ones."""
    seconds = {**plan.predicted_s, "tune": 60 * found.tune_minutes + 2 * found.load_s}
    run_minutes = sum(seconds.values()) / 60
    tune_minutes = found.tune_minutes
    predictions = {
        **plan.predictions,
        "tune_minutes": (tune_minutes, tune_minutes * (1 - MARGIN), tune_minutes * (1 + MARGIN)),
        "run_minutes": (run_minutes, run_minutes * 0.7, run_minutes * 1.3),
    }
    return replace(plan, predictions=predictions, predicted_s=seconds)


def _require_fit(session: Session, plan: Plan, work: Workload, found: Rehearsed) -> None:
    """Hold memory, disk and minutes against what there is.

    Raises:
        GateClosed: one does not suffice; the message holds the setting that makes it fit.
    """
    budget, (there, named) = session.config.budget, _memory_there(session)
    if found.tune_gib > there:
        fits = _fix(session, plan, lambda config: _told(session, plan, work, found, config).gib <= there)
        raise GateClosed(
            f"tuning is predicted to need {found.tune_gib:.2f} GiB ({found.memory_parts}), {named} is {there:.2f} GiB. "
            + (fits or f"No smaller step, row or depth fits: give it {found.tune_gib * 1.1:.1f} GiB or a smaller base.")
        )
    _require_disk(session, found.disk_gib)
    minutes = _updated(plan, found).predictions["run_minutes"][0]
    if minutes > OVERRUN * budget.minutes:
        left = budget.minutes - (minutes - found.tune_minutes)
        fits = _fix(session, plan, lambda config: _told(session, plan, work, found, config).minutes <= left)
        raise GateClosed(
            f"the run is predicted to take {minutes_text(minutes)}, {minutes_text(found.tune_minutes)} of them tuning; "
            f"[budget] minutes is {budget.minutes:g}. "
            + (f"{fits} Or set" if fits else "Set")
            + f" budget.minutes = {round(minutes * 1.15) + 1}."
        )


def _told(session: Session, plan: Plan, work: Workload, found: Rehearsed, config: TuneConfig) -> TuneEstimate:
    """Minutes and memory of the tuning, mining and dpo included, under these settings, at the rehearsed speeds."""
    return objective_estimate(session, config, work, _speeds(plan, found), num_rows=plan.num_train_rows)


def _fix(session: Session, plan: Plan, fits: Callable[[TuneConfig], bool]) -> str:
    """The first smaller setting under which the run fits, as a sentence; empty where none does."""
    config, layers = _config(session, plan), session.handle.shape.num_layers
    step_tokens = config.step_tokens or MAX_STEP_TOKENS
    ladder: list[tuple[str, float]] = [("step_tokens", tokens) for tokens in (1024, 512) if tokens < step_tokens]
    ladder += [("passes", passes) for passes in (2.0, 1.5, 1.0, 0.5) if passes < config.passes]
    ladder += [("max_row_tokens", tokens) for tokens in (512, 256) if tokens < config.max_row_tokens]
    ladder += [
        ("depth", depth) for depth in (round(layers * 2 / 3), layers // 2, layers // 3) if 0 < depth < plan.depth
    ]
    for name, value in ladder:
        if fits(replace(config, **{name: value})):  # type: ignore[arg-type]  # names and values from the ladder above
            return f"Set tune.{name} = {value:g}."
    return ""
