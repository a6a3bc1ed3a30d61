"""Machine time in the ledger, each second once, whichever verb spent it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from metier.core.folders import write_json
from metier.core.hashing import value_hash
from metier.road.session import Session

__all__ = ["book", "book_tuning"]

BOOKED_VERSION = 1
TUNING = ("tune", "pairs", "tune-dpo")
"""The stages that are the tuning's own; all others are booked by the run."""


def book(session: Session, what: str, inputs_hash: str, *, seconds: float) -> None:
    """Put machine time into the ledger, as a finished run of its own."""
    from metier.ledger import finish_run, spend, start_run

    run_id = start_run(
        session.ledger,
        stage=what,
        inputs_hash=inputs_hash,
        config_hash=value_hash(asdict(session.config.tune)),
        stage_version=str(BOOKED_VERSION),
    )
    spend(session.ledger, run_id, "machine_hour", seconds / 3600)
    finish_run(session.ledger, run_id)


def book_tuning(session: Session) -> float:
    """Book the finished tuning unless that is done; returns its seconds."""
    stages = {name: session.stages[name] for name in TUNING if name in session.stages}
    hashes = {name: stage.hash for name, stage in stages.items()}
    seconds = sum(stage.seconds for stage in stages.values())

    def work(stage_dir: Path) -> None:
        book(session, "tune", value_hash(hashes), seconds=seconds)
        write_json(stage_dir / "booked.json", {"seconds": seconds})

    session.workspace.stage("booked", version=BOOKED_VERSION, inputs=hashes, config=None, work=work)
    return seconds
