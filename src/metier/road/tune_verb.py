"""`metier tune`: the road as far as the tuned adapter, and a small search of learning rates on dev."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from metier.core.errors import ConfigError, ModelError
from metier.core.folders import read_json, write_bytes, write_json
from metier.core.project_file import ProjectConfig
from metier.core.seeds import derived_seed
from metier.road.booking import book, book_tuning
from metier.road.cost import require_affordable
from metier.road.cut import Parts, cut_rows, record_kept
from metier.road.ground import read_and_check, record_ground
from metier.road.layout import layout_of
from metier.road.plan import Plan, make_plan
from metier.road.progress import Watcher, minutes_text
from metier.road.rehearsal import require_room, with_rehearsal
from metier.road.run import open_session
from metier.road.session import Session
from metier.road.tuning import Tuning, chosen_search, search_path

__all__ = ["Tuned", "tune_project"]

log = logging.getLogger(__name__)

SEARCH_VERSION = 2
MAX_SEARCH = 8
MIN_PASSES = 0.05
SEARCH_SHARE = 0.25
"""Share of the planned passes a candidate of a search is tuned for."""
FACTORS = (1.0, 0.5, 2.0, 0.25, 4.0, 0.7, 1.4, 0.35)
"""Learning rates tried, times the one the rule gives the planned run, in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """What a tuning run left."""

    adapter_dir: Path
    dev_curve: tuple[Mapping[str, float], ...]
    best_step: int
    num_steps: int
    """Steps planned; patience may have ended the run at `last_step`."""
    last_step: int
    lr: float
    minutes: float
    search: tuple[Mapping[str, Any], ...]
    """Learning rates tried on dev before, with the lowest dev loss of each; empty where none was searched."""

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {**asdict(self), "adapter_dir": str(self.adapter_dir)}

    def as_text(self) -> str:
        """The result for a person."""
        lines = [f"step {point['step']:>6.0f}  dev loss {point['dev_loss_nats']:.4f} nats" for point in self.dev_curve]
        if self.search:
            tried = ", ".join(f"{trial['lr']:.2g} ({_loss(trial['dev_loss_nats'])})" for trial in self.search)
            lines.insert(0, f"searched on dev: {len(self.search)} learning rates, dev loss of each: {tried}")
        if self.last_step < self.num_steps:
            lines.append(f"stopped after step {self.last_step} of {self.num_steps}: dev no longer fell")
        lines.append(f"best step {self.best_step}, learning rate {self.lr:.2g}, {minutes_text(self.minutes)}")
        lines.append(f"adapter: {self.adapter_dir}")
        return "\n".join(lines)


