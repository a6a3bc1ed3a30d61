"""Every arm fitted on train and dev: choices logged, latency measured, dev replies kept for the report.

A fitted arm is one stage folder; a rerun restores it instead of choosing again. The hold-out is not
known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.arms import (
    EncoderArm,
    EndpointReplier,
    FewShotArm,
    PromptArm,
    RetrievalArm,
    SmallArm,
    TemplateArm,
    TunedArm,
)
from metier.arms.tuned import FittedTuned
from metier.core.arm_config import TUNED_KINDS, ArmConfig
from metier.core.errors import DataError
from metier.core.folders import read_json, write_json
from metier.core.rows import Row
from metier.core.trials import Arm, FittedArm, Reply
from metier.models import sentence_model_sha256
from metier.road.buying import require_money
from metier.road.cut import Parts
from metier.road.other_bases import base_of, replier_on
from metier.road.plan import Plan
from metier.road.rendered import instruction_text, render_parts
from metier.road.sentence_speeds import reads_sentences
from metier.road.session import Session, max_reply_tokens
from metier.road.tuning import Tuning

if TYPE_CHECKING:
    pass

__all__ = ["DevReplies", "FittedTrial", "arm_name", "arm_recipe", "fit_arms", "fit_untuned"]

ARM_VERSION = 4
LATENCY_ROWS = 40
"""Dev prompts answered one at a time for latency; their replies are the dev scores of the report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DevReplies:
    """What an arm answered to dev prompts, one request at a time."""

    row_ids: tuple[str, ...]
    replies: tuple[Reply, ...]
    scores: tuple[float, ...]
    """Primary score of each reply, 0-1."""
    reasons: tuple[tuple[str, ...], ...]
    """For each reply, a sentence per convention that it breaks."""

    @property
    def latency_ms(self) -> dict[str, float]:
        """Median and 95th percentile of the time of one request at concurrency 1, and the number of requests."""
        times = np.array([1000 * reply.seconds for reply in self.replies])
        return {"p50": float(np.median(times)), "p95": float(np.quantile(times, 0.95)), "num_rows": float(len(times))}


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedTrial:
    """One arm: fitted with its dev replies, or skipped with a reason from the closed list."""

    name: str
    kind: str
    arm: FittedArm | None
    skip_reason: str
    dev: DevReplies | None
    carries: str
    """full, short or none: which instruction every request carries."""
    base: str = ""
    """The other model it asks; empty: the base."""

    def require_arm(self) -> FittedArm:
        """The fitted arm of a trial that ran."""
        assert self.arm is not None, f"{self.name} was skipped"
        return self.arm


def arm_name(config: ArmConfig) -> str:
    """Name of an arm in reports."""
    return config.name or config.kind


def fit_arms(session: Session, parts: Parts, plan: Plan, tuning: Tuning) -> list[FittedTrial]:
    """Every arm of the project file: those that need no tuning, the tuned one, then the others that use its adapter.

    Raises:
        DataError: no arm but the tuned one applies, so there is nothing to compare with.
    """
    trials = fit_untuned(session, parts, plan)
    if not any(trial.arm for trial in trials):  # before the tuning is paid for
        skipped = "; ".join(f"{trial.name}: {trial.skip_reason}" for trial in trials)
        raise DataError(
            f"no arm applies that the tuned one could be compared with ({skipped}). Write [project] guidelines, or add "
            "an [[arm]], for example kind = 'small'."
        )
    session.progress.enter("tune")
    tuned = next(config for config in session.config.arm if config.kind == "tuned")
    instruction = instruction_text(tuned, session.wordings)
    tuning.run()  # a stage of its own: its time is not the arm's
    recipe = TunedArm(arm_name(tuned), tuning.load, instruction, tuned.instruction or "none")
    of_tuned = _fit_arm(session, tuned, recipe, parts, tuning=tuning.stage.hash)
    trials.append(of_tuned)
    ran = [trial for trial in trials if trial.arm is not None]
    if of_tuned.arm is None or len(ran) < 2:
        skipped = "; ".join(f"{trial.name}: {trial.skip_reason}" for trial in trials if trial.arm is None)
        raise DataError(
            f"only {len(ran)} of {len(trials)} arms apply ({skipped}); a verdict needs the tuned arm and a rival."
        )
    return [*trials, *_fit_beside(session, parts, plan, of_tuned)]


def _fit_beside(session: Session, parts: Parts, plan: Plan, of_tuned: FittedTrial) -> list[FittedTrial]:
    """The arms that show the tuned model examples; they carry what it carries."""
    arm = of_tuned.require_arm()
    assert isinstance(arm, FittedTuned), "the tuned arm is over the adapter"
    trials = []
    for config in (config for config in session.config.arm if config.kind == "tuned_retrieval"):
        session.progress.enter("arms")
        instruction, k = arm.instruction or "", config.k or plan.retrieval_k
        name, grader = arm_name(config), session.grader
        recipe = RetrievalArm(name, arm.replier, grader, instruction, k, arm.carries, config.kind, config.near)
        trials.append(_fit_arm(session, config, recipe, parts, tuning=arm.fingerprint))
    return trials


def fit_untuned(session: Session, parts: Parts, plan: Plan) -> list[FittedTrial]:
    """Every arm that needs no tuning, in the order of the project file."""
    configs = [config for config in session.config.arm if config.kind not in TUNED_KINDS]
    trials = []
    for position, config in enumerate(configs):
        session.progress.enter("arms")
        session.progress.advance(position / len(configs))
        trials.append(_fit_arm(session, config, arm_recipe(session, config, plan, parts), parts))
    return trials


