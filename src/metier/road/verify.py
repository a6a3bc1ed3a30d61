"""Everything a report claims, checked again from the files: chain, objects, seal, certificate, identity, verdict.

Without a ledger head noted outside, an empty list of problems says "consistent", not "complete": a chain
alone cannot see that its end was cut off.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.core.errors import GateClosed, MetierError, StoreError, counted
from metier.core.folders import read_json
from metier.core.hashing import canonical_json, file_sha256, keyed_hash
from metier.core.project_file import ProjectConfig
from metier.core.report import Report
from metier.core.rows import Row, content_of
from metier.core.table import table_of
from metier.evaluate import ScoreTable
from metier.road.look import SCORES_NAME, result_hash
from metier.road.run import PAGE_NAME, REPORT_NAME, open_session
from metier.road.session import Session
from metier.road.verdict import holdout_numbers, judged
from metier.split import verify_certificate

if TYPE_CHECKING:
    from metier.ledger import BeforeLook, Look, PartRow
    from metier.models import BaseModel

__all__ = ["Verified", "verify_project"]

TOLERANCE = 1e-9
MAX_SHOWN_CHARACTERS = 120
MAX_SHOWN = 8
"""Fields named when a report differs; more would bury the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What was checked, and what is wrong."""

    checked: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    """What is worth knowing and no problem."""
    head: str
    """Hash of the newest ledger event; note it outside to be able to say "complete"."""

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "consistent": not self.problems,
            "checked": list(self.checked),
            "problems": list(self.problems),
            "notes": list(self.notes),
            "ledger_head": self.head,
        }

    def as_text(self) -> str:
        """The result for a person."""
        lines = [f"checked: {', '.join(self.checked)}"]
        lines += [f"problem: {problem}" for problem in self.problems]
        lines += [f"note: {note}" for note in self.notes]
        state = "consistent" if not self.problems else counted(len(self.problems), "problem")
        return "\n".join([*lines, f"{state}; ledger head {self.head}"])

    def require(self) -> None:
        """Pass only without a problem.

        Raises:
            GateClosed: something is not as the report says.
        """
        if self.problems:
            raise GateClosed(f"{counted(len(self.problems), 'problem')} found; the first: {self.problems[0]}")


def verify_project(project_dir: Path, config: ProjectConfig, report: Report | None) -> Verified:
    """Check everything again; the hold-out is read for the certificate, and nothing of it is shown.

    What the project file says today does not matter: a report is checked under the question it answers. Without a
    report the ledger, its objects and the certificates of erasures are checked.
    """
    with open_session(project_dir, config, what="metier verify") as session:
        checks = {**_ledger_checks(session, report), **(_report_checks(session, report) if report else {})}
        problems: list[str] = []
        for name, check in checks.items():
            try:
                problems += [f"{name}: {problem}" for problem in check()]
            except Exception as err:  # noqa: BLE001  # a check that cannot run is recorded as a problem, not an end
                problems.append(f"{name}: {_sentence(err)}")
        return Verified(
            checked=tuple(checks),
            problems=tuple(problems),
            notes=_notes(session, report) if report else ("no run has finished here, so there is no report to check.",),
            head=session.ledger.head().hash,
        )


def _ledger_checks(session: Session, report: Report | None) -> dict[str, Callable[[], list[str]]]:
    """What can be checked at any time."""
    from metier.ledger import verify_chain, verify_objects

    heads = [report.provenance["ledger_head"]] if report else []
    return {
        "chain": lambda: [str(p) for p in verify_chain(session.ledger, known_heads=heads)],
        "objects": lambda: [str(p) for p in verify_objects(session.ledger, session.store)],
        "erasures": lambda: _erasure_problems(session),
    }


def _report_checks(session: Session, report: Report) -> dict[str, Callable[[], list[str]]]:
    """What a report claims."""
    return {
        "seal and certificate": lambda: _certificate_problems(session, report),
        "report and page": lambda: _file_problems(session, report),
        "scores": lambda: _score_problems(session, report),
        "verdict": lambda: _verdict_problems(session, report),
        "model": lambda: _model_problems(session, report),
    }


def _notes(session: Session, report: Report) -> tuple[str, ...]:
    """Where the project file has moved on since the report."""
    if session.question_hash == report.question.hash:
        return ()
    return (
        "metier.toml asks another question now than the report answers; the report was checked under its own, "
        f"{report.question.hash[:12]}.",
    )


def _sentence(err: Exception) -> str:
    """What kept a check from running."""
    if isinstance(err, OSError):
        return f"{err.filename}: cannot be read ({err.strerror}); expected the file that the run wrote."
    return str(err) if isinstance(err, MetierError) else f"cannot be checked ({type(err).__name__}: {err})."


def _certificate_problems(session: Session, report: Report) -> list[str]:
    """The split's certificate against the rows of its parts as the ledger names them, the hold-out out of its seal."""
    from metier.ledger import find_seal, seal_key, stored_parts, unpack_rows

    split_id = report.provenance["split_id"]
    seal = find_seal(session.ledger, split_id)
    if seal is None:
        return [f"split {split_id}: no seal is recorded; expected one."]
    places = stored_parts(session.ledger, split_id)
    data = session.store.get_encrypted(seal.object_ref, seal_key(session.project_dir))
    where = session.store.path_of(seal.object_ref)
    sealed = [row for row in unpack_rows(data, session.subject_keys, where=where) if row is not None]
    rows = {name: _part_rows(session, [p for p in places if p.part == name]) for name in ("train", "dev", "holdout")}
    problems = []
    if sorted(row.row_id for row in sealed) != sorted(row.row_id for row in rows["holdout"]):
        problems.append(f"seal: its {len(sealed)} rows are not the {len(rows['holdout'])} the ledger names.")
    erased = {name: [p.row_id for p in places if p.part == name and p.is_erased] for name in rows}
    tables = {name: table_of(found, key=session.key) for name, found in {**rows, "holdout": sealed}.items()}
    gone = erased if any(erased.values()) else None
    return problems + verify_certificate(tables, report.split.certificate, erased=gone)