def _loss(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def tune_project(project_dir: Path, config: ProjectConfig, *, search: int = 0, watcher: Watcher | None = None) -> Tuned:
    """Read, split, plan and tune; a finished run is returned as it is, a killed one goes on.

    With `search`, that many learning rates are tried first, on a quarter of the passes, by dev loss alone; the
    choice is stored and holds for `metier run` too. The hold-out is not touched. The model and the machine time go
    into the ledger.

    Raises:
        ConfigError: a search of more than 8, of fewer than 2, or of a learning rate that is set.
        GateClosed: the rows are not ready, or the run does not fit or costs more than the budget.
    """
    if search:
        _require_searchable(search, config)
    with open_session(project_dir, config, watcher=watcher, what="metier tune") as session:
        ground = read_and_check(session)
        parts = cut_rows(session, ground)
        plan = make_plan(session, parts)
        require_room(session, plan)
        plan = with_rehearsal(session, parts, plan)
        require_affordable(plan.predictions["run_minutes"][0], config.budget, config.price)
        record_ground(session, ground)
        if search:
            _search(session, parts, plan, search)
        session.progress.enter("tune")
        tuning = Tuning(session, parts, plan)
        tuning.run()
        record_kept(session, ground)
        tuning.register(parts)
        book_tuning(session)
        facts = tuning.facts
        return Tuned(
            adapter_dir=tuning.adapter_dir,
            dev_curve=tuning.dev_curve,
            best_step=facts["best_step"],
            num_steps=facts["num_steps"],
            last_step=facts["last_step"],
            lr=facts["lr"],
            minutes=tuning.minutes,
            search=tuple(chosen_search(session)["trials"]),
        )


def _require_searchable(num: int, config: ProjectConfig) -> None:
    if not 2 <= num <= MAX_SEARCH:
        raise ConfigError(
            f"--search {num}: expected 2 to {MAX_SEARCH}; the more are tried on one dev part, the more the best of "
            "them owes to luck."
        )
    if config.tune.lr:
        raise ConfigError(f"--search {num}, but tune.lr is {config.tune.lr:g}; set it to 0 to have it searched.")


def _search(session: Session, parts: Parts, plan: Plan, num: int) -> None:
    """Tune `num` short candidates, log each, and store the learning rate with the lowest dev loss."""
    from metier.engine import read_shape
    from metier.tune import rule_lr

    tuning = Tuning(session, parts, plan)
    rule = rule_lr(
        tuning.rendered.train,
        replace(tuning.plain_config, objective="sft", dpo=None),
        width=read_shape(session.base.dir).width,
        seed=derived_seed(session.config.project.seed, "tune"),
    )

    def work(stage_dir: Path) -> None:
        trials = [
            _candidate(tuning, stage_dir, number, num, lr=min(0.9, rule * FACTORS[number])) for number in range(num)
        ]
        finite = [trial for trial in trials if trial["dev_loss_nats"] is not None]
        if not finite:
            raise ModelError(f"the loss of all {num} learning rates of the search is not finite; set tune.lr lower.")
        best = min(finite, key=lambda trial: trial["dev_loss_nats"])
        lines = [json.dumps({"purpose": "search", "part": "dev", **trial}) + "\n" for trial in trials]
        write_bytes(stage_dir / "search.jsonl", "".join(lines).encode())
        write_json(stage_dir / "search.json", {"lr": best["lr"], "trials": trials})
        for folder in stage_dir.glob("candidate-*/"):
            shutil.rmtree(folder)  # models that nobody is to use
        book(session, "search", parts.stage_hash, seconds=sum(trial["seconds"] for trial in trials))

    session.progress.enter("tune")
    stage = session.workspace.stage(
        "search",
        version=SEARCH_VERSION,
        inputs={"plan": session.stages["plan"].hash, "split": parts.stage_hash},
        config={"tune": asdict(tuning.plain_config), "num": num, "num_train_rows": plan.num_train_rows},
        work=work,
        resumable=True,
        processes=session.config.tune.processes,
    )
    found = read_json(stage.dir / "search.json")
    write_json(search_path(session), found)


def _candidate(tuning: Tuning, stage_dir: Path, number: int, num: int, *, lr: float) -> dict[str, Any]:
    """One short run at one learning rate: what it reached on dev; null where its loss was not finite."""
    from metier.tune import Options, Progress, tune

    session, plan = tuning.session, tuning.plan

    def watch(now: Progress) -> None:
        session.progress.advance((number + now.step / now.num_steps) / num)

    passes = max(MIN_PASSES, plan.passes * SEARCH_SHARE)
    evals = min(2, tuning.plain_config.evals)
    config = replace(tuning.plain_config, objective="sft", dpo=None, lr=lr, passes=passes, evals=evals, patience=0)
    loss, seconds = None, 0.0
    try:
        result = tune(
            tuning.rendered.train,
            tuning.rendered.dev,
            config,
            base=session.base,
            out_dir=stage_dir / f"candidate-{number}",
            seed=derived_seed(session.config.project.seed, "search"),
            options=Options(
                on_progress=watch, trunk_dir=session.workspace.trunk_dir, layout_why=layout_of(session).reason
            ),
        )
        loss, seconds = min(loss for step, loss in result.dev_curve if step), result.seconds
    except ModelError as err:  # too high a rate is an answer of a search
        log.warning("search %d of %d: %s", number + 1, num, err)
    session.progress.say(f"search {number + 1} of {num}: learning rate {lr:.2g}, dev loss {_loss(loss)} nats")
    return {"lr": lr, "dev_loss_nats": loss, "passes": passes, "seconds": seconds}
