"""The one opening of the hold-out: recorded first, every arm scored in it, only numbers leave it.

A look that is killed goes on as the same look: replies of arms that were done are kept encrypted, and
nothing of it is shown before all arms are scored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.core.columns import rows_from_parquet
from metier.core.errors import ModelError
from metier.core.folders import read_json, write_bytes, write_json
from metier.core.hashing import canonical_json, file_sha256, value_hash
from metier.core.rows import Row
from metier.core.trials import Reply
from metier.evaluate import ArmScores, ControlsResult, ScoreTable, group_ids, run_controls, score_arm
from metier.road.cut import Parts
from metier.road.session import Session
from metier.road.trials import FittedTrial
from metier.road.tuning import Tuning
from metier.split import assert_disjoint

if TYPE_CHECKING:
    from metier.assess import LookGrant
    from metier.ledger import Look

__all__ = ["SCORES_NAME", "Looked", "frozen_comparators", "look_at_holdout"]

LOOK_VERSION = 1
SCORES_NAME = "scores.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What one look found."""

    look_id: str
    alpha: float
    """One-sided error rate of this look."""
    used: int
    """Looks at this question so far, this one included."""
    alpha_left: float
    table: ScoreTable
    scores_path: Path
    scores_sha256: str
    controls: dict[str, Any]


def frozen_comparators(trials: Sequence[FittedTrial]) -> tuple[str, ...]:
    """The arms the tuned one is compared with: every other arm that ran. Fixed before the look, none chosen in it."""
    return tuple(trial.name for trial in trials if trial.kind != "tuned" and trial.arm is not None)


def look_at_holdout(session: Session, parts: Parts, trials: Sequence[FittedTrial], tuning: Tuning) -> Looked:
    """Open the hold-out once for these arms, score all of them, close it.

    Raises:
        GateClosed: the looks of this question are used up.
        DataError: a control fails on the hold-out.
        ModelError: the tuned arm answers as its base does, on every row.
    """
    from metier.ledger import looks_of

    session.progress.enter("hold-out")
    ran = [trial for trial in trials if trial.arm is not None]
    fingerprints = {trial.name: trial.require_arm().fingerprint for trial in ran}
    arms_hash = value_hash({"arms": fingerprints, "comparators": frozen_comparators(trials)})

    def work(stage_dir: Path) -> None:
        _score_all(session, parts, ran, arms_hash, stage_dir, tuning)

    stage = session.stage(
        "look",
        version=LOOK_VERSION,
        inputs={"split": parts.split_id, "arms": fingerprints, "question": session.question_hash},
        config=None,
        work=work,
        resumable=True,
    )
    stored = read_json(stage.dir / "look.json")
    looks = looks_of(session.ledger, parts.question_hash)
    scores_path = stage.dir / SCORES_NAME
    return Looked(
        look_id=stored["look_id"],
        alpha=stored["alpha"],
        used=len(looks),
        alpha_left=max(0.0, session.config.decision.alpha - sum(look.alpha for look in looks)),
        table=ScoreTable.from_parquet(scores_path.read_bytes()),
        scores_path=scores_path,
        scores_sha256=file_sha256(scores_path),
        controls=stored["controls"],
    )


def _score_all(
    session: Session, parts: Parts, ran: Sequence[FittedTrial], arms_hash: str, stage_dir: Path, tuning: Tuning
) -> None:
    """Open, score every arm, write the table, close."""
    from metier.ledger import finish_look, open_look

    decision = session.config.decision
    opened = open_look(
        session.ledger,
        session.store,
        split_id=parts.split_id,
        question_hash=parts.question_hash,
        arms_hash=arms_hash,
        alpha=_grant(session, parts, arms_hash).alpha,
        alpha_budget=decision.alpha,
        max_looks=decision.max_looks,
    )
    rows = rows_from_parquet(opened.rows_parquet)
    assert_disjoint(parts.train, parts.dev, rows)
    tuning.assert_unseen(rows)
    controls = run_controls(rows, session.grader, seed=session.config.project.seed, sealed=True)
    scored = []
    for position, trial in enumerate(ran):
        replies = _replies(session, trial, rows, stage_dir)
        scored.append(score_arm(rows, replies, session.grader, arm=trial.name))
        session.progress.advance((position + 1) / len(ran))
    fingerprint = _fingerprint_control(ran, scored)
    groups = group_ids(rows, session.group_column, key=session.key)
    # Only attributes a guard names: others may be personal and have no place beside the scores.
    slices = [guard.on.partition("=")[0].strip() for guard in session.config.guard if "=" in guard.on]
    table = ScoreTable.build(rows, scored, groups=groups, slices=slices)
    write_bytes(stage_dir / SCORES_NAME, table.to_parquet())
    look = finish_look(session.ledger, opened.look.look_id, result_hash=result_hash(table))
    write_json(stage_dir / "look.json", _look_json(look, controls, fingerprint))


