"""The road, top to bottom: raw rows in, a measured verdict out; a killed run goes on where it stopped."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metier.core.data_facts import DataFacts
from metier.core.folders import exclusive, read_json, write_bytes, write_json
from metier.core.hashing import sha256_hex, value_hash
from metier.core.project_file import ProjectConfig
from metier.core.report import Report, report_from_json
from metier.evaluate.exposure import Exposure
from metier.road.booking import book_tuning
from metier.road.buying import bought_money
from metier.road.conclude import Measured, build_report, fix_before_look, plan_entries, recorded_before
from metier.road.cost import machine_cost, measuring_cost, price_entries, require_affordable
from metier.road.curve import measure_curve
from metier.road.cut import Parts, Sealed, cut_rows, seal_parts
from metier.road.ground import Ground, read_and_check, record_ground
from metier.road.look import SCORES_NAME, Looked, look_at_holdout
from metier.road.past import past_predictions, run_hashes, score_forecasts
from metier.road.plan import Plan, make_plan
from metier.road.probe import probe_exposure
from metier.road.progress import Progress, Watcher
from metier.road.readiness import stored_facts
from metier.road.rehearsal import require_room, with_rehearsal
from metier.road.session import Session
from metier.road.trials import FittedTrial, fit_arms
from metier.road.tuning import Tuning
from metier.road.workspace import Workspace

if TYPE_CHECKING:
    from metier.ledger import BeforeLook

__all__ = ["DATA_PAGE_NAME", "PAGE_NAME", "REPORT_NAME", "Pages", "open_session", "run_road"]

REPORT_VERSION = 6
REPORT_NAME = "report.json"
PAGE_NAME = "index.html"
DATA_PAGE_NAME = "data.html"
PACKAGES = ("metier", "torch", "transformers", "peft", "numpy", "scipy", "scikit-learn", "polars", "tokenizers")


class Pages(NamedTuple):
    """How the pages of a run are drawn; the rooms that draw stand above this one."""

    report: Callable[[Report], str]
    data: Callable[[DataFacts], str]


@contextmanager
def open_session(
    project_dir: Path, config: ProjectConfig, *, watcher: Watcher | None = None, what: str
) -> Iterator[Session]:
    """The session of one verb, alone in its project.

    Raises:
        StoreError: another process is at work in the project.
    """
    from metier.ledger import Ledger, ObjectStore, project_key

    workspace = Workspace(project_dir)
    with exclusive(workspace.lock_path, what=what), Ledger.open(project_dir, url=config.project.ledger) as ledger:
        yield Session(
            config=config,
            workspace=workspace,
            ledger=ledger,
            store=ObjectStore(project_dir),
            key=project_key(project_dir),
            progress=Progress(watcher),
        )


def run_road(
    project_dir: Path,
    config: ProjectConfig,
    *,
    watcher: Watcher | None = None,
    pages: Pages | None = None,
) -> Report:
    """Go the whole road; stages that are finished and unchanged are not computed again.

    `pages` draw what is written beside the report; the hashes of report and report page go into the ledger.

    Raises:
        MetierError: see the stages; what was finished before stays finished.
    """
    with open_session(project_dir, config, watcher=watcher, what="metier run") as session:
        ground = read_and_check(session)
        parts = cut_rows(session, ground)
        plan = make_plan(session, parts)
        require_room(session, plan)
        plan = with_rehearsal(session, parts, plan)
        bought = bought_money(session, parts)
        require_affordable(plan.predictions["run_minutes"][0], config.budget, config.price, bought=bought)
        record_ground(session, ground)
        sealed = seal_parts(session, ground, parts)
        tuning = Tuning(session, parts, plan)
        trials = fit_arms(session, parts, plan, tuning)
        exposure = probe_exposure(session, parts, tuning)
        opened = recorded_before(session, sealed, trials)
        curve = measure_curve(session, parts, plan, tuning, recorded=None if opened is None else opened.facts)
        before = fix_before_look(
            session, sealed, trials, curve,
            tune_minutes=tuning.minutes,
            measuring=measuring_cost(plan.predicted_s, config.price, bought=bought),
            num_train_rows=len(parts.train),
            tuned_as=tuning.likeness,
        )  # fmt: skip
        looked = look_at_holdout(session, parts, sealed, trials, tuning)
        session.progress.enter("report")
        report_dir = _report(session, ground, parts, plan, tuning, _Found(sealed, trials, before, looked, exposure))
        if pages is not None:
            facts = stored_facts(session, ground, parts)
            write_bytes(session.workspace.report_dir / DATA_PAGE_NAME, pages.data(facts).encode())
        return _publish(session, report_dir, looked, pages.report if pages else None)


@dataclass(frozen=True, slots=True)
class _Found:
    """What seal, arms and look gave, handed to the report."""

    sealed: Sealed
    trials: list[FittedTrial]
    before: BeforeLook
    looked: Looked
    exposure: Exposure


def _report(session: Session, ground: Ground, parts: Parts, plan: Plan, tuning: Tuning, found: _Found) -> Path:
    """The report as a stage; a rerun of a finished project reads it instead of dating it anew. Returns its folder."""
    stages = {name: stage.hash for name, stage in session.stages.items()}

    def work(stage_dir: Path) -> None:
        model = tuning.register(parts)
        scores = found.looked.table.scores_of(found.before.facts["tuned"])
        mean = sum(scores.values()) / len(scores)
        score_forecasts(session, tuning, score=mean, num_rows=len(scores))
        report = build_report(
            session, parts, plan, found.trials, found.looked, found.before,
            {
                "data": ground.report(parts.purged),
                "split": parts.report,
                "model": model,
                "provenance": {**_provenance(session, found), "stages": stages},
                "costs": _costs(session, tuning),
                "plan": plan_entries(plan, _measured(session, tuning)),
                "past_predictions": past_predictions(session, found.sealed),
                "dev_curve": tuning.dev_curve,
                "exposure": found.exposure.as_json(),
            },
        )  # fmt: skip
        _record_run(session, plan, found.sealed, _measured(session, tuning))
        write_json(stage_dir / REPORT_NAME, report.as_json())
        write_bytes(stage_dir / SCORES_NAME, found.looked.scores_path.read_bytes())

    return session.stage(
        "report",
        version=REPORT_VERSION,
        inputs={**stages, "before_look": value_hash(found.before.facts)},
        config={
            "price": asdict(session.config.price),
            "prices": price_entries(session.config.price, session.config.arm),
            "project": session.config.project.name,
        },
        work=work,
    ).dir


def _record_run(session: Session, plan: Plan, sealed: Sealed, measured: Measured) -> None:
    """Put the run into the ledger: what was predicted, what happened, and the machine time beside the tuning's."""
    from metier.ledger import finish_run, predict, record_actual, runs_of, spend, spent, start_run

    inputs_hash, config_hash = run_hashes(session, sealed)
    earlier = [
        one.run_id
        for one in runs_of(session.ledger, "run")
        if (one.inputs_hash, one.config_hash) == (inputs_hash, config_hash)
    ]
    run_id = start_run(
        session.ledger,
        stage="run",
        inputs_hash=inputs_hash,
        config_hash=config_hash,
        stage_version=str(REPORT_VERSION),
    )
    for entry in plan_entries(plan, measured):
        predict(session.ledger, run_id, entry.quantity, predicted=entry.predicted, low=entry.low, high=entry.high)
        if entry.actual is not None:
            record_actual(session.ledger, run_id, entry.quantity, entry.actual)
    if not any(spent(session.ledger, one) for one in earlier):  # a report written anew took no machine time
        spend(session.ledger, run_id, "machine_hour", measured.run_minutes / 60 - book_tuning(session) / 3600)
    finish_run(session.ledger, run_id)