def _erasure_problems(session: Session) -> list[str]:
    """Every certificate of an erasure against the hash the ledger holds, and its signature."""
    from metier.ledger import erasures, signed_by_project

    problems = []
    for erasure_id, certificate_hash in erasures(session.ledger).items():
        path = session.workspace.root / "erasures" / f"{erasure_id}.json"
        if not path.exists():
            problems.append(f"{path}: missing; expected the certificate of an erasure.")
        elif file_sha256(path) != certificate_hash:
            problems.append(f"{path}: not the certificate that was recorded.")
        else:
            told = read_json(path)
            unsigned = {**told, "signature": "", "public_key": "", "path": ""}
            if not signed_by_project(session.project_dir, canonical_json(unsigned), told["signature"]):
                problems.append(f"{path}: its signature is not this project's.")
    return problems


def _part_rows(session: Session, places: Sequence[PartRow]) -> list[Row]:
    """The rows of one part that are left, out of their packs.

    Raises:
        StoreError: a pack is missing or damaged, or a row is not in the pack the ledger names.
    """
    from metier.ledger import unpack_rows

    rows: list[Row] = []
    wanted = {(place.row_id, place.origin_id): place.object_ref for place in places if not place.is_erased}
    for ref in sorted(set(wanted.values())):  # a row may stand in earlier packs too: the ledger's counts
        found = unpack_rows(session.store.get(ref), session.subject_keys, where=session.store.path_of(ref))
        rows += [row for row in found if row is not None and wanted.get((row.row_id, row.origin_id)) == ref]
    for row in rows:
        if keyed_hash(session.key, content_of(row.messages, row.tools, row.target)) != row.row_id:
            raise StoreError(f"row {row.row_id}: its text is not the one that has this id; the pack was written anew.")
    if len(rows) != len(wanted):
        raise StoreError(f"{len(wanted) - len(rows)} of {len(wanted)} rows are not in the packs the ledger names.")
    return rows