def _grant(session: Session, parts: Parts, arms_hash: str) -> LookGrant:
    """The error rate this look may spend; a resumed look keeps the one it was opened with."""
    from metier.assess import LookGrant, LookKind, PastLook, next_look
    from metier.ledger import looks_of

    past = []
    for look in looks_of(session.ledger, parts.question_hash):
        if look.arms_hash == arms_hash and look.split_id == parts.split_id:
            return LookGrant(kind=LookKind.FIRST, k=look.k, alpha=look.alpha, alpha_left=0.0, other_questions=0)
        past.append(
            PastLook(
                question=look.question,
                model=look.arms_hash,
                rows=look.split_id,
                num_rows=parts.num_holdout,
                alpha=look.alpha,
            )
        )
    decision = session.config.decision
    return next_look(
        past,
        question=parts.question_hash,
        model=arms_hash,
        rows=parts.split_id,
        num_rows=parts.num_holdout,
        alpha=decision.alpha,
        max_looks=decision.max_looks,
    )


def _replies(session: Session, trial: FittedTrial, rows: Sequence[Row], stage_dir: Path) -> list[Reply]:
    """The arm's replies to the hold-out, from the encrypted store when an earlier, killed look had them done."""
    refs_path = stage_dir / "replies.json"
    refs: dict[str, str] = read_json(refs_path) if refs_path.exists() else {}
    if trial.name not in refs:
        replies = trial.require_arm().reply(rows)
        data = canonical_json([asdict(reply) for reply in replies])
        refs[trial.name] = session.store.put_encrypted(data, session.key)
        write_json(refs_path, refs)
    data = session.store.get_encrypted(refs[trial.name], session.key)
    return [Reply(**values) for values in json.loads(data)]


def _fingerprint_control(ran: Sequence[FittedTrial], scored: Sequence[ArmScores]) -> str:
    """That the tuned arm is the tuned model: its replies differ from those of every other language-model arm."""
    texts = {arm.arm: [reply.text for reply in arm.replies] for arm in scored}
    tuned = next(trial.name for trial in ran if trial.kind == "tuned")
    differing = []
    for trial in ran:
        if trial.kind == "prompt":
            pairs = zip(texts[tuned], texts[trial.name], strict=True)
            differing.append(sum(ours != theirs for ours, theirs in pairs))
            if not differing[-1]:
                raise ModelError(
                    f"arm {tuned!r} gives the base's replies on all {len(texts[tuned])} hold-out rows: the adapter "
                    "is not in use or changes nothing. Nothing was decided; check the adapter with `metier verify`."
                )
    num_rows = len(texts[tuned])
    return (
        f"differs from the base on {min(differing)} of {num_rows} rows" if differing else "no prompted base to compare"
    )


def result_hash(table: ScoreTable) -> str:
    """Hash of what a look found: every score, no timings, so a resumed look finds the same."""
    return value_hash([[*entry] for entry in zip(table.row_id, table.arm, table.score, strict=True)])


def _look_json(look: Look, controls: ControlsResult, fingerprint: str) -> dict[str, Any]:
    return {
        "look_id": look.look_id,
        "alpha": look.alpha,
        "k": look.k,
        "result_hash": look.result_hash,
        "controls": {**controls.as_json(), "fingerprint": fingerprint},
    }
