"""Everything a report claims, checked again from the files: chain, objects, seal, certificate, identity, verdict.

Without a ledger head noted outside, an empty list of problems says "consistent", not "complete": a chain
alone cannot see that its end was cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metier.core.columns import rows_from_parquet
from metier.core.errors import GateClosed, MetierError
from metier.core.hashing import file_sha256
from metier.core.project_file import ProjectConfig
from metier.core.report import Report
from metier.evaluate import ScoreTable
from metier.road.look import SCORES_NAME, result_hash
from metier.road.run import open_session
from metier.road.session import Session
from metier.road.verdict import decide_from_scores
from metier.split import verify_certificate

__all__ = ["Verified", "verify_project"]

TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What was checked, and what is wrong."""

    checked: tuple[str, ...]
    problems: tuple[str, ...]
    head: str
    """Hash of the newest ledger event; note it outside to be able to say "complete"."""

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "consistent": not self.problems,
            "checked": list(self.checked),
            "problems": list(self.problems),
            "ledger_head": self.head,
        }

    def as_text(self) -> str:
        """The result for a person."""
        lines = [f"checked: {', '.join(self.checked)}"]
        lines += [f"problem: {problem}" for problem in self.problems]
        state = "consistent" if not self.problems else f"{len(self.problems)} problems"
        return "\n".join([*lines, f"{state}; ledger head {self.head}"])

    def require(self) -> None:
        """Pass only without a problem.

        Raises:
            GateClosed: something is not as the report says.
        """
        if self.problems:
            raise GateClosed(f"{len(self.problems)} checks failed; the first: {self.problems[0]}")


def verify_project(project_dir: Path, config: ProjectConfig, report: Report) -> Verified:
    """Check everything again; the hold-out is read for the certificate, and nothing of it is shown."""
    from metier.ledger import verify_chain, verify_objects

    with open_session(project_dir, config, what="metier verify") as session:
        checks: dict[str, Callable[[], list[str]]] = {
            "chain": lambda: [
                str(p) for p in verify_chain(session.ledger, known_heads=[report.provenance["ledger_head"]])
            ],
            "objects": lambda: [str(p) for p in verify_objects(session.ledger, session.store)],
            "seal and certificate": lambda: _certificate_problems(session, report),
            "scores": lambda: _score_problems(session, report),
            "verdict": lambda: _verdict_problems(session, report),
            "model": lambda: _model_problems(session, report),
        }
        problems: list[str] = []
        for name, check in checks.items():
            try:
                problems += [f"{name}: {problem}" for problem in check()]
            except Exception as err:  # noqa: BLE001  # a check that cannot run is recorded as a problem, not an end
                problems.append(f"{name}: {_sentence(err)}")
        return Verified(checked=tuple(checks), problems=tuple(problems), head=session.ledger.head().hash)


def _sentence(err: Exception) -> str:
    """What kept a check from running."""
    if isinstance(err, OSError):
        return f"{err.filename}: cannot be read ({err.strerror}); expected the file that the run wrote."
    return str(err) if isinstance(err, MetierError) else f"cannot be checked ({type(err).__name__}: {err})."


def _certificate_problems(session: Session, report: Report) -> list[str]:
    """The split's certificate against the rows of all three parts, the hold-out out of its seal."""
    from metier.ledger import find_seal, seal_key

    split_id = report.provenance["split_id"]
    seal = find_seal(session.ledger, split_id)
    if seal is None:
        return [f"split {split_id}: no seal is recorded; expected one."]
    holdout = rows_from_parquet(session.store.get_encrypted(seal.object_ref, seal_key(session.project_dir)))
    stage_dir = session.workspace.stage_dir("split", report.provenance["stages"]["split"])
    parts = {name: rows_from_parquet((stage_dir / f"{name}.parquet").read_bytes()) for name in ("train", "dev")}
    return verify_certificate({**parts, "holdout": holdout}, report.split.certificate)


def _score_problems(session: Session, report: Report) -> list[str]:
    """The bytes of scores.parquet against the report, and its scores against the look in the ledger."""
    from metier.ledger import looks_of

    path = session.workspace.report_dir / SCORES_NAME
    problems = []
    if not path.exists():
        return [f"{path}: missing; expected the file whose hash the report holds."]
    if (found := file_sha256(path)) != report.files["scores_sha256"]:
        problems.append(f"{path}: SHA-256 {found[:12]}; the report holds {report.files['scores_sha256'][:12]}.")
    results = [look.result_hash for look in looks_of(session.ledger, report.question.hash)]
    if result_hash(ScoreTable.from_parquet(path.read_bytes())) not in results:
        problems.append(f"{path}: its scores are not those any look found; the ledger knows {len(results)} looks.")
    return problems


def _verdict_problems(session: Session, report: Report) -> list[str]:
    """The verdict decided again from scores.parquet."""
    from dataclasses import replace

    table = ScoreTable.from_parquet((session.workspace.report_dir / SCORES_NAME).read_bytes())
    decision = replace(session.config.decision, margin=report.provenance["margin"], value=None)
    again = decide_from_scores(
        table, decision, session.config.guard, alpha=report.looks.alpha_this, binary=session.grader.binary,
        facts=report.provenance["before_look"],
    )  # fmt: skip
    problems = []
    if session.question_hash != report.question.hash:
        problems.append(
            "metier.toml asks another question than the report answers; the verdict is checked under the new one."
        )
    if (again.verdict.outcome, again.verdict.reason) != (report.verdict.outcome, report.verdict.reason):
        now, then = (f"{v.outcome} ({v.reason})" for v in (again.verdict, report.verdict))
        problems.append(f"decided again: {now}; the report says {then}.")
    for mine, told in zip(again.comparisons, report.comparisons, strict=True):
        if max(abs(mine.low - told.low), abs(mine.high - told.high), abs(mine.estimate - told.estimate)) > TOLERANCE:
            problems.append(f"gain over {mine.versus}: {mine.estimate:.4f}, the report says {told.estimate:.4f}.")
    return problems


def _model_problems(session: Session, report: Report) -> list[str]:
    """Base, template, tokenizer and adapter against the identity in report and ledger."""
    from metier.ledger import find_model

    model, base = report.model, session.base
    problems = []
    for name, found in (
        ("base_sha256", base.base_sha256),
        ("template_sha256", base.template_sha256),
        ("tokenizer_sha256", base.tokenizer_sha256),
    ):
        if found != model[name]:
            problems.append(f"{name} is {found[:12]}; the report holds {model[name][:12]}.")
    adapter_path = session.project_dir / model["adapter_path"] / "adapter_model.safetensors"
    if not adapter_path.exists():
        problems.append(f"{adapter_path}: missing; expected the adapter that was judged.")
    elif (found := file_sha256(adapter_path)) != model["adapter_sha256"]:
        problems.append(f"{adapter_path}: SHA-256 {found[:12]}; the report holds {model['adapter_sha256'][:12]}.")
    identity = find_model(session.ledger, model["id"]).identity
    if identity.adapter_sha != model["adapter_sha256"]:
        problems.append(
            f"ledger: model {model['id'][:12]} has adapter {identity.adapter_sha[:12]}, the report another."
        )
    return problems