def _file_problems(session: Session, report: Report) -> list[str]:
    """The bytes of report.json and of its page against the hashes the ledger holds; what differs is named."""
    from metier.ledger import written_reports

    folder, problems = session.workspace.report_dir, []
    known = written_reports(session.ledger)
    found = file_sha256(folder / REPORT_NAME)
    mine = [written for written in known if written.report_sha256 == found]
    if not mine:
        problems.append(
            f"{folder / REPORT_NAME}: SHA-256 {found[:12]} is that of none of the {len(known)} reports the ledger "
            "knows; run again to write it anew."
        )
        problems += _edited_fields(session, report, {written.report_sha256 for written in known})
    pages, page_path = {written.page_sha256 for written in mine or known}, folder / PAGE_NAME
    if pages != {None} and not page_path.exists():
        problems.append(f"{page_path}: missing; expected the page that was written; run again to write it anew.")
    elif pages != {None} and file_sha256(page_path) not in pages:
        problems.append(f"{page_path}: not the page that was written; run again to write it anew.")
    return problems


def _edited_fields(session: Session, report: Report, known: set[str]) -> list[str]:
    """The fields in which a report differs from the untouched copy in its stage folder, where one is left.

    A look has a copy for each price list and project name it was told under; the one that differs least was edited.
    """
    found, told = [], report.as_json()
    for path in (session.workspace.root / "stages" / "report").glob(f"*/{REPORT_NAME}"):
        written = read_json(path)
        if file_sha256(path) in known and written["provenance"]["look_id"] == report.provenance["look_id"]:
            found.append(list(differences(written, told)))
    return _shown(min(found, key=len, default=[]))


def differences(right: Any, told: Any, where: str = "") -> Iterator[str]:  # Any: JSON values, or dataclasses' values
    """Every place where a report tells something else, as `arms[0].score is 0.9; expected 0.1`."""
    if isinstance(right, Mapping) and isinstance(told, Mapping):
        for name in [*right, *(name for name in told if name not in right)]:
            yield from differences(right.get(name), told.get(name), f"{where}.{name}" if where else str(name))
    elif isinstance(right, list | tuple) and isinstance(told, list | tuple) and len(right) == len(told):
        for place, (mine, other) in enumerate(zip(right, told, strict=True)):
            yield from differences(mine, other, f"{where}[{place}]")
    elif isinstance(right, float) and isinstance(told, int | float):
        if not abs(right - told) <= TOLERANCE:  # so that NaN differs
            yield f"{where} is {_short(told)}; expected {_short(right)}."
    elif right != told:
        yield f"{where} is {_short(told)}; expected {_short(right)}."


def _short(value: Any) -> str:  # Any: a JSON value
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]} (cut)"


def _shown(found: list[str]) -> list[str]:
    """The first differences, and how many more there are."""
    more = [f"{len(found) - MAX_SHOWN} further fields differ."] if len(found) > MAX_SHOWN else []
    return found[:MAX_SHOWN] + more


def _look(session: Session, report: Report) -> tuple[Look, BeforeLook]:
    """The look the report tells of, and what was recorded before it was opened.

    Raises:
        StoreError: one of them is not on record.
    """
    from metier.ledger import before_look, find_look

    wanted = report.provenance["look_id"]
    look, before = find_look(session.ledger, wanted), before_look(session.ledger, wanted)
    if look is None or before is None:
        what = "no look of that id" if look is None else "nothing that was fixed before it"
        raise StoreError(f"look {wanted!r} of the report: the ledger holds {what}.")
    return look, before


def _score_problems(session: Session, report: Report) -> list[str]:
    """The bytes of scores.parquet against the report, and its scores against the look in the ledger."""
    path = session.workspace.report_dir / SCORES_NAME
    problems = []
    if not path.exists():
        return [f"{path}: missing; expected the file whose hash the report holds."]
    if (found := file_sha256(path)) != report.files["scores_sha256"]:
        problems.append(f"{path}: SHA-256 {found[:12]}; the report holds {report.files['scores_sha256'][:12]}.")
    look, _ = _look(session, report)
    if result_hash(ScoreTable.from_parquet(path.read_bytes())) != look.result_hash:
        problems.append(f"{path}: its scores are not those look {look.look_id} found.")
    return problems


