"""The one opening of the hold-out: recorded first, every arm scored in it, only numbers leave it.

A look that is killed goes on as the same look: replies of arms that were done are kept encrypted, and
nothing of it is shown before all arms are scored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.core.arm_config import TUNED_KINDS
from metier.core.errors import ModelError, StoreError
from metier.core.folders import read_json, write_bytes, write_json
from metier.core.hashing import canonical_json, file_sha256, value_hash
from metier.core.report import LooksReport
from metier.core.rows import Row
from metier.core.settings import DecisionConfig
from metier.core.trials import Reply
from metier.evaluate import ArmScores, ScoreTable, group_ids, run_controls, score_arm
from metier.road.cut import Parts, Sealed
from metier.road.session import Session
from metier.road.trials import FittedTrial
from metier.road.tuning import Tuning
from metier.split import assert_disjoint

if TYPE_CHECKING:
    from metier.ledger import Ledger, Look, OpenedLook

__all__ = [
    "SCORES_NAME",
    "Looked",
    "frozen_comparators",
    "granted_alpha",
    "look_at_holdout",
    "look_id",
    "looks_report",
    "scored_beside",
]

LOOK_VERSION = 2
SCORES_NAME = "scores.parquet"
BROKEN_ENDS = {"refused": "refused", "length": "cut at the longest reply allowed"}
"""How a reply that is not whole ended, and how that is told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What one look found."""

    look: Look
    table: ScoreTable
    scores_path: Path
    scores_sha256: str
    controls: dict[str, Any]
    """As the ledger holds them."""


def frozen_comparators(trials: Sequence[FittedTrial]) -> tuple[str, ...]:
    """The arms the tuned one is compared with: every other that ran and needs none of our tuning.

    Fixed before the look, none chosen in it.
    """
    return tuple(trial.name for trial in trials if trial.kind not in TUNED_KINDS and trial.arm is not None)


def scored_beside(trials: Sequence[FittedTrial]) -> tuple[str, ...]:
    """The arms that are scored in the same look and decide nothing: the tuned model, asked in other ways."""
    return tuple(t.name for t in trials if t.kind in TUNED_KINDS and t.kind != "tuned" and t.arm is not None)


def _fingerprints(trials: Sequence[FittedTrial]) -> dict[str, str]:
    return {trial.name: trial.require_arm().fingerprint for trial in trials if trial.arm is not None}


def _arms_hash(trials: Sequence[FittedTrial]) -> str:
    """What the arms of a look are identified by."""
    return value_hash({"arms": _fingerprints(trials), "comparators": frozen_comparators(trials)})


def look_id(sealed: Sealed, trials: Sequence[FittedTrial]) -> str:
    """The id the look at these arms has or will have."""
    from metier.ledger import look_id_of

    return look_id_of(split_id=sealed.split_id, question_hash=sealed.question_hash, arms_hash=_arms_hash(trials))


def look_at_holdout(
    session: Session, parts: Parts, sealed: Sealed, trials: Sequence[FittedTrial], tuning: Tuning
) -> Looked:
    """Open the hold-out once for these arms, score all of them, close it.

    Raises:
        GateClosed: the looks of this question are used up.
        DataError: a control fails on the hold-out.
        ModelError: the tuned arm answers as its base does, on every row.
    """
    from metier.ledger import find_look, findings_of

    session.progress.enter("hold-out")
    ran = [trial for trial in trials if trial.arm is not None]

    def work(stage_dir: Path) -> None:
        _score_all(session, parts, sealed, ran, stage_dir, tuning)

    stage = session.stage(
        "look",
        version=LOOK_VERSION,
        inputs={"split": sealed.split_id, "arms": _fingerprints(ran), "question": sealed.question_hash},
        config=None,
        work=work,
        resumable=True,
    )
    found = find_look(session.ledger, read_json(stage.dir / "look.json")["look_id"])
    if found is None:
        raise StoreError(
            f"{session.ledger.where}: the look in {stage.dir} is not on record; the ledger was replaced. Restore it "
            "from a backup."
        )
    scores_path = stage.dir / SCORES_NAME
    return Looked(
        look=found,
        table=ScoreTable.from_parquet(scores_path.read_bytes()),
        scores_path=scores_path,
        scores_sha256=file_sha256(scores_path),
        controls=findings_of(session.ledger, found.look_id)["controls"],
    )


def looks_report(ledger: Ledger, look: Look, decision: DecisionConfig) -> LooksReport:
    """How often question and rows had been looked at when this look was opened, itself included; later looks not."""
    from metier.ledger import looks_of, looks_on

    mine = [other for other in looks_of(ledger, look.question) if other.k <= look.k]
    shared = [other for other in looks_on(ledger, look.split_id) if other.opened_at <= look.opened_at]
    return LooksReport(
        used=len(mine),
        budget=decision.max_looks,
        alpha_this=look.alpha,
        alpha_left=max(0.0, decision.alpha - sum(other.alpha for other in mine)),
        on_these_rows=len(shared),
        other_questions=len({other.question for other in shared} - {look.question}),
    )


def _score_all(
    session: Session, parts: Parts, sealed: Sealed, ran: Sequence[FittedTrial], stage_dir: Path, tuning: Tuning
) -> None:
    """Open, score every arm, write the table, close."""
    from metier.ledger import finish_look, open_look

    decision, arms_hash = session.config.decision, _arms_hash(ran)
    opened = open_look(
        session.ledger,
        session.store,
        split_id=sealed.split_id,
        question_hash=sealed.question_hash,
        arms_hash=arms_hash,
        alpha=granted_alpha(session, sealed, ran),
        alpha_budget=decision.alpha,
        max_looks=decision.max_looks,
    )
    rows = _sealed_rows(session, opened)
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
    beside = {"fingerprint": fingerprint, "broken_replies": _broken_replies(scored)}
    found_beside = {"controls": {**controls.as_json(), **beside}}
    finish_look(session.ledger, opened.look.look_id, result_hash=result_hash(table), found_beside=found_beside)
    write_json(stage_dir / "look.json", {"look_id": opened.look.look_id})


def _sealed_rows(session: Session, opened: OpenedLook) -> list[Row]:
    """The rows of the opened seal; those of erased persons are gone from it."""
    from metier.ledger import find_seal, unpack_rows

    seal = find_seal(session.ledger, opened.look.split_id)
    assert seal is not None, "an opened look has a seal"
    where = session.store.path_of(seal.object_ref)
    found = unpack_rows(opened.pack, session.subject_keys, where=where)
    return [row for row in found if row is not None]


def granted_alpha(session: Session, sealed: Sealed, trials: Sequence[FittedTrial]) -> float:
    """The error rate the look at these arms may spend; a resumed look keeps the one it was opened with.

    Raises:
        GateClosed: the looks of this question are used up.
        DataError: the hold-out changed without growing.
    """
    from metier.assess import PastLook, next_look
    from metier.ledger import find_seal, looks_of, num_erased

    arms_hash, past = _arms_hash(trials), []
    for look in looks_of(session.ledger, sealed.question_hash):
        if look.arms_hash == arms_hash and look.split_id == sealed.split_id:
            return look.alpha
        seal = find_seal(session.ledger, look.split_id)
        assert seal is not None, "a hold-out that was looked at was sealed"
        past.append(
            PastLook(
                question=look.question,
                model=look.arms_hash,
                rows=look.split_id,
                num_rows=seal.num_rows - num_erased(session.ledger, look.split_id),
                alpha=look.alpha,
            )
        )
    decision = session.config.decision
    return next_look(
        past,
        question=sealed.question_hash,
        model=arms_hash,
        rows=sealed.split_id,
        num_rows=sealed.num_rows,
        alpha=decision.alpha,
        max_looks=decision.max_looks,
    ).alpha


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
        if trial.kind == "prompt" and not trial.base:
            pairs = zip(texts[tuned], texts[trial.name], strict=True)
            differing.append(sum(ours != theirs for ours, theirs in pairs))
            if not differing[-1]:
                raise ModelError(
                    f"arm {tuned!r} gives the base's replies on all {len(texts[tuned])} hold-out rows: what was "
                    "tuned is not in use or changes nothing. Nothing was decided; check it with `metier verify`."
                )
    num_rows = len(texts[tuned])
    return (
        f"differs from the base on {min(differing)} of {num_rows} rows" if differing else "no prompted base to compare"
    )


def _broken_replies(scored: Sequence[ArmScores]) -> str:
    """How many replies of which arms are not whole; they count as what came."""
    told = []
    for arm in scored:
        ends = Counter(reply.finish for reply in arm.replies)
        if ends["refused"] or ends["length"]:
            parts = [f"{ends[end]} {words}" for end, words in BROKEN_ENDS.items() if ends[end]]
            told.append(f"{' and '.join(parts)}, of {len(arm.replies)} of {arm.arm}")
    return "; ".join(told) or "none"


def result_hash(table: ScoreTable) -> str:
    """Hash of all that decides: scores, checks, groups, slices; no timings, so that a resumed look finds the same."""
    columns = {
        "row_id": table.row_id,
        "arm": table.arm,
        "score": table.score,
        "group": table.group,
        "slice": table.slice,
    }
    return value_hash({"columns": columns, "checks": dict(table.checks)})
