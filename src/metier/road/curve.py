"""The learning curve of the tuned arm: the same tuning on nested parts of the train rows, scored on dev.

Rivals that learn from rows without a language model are fitted on such parts too: they would gain by more rows as well.

Every chain is its own order of rows with a seed of its own; each of its parts holds the smaller ones. The whole run is
a point of its own seed. What a part costs is about its share of the tuning, as its checkpoint is chosen less often
and by fewer dev rows than that of the whole run, and one score on all dev rows; hidden states that are stored for
the whole run are read, not computed again. The hold-out is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.arms.replier import with_instruction
from metier.core.folders import read_json, write_json
from metier.core.project_file import ProjectConfig
from metier.core.report import CurvePoint, Forecast
from metier.core.rows import Row
from metier.core.seeds import derived_seed, generator
from metier.core.trials import Arm, Reply
from metier.road.cut import Parts
from metier.road.plan import Plan, dev_score_seconds
from metier.road.rendered import instruction_text
from metier.road.session import Session
from metier.road.trials import arm_recipe
from metier.road.tuning import RUN_NAME, Tuning

if TYPE_CHECKING:
    from metier.assess import CurveFit

__all__ = ["Curve", "Pilot", "fitted", "fitted_rivals", "measure_curve", "pilot_minutes", "run_pilot"]

CURVE_VERSION, PART_VERSION = 2, 3
QUICK_KINDS = ("small", "template")
"""Arms that learn from rows in seconds; a language model would have to answer all dev rows again for every part."""
MIN_EVALS, MIN_LOSS_ROWS = 2, 32
"""Evaluations of the dev loss in the smallest part, and dev rows of each: as many as in the whole run would cost more
than the steps of a part."""
MIN_ANCHORS = 3
"""Different numbers of rows that a curve needs."""
PILOT_FRACTIONS = (0.0625, 0.125, 0.25)
"""Parts of the rows that are tuned before the spend: a forecast reaches four times the largest, all rows."""
MIN_PILOT_ROWS = 8
"""Rows of the smallest part; on fewer a model learns nothing that says anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Dev scores after tuning on parts of the rows."""

    points: tuple[CurvePoint, ...]
    num_dev: int
    rivals: Mapping[str, tuple[CurvePoint, ...]]
    """Points of every rival that was fitted on parts of the rows; the others are taken to stay as they are."""

    def as_json(self) -> dict[str, Any]:
        """The curve as JSON values."""
        rivals = {name: [asdict(point) for point in points] for name, points in self.rivals.items()}
        return {"points": [asdict(point) for point in self.points], "num_dev": self.num_dev, "rivals": rivals}


def fitted(values: Mapping[str, Any] | None) -> CurveFit | None:  # Any: JSON values
    """The forms fitted to a curve written by `as_json`; None where none was measured."""
    from metier.assess import fit_curve

    if not values:
        return None
    return fit_curve([CurvePoint(**point) for point in values["points"]], num_dev=values["num_dev"])


def fitted_rivals(values: Mapping[str, Any] | None) -> dict[str, CurveFit]:  # Any: JSON values
    """The forms fitted to the points of every rival of a curve; empty where none was measured."""
    from metier.assess import fit_curve

    rivals = {} if not values else values.get("rivals", {})
    return {
        name: fit_curve([CurvePoint(**point) for point in points], num_dev=values["num_dev"])
        for name, points in rivals.items()
        if values
    }


def measure_curve(
    session: Session,
    parts: Parts,
    plan: Plan,
    tuning: Tuning,
    *,
    recorded: Mapping[str, Any] | None = None,  # Any: JSON values
) -> Curve | None:
    """The points of every chain the plan has room for, and the whole run; None where it has room for none.

    `recorded` are the facts of a look at these arms that was opened already: where they hold no curve none is measured,
    for a verdict is never judged by what was found after its look.
    """
    if not plan.curve_chains:
        return None
    known = None if recorded is None else recorded.get("curve")
    num_points = plan.curve_chains * len(session.config.curve.fractions) + 1
    if recorded is not None and (known is None or len(known["points"]) != num_points):
        session.progress.say(
            f"no {'other ' if known else ''}learning curve: the hold-out was opened for these arms before it was asked "
            "for, and what a look is judged by stays as it was. The next look, at another tuning or more rows, will "
            "have it."
        )
        return None
    session.progress.enter("curve")
    fractions, points = session.config.curve.fractions, []
    num_rows = len(tuning.rendered.train)
    if len({_size(num_rows, fraction) for fraction in (*fractions, 1.0)}) <= len(fractions):
        session.progress.say(f"no learning curve: of {num_rows} rows some of [curve] fractions are equally many.")
        return None
    for chain in range(plan.curve_chains):
        for number, fraction in enumerate(fractions):
            session.progress.advance((chain + number / len(fractions)) / plan.curve_chains)
            points.append(_point(session, parts, tuning, chain=chain, fraction=fraction))
    points.append(_whole(session, parts, tuning))
    for point in points:
        session.progress.say(f"tuned on {point.num_train:,} rows: dev score {point.score:.3f}")
    found = Curve(points=tuple(points), num_dev=len(parts.dev), rivals=_rivals(session, parts, plan))
    fitted(found.as_json())  # what cannot be fitted must not reach the look
    return found


def _rivals(session: Session, parts: Parts, plan: Plan) -> dict[str, tuple[CurvePoint, ...]]:
    """Dev scores of every arm that learns from rows in seconds, fitted on nested parts of them and on all."""
    found: dict[str, tuple[CurvePoint, ...]] = {}
    for config in session.config.arm:
        recipe = arm_recipe(session, config, plan, parts) if config.kind in QUICK_KINDS else None
        if recipe is None or recipe.needs(parts.train, parts.dev) is not None:
            continue
        wanted = [(c, fraction) for c in range(plan.curve_chains) for fraction in session.config.curve.fractions]
        tried = [_rival_point(session, parts, recipe, chain=c, fraction=f) for c, f in (*wanted, (0, 1.0))]
        points = [point for point in tried if point is not None]
        if len({point.num_train for point in points}) >= MIN_ANCHORS:
            found[recipe.name] = tuple(points)
    return found


def _rival_point(session: Session, parts: Parts, recipe: Arm, *, chain: int, fraction: float) -> CurvePoint | None:
    """One rival fitted on one part of one chain, scored on dev; None where it does not apply to so few rows."""
    chain_seed = derived_seed(session.config.project.seed, "curve", chain)
    order = generator(chain_seed, f"rows of {recipe.name}").permutation(len(parts.train))
    taken = [parts.train[i] for i in sorted(order[: _size(len(parts.train), fraction)].tolist())]

    def work(stage_dir: Path) -> None:
        score = None
        if recipe.needs(taken, parts.dev) is None:
            replies = recipe.fit(taken, parts.dev, seed=chain_seed).reply(parts.dev)
            score = mean_score(session, parts.dev, replies)
        write_json(stage_dir / "point.json", {"num_train": len(taken), "score": score})

    stage = session.stage(
        f"curve-{chain}-{fraction:g}-{recipe.name}",
        version=CURVE_VERSION,
        inputs={"split": parts.stage_hash, "arm": session.stages[f"arm-{recipe.name}"].hash},
        config={"chain_seed": chain_seed, "fraction": fraction},
        work=work,
    )
    found = read_json(stage.dir / "point.json")
    return None if found["score"] is None else CurvePoint(chain_seed=chain_seed, train_seed=chain_seed, **found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pilot:
    """What tuning on a quarter of the rows says of tuning on all of them."""

    points: tuple[CurvePoint, ...]
    forecast: Forecast
    """Score of the tuning on all rows, on as many new rows as the hold-out has."""
    expected: float
    """The score that it lies above as likely as below."""


def pilot_minutes(config: ProjectConfig, plan: Plan, *, num_dev: int, num_holdout: int) -> float:
    """What the pilot takes: its parts of the tuning, and a dev score of each."""
    scored_s = dev_score_seconds(config, plan, num_dev=num_dev, num_holdout=num_holdout)
    return sum(PILOT_FRACTIONS) * plan.predictions["tune_minutes"][0] + len(PILOT_FRACTIONS) * scored_s / 60


def run_pilot(session: Session, parts: Parts, tuning: Tuning) -> Pilot | None:
    """Tune on a sixteenth, an eighth and a quarter of the rows; None where that is too few rows, or pairs are learned.

    A run of the same plan measures its learning curve on the same parts, and finds these done.
    """
    from metier.assess import MAX_TIMES, fit_curve

    num_rows = len(tuning.rendered.train)
    if session.config.tune.objective != "sft" or round(PILOT_FRACTIONS[0] * num_rows) < MIN_PILOT_ROWS:
        return None
    session.progress.enter("curve")
    points = []
    for number, fraction in enumerate(PILOT_FRACTIONS):
        session.progress.advance(number / len(PILOT_FRACTIONS))
        points.append(_point(session, parts, tuning, chain=0, fraction=fraction))
        session.progress.say(f"tuned on {points[-1].num_train:,} rows: dev score {points[-1].score:.3f}")
    fit = fit_curve(points, num_dev=len(parts.dev))
    whole = min(num_rows, int(MAX_TIMES * fit.num_train))  # the quarter is rounded
    return Pilot(
        points=tuple(points),
        forecast=fit.forecast(whole, num_rows=parts.num_holdout),
        expected=fit.quantile(whole, 0.5, num_rows=parts.num_holdout),
    )


def _point(session: Session, parts: Parts, tuning: Tuning, *, chain: int, fraction: float) -> CurvePoint:
    """One part of one chain, tuned and scored as a stage of its own; a killed one goes on at its last checkpoint."""
    from metier.tune import tune

    chain_seed = derived_seed(session.config.project.seed, "curve", chain)
    rows, train_seed = tuning.rendered.train, derived_seed(chain_seed, "tune")
    order = generator(chain_seed, "rows").permutation(len(rows))
    taken = sorted(order[: _size(len(rows), fraction)].tolist())
    evals = min(tuning.sft_config.evals, max(MIN_EVALS, round(fraction * tuning.sft_config.evals)))
    config = replace(tuning.sft_config, evals=evals)
    dev = [tuning.rendered.dev[i] for i in _loss_rows(len(tuning.rendered.dev), fraction, chain_seed=chain_seed)]

    def work(stage_dir: Path) -> None:
        result = tune(
            [rows[i] for i in taken],
            dev,
            config,
            base=session.base,
            out_dir=stage_dir / RUN_NAME,
            seed=train_seed,
            options=tuning.options(stage_dir, tells=False),
        )
        score = _dev_score(session, parts, tuning, result.adapter_dir)
        write_json(stage_dir / "point.json", {"num_train": len(taken), "score": score})

    stage = session.stage(
        f"curve-{chain}-{fraction:g}",
        version=PART_VERSION,
        inputs=tuning.inputs,
        config={"tune": asdict(config), "chain_seed": chain_seed, "fraction": fraction},
        work=work,
        resumable=True,
        processes=config.processes,
    )
    return CurvePoint(chain_seed=chain_seed, train_seed=train_seed, **read_json(stage.dir / "point.json"))


def _loss_rows(num_dev: int, fraction: float, *, chain_seed: int) -> list[int]:
    """The dev rows that choose the checkpoint of a part; those of the smaller parts of its chain are among them."""
    order = generator(chain_seed, "dev rows").permutation(num_dev)
    return sorted(order[: max(MIN_LOSS_ROWS, _size(num_dev, fraction))].tolist())


def _size(num_rows: int, fraction: float) -> int:
    """Rows of a part."""
    return max(1, round(fraction * num_rows))


def _whole(session: Session, parts: Parts, tuning: Tuning) -> CurvePoint:
    """The whole run, scored on all dev rows."""

    def work(stage_dir: Path) -> None:
        write_json(stage_dir / "point.json", {"score": _dev_score(session, parts, tuning, tuning.adapter_dir)})

    stage = session.stage(
        "curve-whole", version=CURVE_VERSION, inputs={"tune": tuning.stage.hash}, config={}, work=work
    )
    seed = session.config.project.seed
    return CurvePoint(
        num_train=len(tuning.rendered.train),
        chain_seed=derived_seed(seed, "curve", 0),
        train_seed=derived_seed(seed, "tune"),
        score=float(read_json(stage.dir / "point.json")["score"]),
    )


def _dev_score(session: Session, parts: Parts, tuning: Tuning, tuned_dir: Path) -> float:
    """Mean primary score of all dev rows."""
    tuned_arm = next(arm for arm in session.config.arm if arm.kind == "tuned")
    instruction = instruction_text(tuned_arm, session.wordings)
    replier = session.replier(session.tuned_handle(tuned_dir), tuning.rendered.golds)
    replies = replier.reply(parts.dev, [with_instruction(row, instruction) for row in parts.dev])
    return mean_score(session, parts.dev, replies)


def mean_score(session: Session, rows: Sequence[Row], replies: Sequence[Reply]) -> float:
    """Mean primary score of replies to rows, 0-1."""
    scored = session.grader.score_all(rows, [reply.text for reply in replies])
    return float(np.mean([each.score for each in scored]))