def _verdict_problems(session: Session, report: Report) -> list[str]:
    """What follows from ledger and scores, worked out again: verdict, bounds, guards, looks, arms, controls."""
    from metier.ledger import findings_of, first_opened

    look, before = _look(session, report)
    opened = first_opened(session.ledger, look.look_id)
    problems = []
    if opened is None or before.seq > opened:
        problems.append(f"look {look.look_id}: what it is judged by was recorded after it was opened.")
    table = ScoreTable.from_parquet((session.workspace.report_dir / SCORES_NAME).read_bytes())
    again = judged(session.ledger, look, before.facts, table)
    verdict = again["verdict"]
    left_aside: tuple[str, ...] = ()
    if other_forms(before.facts):
        problems.append(
            "the learning curve of this look was fitted by a metier with other forms: its forecasts, and a verdict "
            f"that rests on them, cannot be made again here. Verify with metier {report.provenance['code']}."
        )
        rests = {verdict.reason, report.verdict.reason} & {"below_margin", "more_train_rows"}
        left_aside = ("forecast", "gain_forecast", "money", *(("verdict", "rows_needed") if rests else ()))
    now, then = (f"{v.outcome} ({v.reason})" for v in (verdict, report.verdict))
    if now != then and "verdict" not in left_aside:
        problems.append(f"decided again: {now}; the report says {then}.")
    if (ran := [arm.name for arm in report.arms if arm.status == "ran"]) != list(table.arms):
        problems.append(f"arms that ran are {', '.join(ran)}; scored were {', '.join(table.arms)}.")
    told = report.as_json()
    written = read_json(session.workspace.report_dir / REPORT_NAME)  # an earlier version's holds fewer fields
    expected = {name: _plain(value) for name, value in again.items() if name in written}
    expected["controls"] = findings_of(session.ledger, look.look_id)["controls"]
    expected["provenance"] = {**told["provenance"], "before_look": before.facts, "before_look_at": before.at,
                              "split_id": look.split_id}  # fmt: skip
    expected["arms"] = [
        {**arm, **holdout_numbers(table, arm["name"], binary=before.facts["binary"])}
        if arm["name"] in table.arms
        else arm
        for arm in told["arms"]
    ]
    for name in left_aside:
        expected.pop(name, None)
    return problems + _shown(list(differences(expected, {name: told[name] for name in expected})))


def other_forms(facts: Mapping[str, Any]) -> bool:  # Any: JSON values
    """Whether the curve of a look was fitted with other forms than those of today.

    One that names none was recorded before forms had a hash, and is held against those of today: most were made with
    them, and one that was not is told by its forecasts.
    """
    from metier.assess import prior_hash

    return bool(facts.get("curve")) and facts["curve"].get("prior", prior_hash()) != prior_hash()


def _plain(value: Any) -> Any:  # Any: a part of the report, or JSON values
    """A part of the report as JSON values."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _base_of(session: Session, report: Report) -> BaseModel:
    """The base the report names, also where the project file names another one now."""
    from metier.models import resolve

    if session.base.base_sha256 == report.model["base_sha256"] or session.base.name == report.model["base"]:
        return session.base
    return resolve(report.model["base"], project_dir=session.project_dir)


def _model_problems(session: Session, report: Report) -> list[str]:
    """Base, template, tokenizer and tuned weights against the identity in report and ledger."""
    from metier.engine import tuned_file
    from metier.ledger import find_model

    model, base = report.model, _base_of(session, report)
    problems = []
    for name, found in (
        ("base_sha256", base.base_sha256),
        ("function_sha256", base.function_sha256),
        ("template_sha256", base.template_sha256),
        ("tokenizer_sha256", base.tokenizer_sha256),
    ):
        if found != model.get(name, found):  # reports of earlier versions hold no function_sha256
            problems.append(f"{name} is {found[:12]}; the report holds {model[name][:12]}.")
    adapter_path = tuned_file(session.project_dir / model["adapter_path"])
    if not adapter_path.exists():
        problems.append(f"{adapter_path}: missing; expected the tuned weights that were judged.")
    elif (found := file_sha256(adapter_path)) != model["adapter_sha256"]:
        problems.append(f"{adapter_path}: SHA-256 {found[:12]}; the report holds {model['adapter_sha256'][:12]}.")
    identity = find_model(session.ledger, model["id"]).identity
    if identity.adapter_sha != model["adapter_sha256"]:
        problems.append(
            f"ledger: model {model['id'][:12]} has adapter {identity.adapter_sha[:12]}, the report another."
        )
    return problems
