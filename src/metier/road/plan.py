"""The plan of a run: what fits into the budget, what was given up for it, and what will happen.

Speeds are measured on this machine, with this base and these rows, in a few seconds; the plan is stored, so
that a resumed run follows the one it began with. Its predictions are scored in the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metier.core.arm_config import NO_MODEL_KINDS
from metier.core.errors import ConfigError, GateClosed, counted
from metier.core.folders import read_json, write_json
from metier.core.project_file import ProjectConfig
from metier.core.seeds import generator
from metier.core.tune_config import DpoConfig, TuneConfig
from metier.models import sentence_model_sha256
from metier.road.arm_seconds import fixed_seconds
from metier.road.calibrate import Speeds, Workload, measure_speeds, measure_workload
from metier.road.cost import stale_prices
from metier.road.cut import Parts
from metier.road.mining import DEV_SHARE
from metier.road.other_bases import others, times_as_large
from metier.road.rendered import render_parts
from metier.road.sentence_speeds import measure_sentences, reads_sentences
from metier.road.session import Session

if TYPE_CHECKING:
    from metier.tune import Speed, TuneEstimate

__all__ = ["Plan", "chosen_rows", "make_plan", "tune_estimate"]

PLAN_VERSION = 4
SPARE = 0.9
"""Share of the budget the plan fills: predictions may be 10 % off without breaking it."""
FLOOR_GIB = 0.2
"""Memory is known no better than this, however small the base: buffers that torch keeps do not shrink with it."""
OVERRUN = 1.3
"""A run predicted to take longer than this many budgets is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the run does, and how long it says it will take."""

    dtype: str
    """Precision of the products: bf16 or fp32."""
    passes: float
    """How often every train row is seen."""
    depth: int
    """Top layers that train."""
    num_train_rows: int
    """Train rows used."""
    curve_chains: int
    """Chains of the learning curve; 0 measures none."""
    few_shot_k: tuple[int, ...]
    retrieval_k: tuple[int, ...]
    gave_up: tuple[str, ...]
    """One sentence for everything the budget made smaller."""
    predictions: Mapping[str, tuple[float, float, float]]
    """Quantity to predicted, low, high."""
    predicted_s: Mapping[str, float]
    """Seconds by part of the run."""
    speeds: Mapping[str, Any]
    """What was measured: tokens a second by kind of work."""

    @property
    def size(self) -> str:
        """The tuning run in words."""
        return (
            f"{_passes(self.passes)} over {self.num_train_rows} rows, top {counted(self.depth, 'layer')}, {self.dtype}"
        )

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """The plan written by `as_json`."""
        lists = ("few_shot_k", "retrieval_k", "gave_up")
        plain: dict[str, Any] = {
            f.name: tuple(values[f.name]) if f.name in lists else values[f.name] for f in fields(cls)
        }
        plain["predictions"] = {name: tuple(entry) for name, entry in values["predictions"].items()}
        return cls(**plain)


class Choice(NamedTuple):
    """One size of the tuning run."""

    passes: float
    depth: int
    num_rows: int


def make_plan(session: Session, parts: Parts) -> Plan:
    """The plan, measured now or as an unfinished run left it.

    Raises:
        GateClosed: even the smallest run is predicted to take over 1.3 times the budget.
    """
    session.progress.enter("plan")
    config = session.config

    def work(stage_dir: Path) -> None:
        write_json(stage_dir / "plan.json", _plan(session, parts).as_json())

    inputs = {"split": parts.stage_hash, "base": session.base.function_sha256}
    if any(map(reads_sentences, config.arm)):
        inputs["sentences"] = sentence_model_sha256()
    stage = session.stage(
        "plan",
        version=PLAN_VERSION,
        inputs=inputs,
        config={"tune": asdict(config.tune), "budget": asdict(config.budget), "guidelines": session.wordings,
                "arms": [arm.as_question() for arm in config.arm]},
        work=work,
    )  # fmt: skip
    stored = Plan.from_json(read_json(stage.dir / "plan.json"))
    plan = with_curve(config, stored, num_dev=len(parts.dev), num_holdout=parts.num_holdout)
    session.dtype = plan.dtype
    for sentence in plan.gave_up:
        session.progress.say(f"given up for the budget: {sentence}")
    for sentence in stale_prices(config.price, config.arm, today=datetime.now(UTC).date()):
        session.progress.say(sentence)
    minutes = plan.predictions["run_minutes"]
    session.progress.predicted_s = dict(plan.predicted_s)
    session.progress.say(f"about {minutes[0]:.1f} minutes ({minutes[1]:.1f} to {minutes[2]:.1f}); {plan.size}")
    return plan


def _plan(session: Session, parts: Parts) -> Plan:
    """Measure, choose the largest tuning run that fits, predict."""
    config = session.config
    _refuse_depth(session)
    _refuse_device(session)
    rendered = render_parts(session, parts)
    work = measure_workload(session, parts, rendered)
    sentences = measure_sentences(session, parts)  # first: the peak memory that comes next holds its own
    speeds = measure_speeds(session, parts, rendered)
    if session.handle.backend.name != "compact":
        session.progress.say(f"computed by transformers' own modules, slower: {session.handle.backend.why}")
    fixed_s = fixed_seconds(config.arm, work, speeds, sentences, times_as_large(session))
    budget_s = 60 * config.budget.minutes
    left_s = SPARE * budget_s - sum(fixed_s.values())
    options = tune_options(config.tune.passes, config.tune.depth, speeds.num_layers, len(work.train_tokens))
    choice = next((option for option in options if tune_seconds(option, work, speeds, session) <= left_s), options[-1])
    predicted_s = {**fixed_s, "tune": tune_seconds(choice, work, speeds, session) + 2 * speeds.load_s}
    total_s = sum(predicted_s.values())
    if total_s > OVERRUN * budget_s:
        raise GateClosed(
            f"the smallest run is predicted to take {total_s / 60:.0f} minutes, the budget is "
            f"{config.budget.minutes:g}. "
            f"Set [budget] minutes to {round(total_s / 60 * 1.15) + 1} or more, or hold out fewer rows."
        )
    longest = max(work.prompt_tokens[arm.kind] for arm in config.arm if arm.kind in work.prompt_tokens)
    memory = speeds.peak_memory_gib(num_rows=work.num_holdout, num_positions=longest + speeds.base_reply_tokens)
    memory += sum(other.gib for other in others(session).values())  # they stay in memory until the look
    if config.budget.memory_gib and memory > config.budget.memory_gib:
        raise GateClosed(
            f"the run is predicted to need {memory:.2f} GiB, [budget] memory_gib is {config.budget.memory_gib:g}. "
            "Lower tune.step_tokens or tune.max_row_tokens, or raise the budget."
        )
    return Plan(
        dtype=speeds.dtype,
        passes=choice.passes,
        depth=choice.depth,
        num_train_rows=choice.num_rows,
        curve_chains=0,
        few_shot_k=(1, 3, 5),
        retrieval_k=(1, 3, 5),
        gave_up=gave_up(choice, options[0], speeds.num_layers),
        predictions={
            "run_minutes": _range(total_s / 60, 0.30),
            "tune_minutes": _range(tune_seconds(choice, work, speeds, session) / 60, 0.30),
            "peak_memory_gib": _range(memory, max(0.20, FLOOR_GIB / memory)),
        },
        predicted_s=predicted_s,
        speeds=speeds.as_json(),
    )


def _passes(num: float) -> str:
    """1 pass, 1.5 passes."""
    return "1 pass" if num == 1 else f"{num:g} passes"


def _refuse_depth(session: Session) -> None:
    """Raise `ConfigError` where more layers are to be adapted than the base has."""
    from metier.engine import read_shape

    wanted, num_layers = session.config.tune.depth, read_shape(session.base.dir).num_layers
    if wanted > num_layers:
        raise ConfigError(
            f"tune.depth is {wanted}; {session.base.name} has {num_layers} layers. Set it to at most that, or to 0, "
            "where the plan chooses."
        )


def _refuse_device(session: Session) -> None:
    """Raise `ModelError` where this machine does not have the device of the settings, before rows are rendered."""
    from metier.engine.cuda import check_device

    tune = session.config.tune
    check_device(tune.device, base_bits=tune.base_bits, optimizer=tune.optimizer)


def _range(value: float, share: float) -> tuple[float, float, float]:
    return value, value * (1 - share), value * (1 + share)


def tune_options(passes: float, depth: int, num_layers: int, num_rows: int) -> list[Choice]:
    """Tuning runs from the one wanted most to the smallest; settings that are fixed stay as they are.

    Passes go first (the third adds least), then adapted layers, then rows: fewer rows lose what cannot be
    learned otherwise.
    """
    thirds = [num_layers, round(num_layers * 2 / 3), round(num_layers / 2), round(num_layers / 3)]
    depths = [min(depth, num_layers)] if depth else list(dict.fromkeys(max(1, d) for d in thirds))
    all_passes = [passes] if passes else [3.0, 2.5, 2.0, 1.5, 1.0]
    ladder = [Choice(p, depths[0], num_rows) for p in all_passes]
    ladder += [Choice(all_passes[-1], d, num_rows) for d in depths[1:]]
    shares = (0.75, 0.5, 0.25) if not passes else ()
    ladder += [Choice(all_passes[-1], depths[-1], max(8, round(num_rows * share))) for share in shares]
    return list(dict.fromkeys(ladder))


def gave_up(choice: Choice, wanted: Choice, num_layers: int) -> tuple[str, ...]:
    """A sentence for everything that is smaller than wanted."""
    sentences = []
    if choice.passes < wanted.passes:
        sentences.append(f"{_passes(choice.passes)} over the train rows instead of {wanted.passes:g}.")
    if choice.depth < wanted.depth:
        top = "top layer" if choice.depth == 1 else f"top {choice.depth}"
        sentences.append(f"Only the {top} of {num_layers} layers {'is' if choice.depth == 1 else 'are'} tuned.")
    if choice.num_rows < wanted.num_rows:
        sentences.append(f"{choice.num_rows} of {wanted.num_rows} train rows, drawn at random.")
    return tuple(sentences)


def with_curve(config: ProjectConfig, plan: Plan, *, num_dev: int, num_holdout: int) -> Plan:
    """The plan with the chains of the learning curve that the budget has room for beside it.

    Not a part of what is stored: asking for a curve later tunes nothing again.
    """
    fractions, seconds = config.curve.fractions, plan.predicted_s
    if not fractions:
        return plan
    scored_s = dev_score_seconds(config, plan, num_dev=num_dev, num_holdout=num_holdout)
    chain_s = sum(fractions) * seconds["tune"] + len(fractions) * scored_s
    left_s = SPARE * 60 * config.budget.minutes - sum(seconds.values()) - scored_s  # the whole run is scored too
    chains = curve_chains(config, chain_s=chain_s, left_s=left_s)
    added_s = chains * chain_s + (scored_s if chains else 0.0)
    run_minutes = plan.predictions["run_minutes"][0] + added_s / 60
    return replace(
        plan,
        curve_chains=chains,
        gave_up=(*plan.gave_up, *curve_gave_up(config, chains, chain_s)),
        predictions={**plan.predictions, "run_minutes": _range(run_minutes, 0.30)},
        predicted_s={**seconds, "curve": added_s},
    )


def dev_score_seconds(config: ProjectConfig, plan: Plan, *, num_dev: int, num_holdout: int) -> float:
    """Seconds to answer all dev rows once with a tuned model, from what the hold-out is taken to need."""
    num_arms = sum(arm.kind not in (*NO_MODEL_KINDS, "endpoint") for arm in config.arm)
    return plan.predicted_s["hold-out"] / num_arms * num_dev / num_holdout


def curve_chains(config: ProjectConfig, *, chain_s: float, left_s: float) -> int:
    """Chains of the learning curve that the budget has room for, beside the tuning."""
    if not config.curve.fractions or config.tune.objective != "sft":
        return 0
    return max(0, min(config.curve.chains, int(left_s / chain_s)))


def curve_gave_up(config: ProjectConfig, chains: int, chain_s: float) -> tuple[str, ...]:
    """A sentence where the budget has no room for all of the learning curve."""
    wanted = config.curve.chains
    if not config.curve.fractions or chains == wanted:
        return ()
    if config.tune.objective != "sft":
        return ("No learning curve: it is measured with objective = 'sft'.",)
    if not chains:
        return (f"No learning curve: one chain would take {chain_s / 60:.0f} minutes more.",)
    return (f"{chains} of {counted(wanted, 'chain')} of the learning curve.",)


def tune_seconds(choice: Choice, work: Workload, speeds: Speeds, session: Session) -> float:
    """Seconds of a tuning run with its dev evaluations; under dpo of both its parts."""
    config = replace(session.config.tune, passes=choice.passes, depth=choice.depth)
    return 60 * objective_estimate(session, config, work, speeds, num_rows=choice.num_rows).minutes


def objective_estimate(
    session: Session, config: TuneConfig, work: Workload, speeds: Speeds, *, num_rows: int
) -> TuneEstimate:
    """Minutes and memory of all the objective does: under dpo also drawn replies, reference and pairs after sft.

    Every row is taken to give a pair. Memory is that of the larger part.
    """
    sft = tune_estimate(session, config, work, speeds.tune, num_rows=num_rows)
    if config.objective != "dpo":
        return sft
    pairs = pairs_estimate(session, config, work, speeds.tune, num_rows=num_rows)
    settings, draws_s = config.dpo or DpoConfig(), 0.0
    if settings.pairs == "mined":
        draws_s = speeds.load_s + speeds.batch_s(
            num_rows=num_rows * settings.samples,
            prefix_tokens=work.prefix_tokens["tuned"],
            prompt_tokens=work.prompt_tokens["tuned"],
            reply_tokens=work.gold_tokens,
        )
    larger = max(sft, pairs, key=lambda part: part.gib)
    return replace(larger, minutes=sft.minutes + pairs.minutes + draws_s / 60)


def tune_estimate(session: Session, config: TuneConfig, work: Workload, speed: Speed, *, num_rows: int) -> TuneEstimate:
    """Minutes and memory of sft on the rows a run of this size draws."""
    from metier.tune import estimate

    drawn = chosen_rows(len(work.train_tokens), num_rows, seed=session.config.project.seed)
    train, shape = [work.train_tokens[row] for row in drawn], session.handle.shape
    return estimate(train_tokens=train, dev_tokens=work.dev_tokens, shape=shape, config=config, speed=speed)


def pairs_estimate(
    session: Session, config: TuneConfig, work: Workload, speed: Speed, *, num_rows: int
) -> TuneEstimate:
    """Minutes and memory of dpo, if every drawn row gave a pair of rows as long as itself; draws come on top."""
    from metier.tune import estimate_pairs

    drawn = chosen_rows(len(work.train_tokens), num_rows, seed=session.config.project.seed)
    pairs = [(work.train_tokens[row], work.train_tokens[row]) for row in drawn]
    dev = pairs[: max(1, round(DEV_SHARE * len(pairs)))]
    return estimate_pairs(train_pairs=pairs, dev_pairs=dev, shape=session.handle.shape, config=config, speed=speed)


def chosen_rows(num_all: int, num_wanted: int, *, seed: int) -> list[int]:
    """The train rows of a smaller run: drawn at random, in their order."""
    rng = generator(seed, "train_rows")
    drawn: list[int] = rng.permutation(num_all)[:num_wanted].tolist()
    return sorted(drawn)