def _publish(session: Session, report_dir: Path, looked: Looked, draw_page: Callable[[Report], str] | None) -> Report:
    """Record the hashes of report and page, then write both and the scores where people look for them."""
    from metier.ledger import WrittenReport, record_report

    report = report_from_json(read_json(report_dir / REPORT_NAME))
    files = {name: (report_dir / name).read_bytes() for name in (SCORES_NAME, REPORT_NAME)}
    if draw_page is not None:
        files[PAGE_NAME] = draw_page(report).encode()
    record_report(
        session.ledger,
        WrittenReport(
            report_sha256=sha256_hex(files[REPORT_NAME]),
            page_sha256=sha256_hex(files[PAGE_NAME]) if PAGE_NAME in files else None,
            look_id=looked.look.look_id,
        ),
    )
    for name, data in files.items():
        write_bytes(session.workspace.report_dir / name, data)
    return report


def _measured(session: Session, tuning: Tuning) -> Measured:
    return Measured(
        run_minutes=sum(stage.seconds for stage in session.stages.values()) / 60,
        tune_minutes=tuning.minutes,
        peak_memory_gib=max(stage.peak_memory_gib for stage in session.stages.values()),
    )


def _costs(session: Session, tuning: Tuning) -> dict[str, float]:
    """Minutes of the run and of the tuning, and what they cost at the machine's price."""
    measured, price = _measured(session, tuning), session.config.price
    return {
        "run_minutes": measured.run_minutes,
        "tune_minutes": measured.tune_minutes,
        "run_cost": machine_cost(measured.run_minutes, price),
        "tune_cost": machine_cost(measured.tune_minutes, price),
    }


def _provenance(session: Session, found: _Found) -> dict[str, Any]:  # Any: JSON values
    """What the numbers were made with."""
    return {
        "code": package_version("metier"),
        "packages": {name: package_version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {session.handle.threads} threads",
        "threads": session.handle.threads,
        "dtype": session.dtype,
        "seeds": {"project": session.config.project.seed},
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "ledger_head": session.ledger.head().hash,
        "split_id": found.sealed.split_id,
        "look_id": found.looked.look.look_id,
        "before_look": dict(found.before.facts),
        "before_look_at": found.before.at,
    }