def _fit_arm(session: Session, config: ArmConfig, recipe: Arm, parts: Parts, *, tuning: str = "") -> FittedTrial:
    """One arm as a stage: fit or restore, then the dev replies; `tuning` names what made its model."""
    name = arm_name(config)
    reason = recipe.needs(parts.train, parts.dev)
    if reason is not None:
        session.progress.say(f"{name}: not run ({reason})")
        return FittedTrial(
            name=name, kind=config.kind, arm=None, skip_reason=reason, dev=None, carries="", base=config.base
        )
    fitted: list[FittedArm] = []

    def work(stage_dir: Path) -> None:
        if isinstance(recipe, PromptArm):
            require_money(session, parts, config, recipe)
        arm = _kept_in(recipe, stage_dir).fit(parts.train, parts.dev, seed=session.config.project.seed)
        fitted.append(arm)
        part = session.progress.part
        session.progress.enter("latency")
        dev = measure(session, arm, parts.dev)
        session.progress.enter(part)
        write_json(
            stage_dir / "arm.json", {"described": arm.describe(), "fingerprint": arm.fingerprint, "dev": _dev_json(dev)}
        )

    inputs = {
        "split": parts.stage_hash,
        "base": base_of(session, config).function_sha256,
        "plan": session.stages["plan"].hash,
    }
    settings = {"arm": config.as_question(), "seed": session.config.project.seed, "guidelines": session.wordings}
    if config.kind in TUNED_KINDS:
        inputs["tuning"] = tuning  # a search chooses another learning rate under the same settings
    if reads_sentences(config):
        inputs["sentences"] = sentence_model_sha256()
    stage = session.stage(f"arm-{name}", version=ARM_VERSION, inputs=inputs, config=settings, work=work)
    stored = read_json(stage.dir / "arm.json")
    arm = fitted[0] if fitted else _kept_in(recipe, stage.dir).restore(parts.train, stored["described"])
    if arm.fingerprint != stored["fingerprint"]:
        raise DataError(
            f"arm {name}: restored with another fingerprint than it was fitted with; delete "
            f"{stage.dir} to fit it again."
        )
    dev = _dev_from_json(stored["dev"])
    session.progress.say(
        f"{name}: dev score {np.mean(dev.scores):.3f} on {len(dev.scores)} rows, p50 {dev.latency_ms['p50']:.0f} ms"
    )
    carries = stored["described"]["carries"]
    return FittedTrial(name=name, kind=config.kind, arm=arm, skip_reason="", dev=dev, carries=carries, base=config.base)


def _kept_in(recipe: Arm, stage_dir: Path) -> Arm:
    """The recipe with the folder of its stage, where it keeps files: the encoder its weights."""
    return replace(recipe, folder=stage_dir) if isinstance(recipe, EncoderArm) else recipe


def arm_recipe(session: Session, config: ArmConfig, plan: Plan, parts: Parts) -> Arm:
    """The recipe of an arm that needs no tuning, from its settings."""
    name, grader = arm_name(config), session.grader
    if config.kind == "small":
        return SmallArm(name, grader, near=config.near)
    if config.kind == "encoder":
        return EncoderArm(name, grader)
    if config.kind == "template":
        return TemplateArm(name, grader)
    if config.endpoint is not None:
        calls, tell = session.calls(name), session.progress.say
        limit = max_reply_tokens(render_parts(session, parts).golds)
        remote = EndpointReplier(config.endpoint, calls, limit, tell=tell)
        return PromptArm(name, remote, grader, session.wordings, kind="endpoint")
    if config.base:
        replier = replier_on(session, config, parts)
    else:
        replier = session.replier(session.handle, render_parts(session, parts).golds)
    if config.kind == "prompt":
        return PromptArm(name, replier, grader, session.wordings)
    instruction = instruction_text(config, session.wordings) or ""
    carries = (config.instruction or "full") if instruction else "none"
    if config.kind == "few_shot":
        return FewShotArm(name, replier, grader, instruction, config.k or plan.few_shot_k, carries)
    return RetrievalArm(name, replier, grader, instruction, config.k or plan.retrieval_k, carries, near=config.near)


def measure(session: Session, arm: FittedArm, dev: Sequence[Row]) -> DevReplies:
    """Answer dev prompts one at a time; at least 40 where dev has them, spread over dev."""
    count = min(LATENCY_ROWS, len(dev))
    chosen = [dev[int(i)] for i in np.unique(np.linspace(0, len(dev) - 1, count).astype(int))]
    replies = []
    for reply in arm.reply_each(chosen):
        replies.append(reply)
        session.progress.advance(len(replies) / len(chosen))
    scored = session.grader.score_all(chosen, [reply.text for reply in replies])
    return DevReplies(
        row_ids=tuple(row.row_id for row in chosen),
        replies=tuple(replies),
        scores=tuple(result.score for result in scored),
        reasons=tuple(tuple(result.reasons.values()) for result in scored),
    )


def _dev_json(dev: DevReplies) -> dict[str, Any]:
    return {
        "row_ids": list(dev.row_ids),
        "replies": [asdict(reply) for reply in dev.replies],
        "scores": list(dev.scores),
        "reasons": [list(reasons) for reasons in dev.reasons],
    }


def _dev_from_json(values: Mapping[str, Any]) -> DevReplies:
    return DevReplies(
        row_ids=tuple(values["row_ids"]),
        replies=tuple(Reply(**reply) for reply in values["replies"]),
        scores=tuple(values["scores"]),
        reasons=tuple(tuple(reasons) for reasons in values["reasons"]),
    )
