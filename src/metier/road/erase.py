"""`metier erase SUBJECT`: a person out of the data and all that was made of it; the models that saw the rows named.

Order, so that a killed run is finished by the same command: every object is read once, so that nothing is begun that
cannot be ended; what will go is recorded; the files are emptied; the person's key is destroyed, after which no copy of
the rows can be read; packs, seal, caches and report are written anew; last the certificate.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metier.core.errors import DataError, counted
from metier.core.folders import read_json, write_bytes, write_json
from metier.core.hashing import canonical_json, sha256_hex
from metier.core.project_file import ProjectConfig
from metier.core.report import Report, report_from_json
from metier.curate import erase_records
from metier.road.calls import drop_answers, sent_rows
from metier.road.ground import read_and_check, record_ground
from metier.road.persons import Found, data_files, files_holding, numbers_of, search
from metier.road.run import DATA_PAGE_NAME, PAGE_NAME, REPORT_NAME, open_session
from metier.road.session import Session

__all__ = ["Erasure", "erase_subject"]

KEPT_STAGES = ("tune", "tune-dpo")
"""Stages without text of rows: adapters, numbers of steps. All others are computed again from what is left."""
NOT_GONE = (
    "What a disk keeps of overwritten or deleted blocks (flash memory, snapshots), and every backup of this folder.",
    "Replies, reports and tasks for labelling that left this folder.",
    "Keyed hashes of the person and of the rows: they prove that something was erased and say nothing without the key.",
)
SENT = "What was sent to the addresses listed: metier cannot erase there; ask whoever runs them."
LEARNED = "What the models listed have learned: only training again without the rows removes it."


@dataclass(frozen=True, kw_only=True, slots=True)
class Erasure:
    """What went, what it reached, and what is left to do; the certificate in words."""

    subject: str
    """Keyed hash of the person."""
    is_done: bool
    """False for a dry run: nothing was erased."""
    at: str
    num_records: Mapping[str, int]
    """Records emptied in the project's own data files, by file; those of copies and of records that are no rows too."""
    failed: Sequence[str]
    """`file:line` of the records among them that are no rows and were about the person."""
    outside: Mapping[str, int]
    """Records in files outside the project folder, which are not touched, by file."""
    mentions: Mapping[str, int]
    """Rows about other people or nobody in which the name stands, by file: not erased; look at them."""
    rows: Sequence[str]
    """`origin_id` of every row that is gone: the person's, and copies of them about nobody."""
    num_copies: int
    """Rows among them that are copies."""
    kept_copies: Sequence[str]
    """`origin_id` of copies that are about somebody else: they stay; look at them."""
    tombstones: Mapping[str, int]
    """Rows among them by part of a recorded split."""
    num_votes: int
    num_objects: int
    """Packs and seals rewritten by the command that ended the erasure."""
    models: Sequence[Mapping[str, Any]]
    """Every model that was trained on one of the rows, parents first: id, state, what to do and why."""
    sent: Mapping[str, int]
    """Rows among them whose prompt was sent to an endpoint, by its address."""
    still_holding: Sequence[str]
    """Files of the project folder in which the name still stands; empty in a dry run."""
    not_gone: Sequence[str]
    signature: str = ""
    """Ed25519 over the canonical JSON of all of this, by the project's key; empty in a dry run."""
    public_key: str = ""
    path: str = ""
    """The certificate's file."""

    def as_json(self) -> dict[str, Any]:
        """The certificate as JSON values."""
        return asdict(self)

    def as_text(self) -> str:
        """The certificate for a person."""
        done = self.is_done
        what, will = ("emptied", "erased") if done else ("to empty", "would erase")
        copies = f", {counted(self.num_copies, 'copy of them about nobody')}" if self.num_copies == 1 else ""
        copies = copies or (f", {self.num_copies} of them copies about nobody" if self.num_copies else "")
        lines = [f"{will} {counted(len(self.rows), 'row')}{copies}"]
        lines += [f"  {counted(num, 'record')} {what} in {name}" for name, num in self.num_records.items()]
        lines += [f"  {where}: no row, but about the person" for where in self.failed]
        lines += [f"  {counted(num, 'row')} in {part}" for part, num in self.tombstones.items()]
        if self.num_votes:
            lines.append(f"  {counted(self.num_votes, 'vote')} {what}")
        lines += [
            f"not touched: {counted(n, 'record')} in {name}, outside the project" for name, n in self.outside.items()
        ]
        lines += [f"look at: {counted(n, 'row')} of {name} with the name in it" for name, n in self.mentions.items()]
        if self.kept_copies:
            lines.append(f"look at: {counted(len(self.kept_copies), 'row')} like these about somebody else")
        lines += [f"look at: {name} still holds the name" for name in self.still_holding]
        lines += [f"model {model['model_id'][:12]}: {model['action']} ({model['why']})" for model in self.models]
        lines += [f"sent to {url}: the prompts of {counted(num, 'row')}" for url, num in self.sent.items()]
        if any(model["action"] == "retrain" for model in self.models):
            lines.append("train anew with: metier run")
        lines += ["what is not gone:", *(f"  {sentence}" for sentence in self.not_gone)]
        if done:
            lines.append(f"certificate: {self.path}")
        return "\n".join(lines)


def erase_subject(
    project_dir: Path,
    config: ProjectConfig,
    subject: str,
    *,
    dry_run: bool = False,
    draw_page: Callable[[Report], str] | None = None,
) -> Erasure:
    """Erase a person, or say what that would do.

    Raises:
        DataError: no record of files or ledger is about this person, or the project names no subject column.
        StoreError: an object is damaged, and nothing was begun; or the disk is full, and the same command goes on.
    """
    from metier.ledger import begun_erasures, require_whole_objects

    if not config.data.subject:
        raise DataError(
            "[data] subject names no column, so no row says whom it is about; name the column and run again."
        )
    with open_session(project_dir, config, what="metier erase") as session:
        hashed = session.subject_keys.hash_of(subject)
        begun = begun_erasures(session.ledger).get(hashed)
        require_whole_objects(session.ledger, session.store)
        with suppress(DataError):  # rows that are not ready are erased all the same, without copies nobody has recorded
            record_ground(session, read_and_check(session))
        found = search(session, subject, again=begun is not None)
        plan = _plan(session, hashed, found, begun)
        if not plan.rows and not found.failed and begun is None:
            raise DataError(
                f"{subject!r}: no record of {', '.join(config.data.files)} and none in the ledger has it in "
                f"{', '.join(config.data.subject)}; expected the value as it stands there. Upper and lower case do not "
                "matter."
            )
        return plan if dry_run else _carry_out(session, subject, plan, found, draw_page)


def _plan(session: Session, hashed: str, found: Found, begun: Mapping[str, Any] | None) -> Erasure:
    """What an erasure reaches; what one that was begun has emptied already is in it."""
    from metier.ledger import copies_of, count_parts, count_votes, origins_about, plan_models, subjects_in_packs

    subjects = subjects_in_packs(session.store)
    mine = {*found.origins, *origins_about(session.ledger, hashed, subjects)}
    copies = set(copies_of(session.ledger, mine)) - mine
    of_nobody = {origin for origin in copies if not subjects.get(origin)}
    origins = sorted(mine | of_nobody)
    numbers = _all_numbers(session, found, origins, again=begun is not None)
    inside, before = _inside(session), dict(begun["num_records"]) if begun else {}
    sent = sent_rows(session.workspace.calls_dir, origins)
    models = [model.as_json() for model in plan_models(session.ledger, origins)]
    return Erasure(
        subject=hashed,
        is_done=False,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        num_records={
            name: max(len(numbers.get(name, ())), before.get(name, 0))
            for name in sorted({*numbers, *before})
            if name in inside
        },
        failed=[where for by_number in found.failed.values() for where in by_number.values()],
        outside={name: len(found_there) for name, found_there in sorted(numbers.items()) if name not in inside},
        mentions=found.mentions,
        rows=origins,
        num_copies=len(of_nobody),
        kept_copies=sorted(copies - of_nobody),
        tombstones=count_parts(session.ledger, origins),
        num_votes=count_votes(session.ledger, origins),
        num_objects=0,
        models=models,
        sent=sent,
        still_holding=(),
        not_gone=(*NOT_GONE, *([SENT] if sent else []), *([LEARNED] if models else [])),
    )


def _all_numbers(session: Session, found: Found, origins: Collection[str], *, again: bool) -> dict[str, set[int]]:
    """Record numbers of everything that goes, by file."""
    numbers = numbers_of(session, set(origins), again=again) if origins else {}
    for name, by_number in found.failed.items():
        numbers.setdefault(name, set()).update(by_number)
    return numbers


def _inside(session: Session) -> dict[str, Path]:
    """The data files that lie in the project folder, by name; links are followed."""
    root = session.project_dir.resolve()
    return {name: path for name, path in data_files(session).items() if path.resolve().is_relative_to(root)}


def _carry_out(
    session: Session, subject: str, plan: Erasure, found: Found, draw_page: Callable[[Report], str] | None
) -> Erasure:
    """Do what the plan says; every step may be repeated."""
    from metier.ledger import begin_erasure, retire_models

    begin_erasure(session.ledger, plan.subject, plan.rows, num_records=plan.num_records)
    numbers = _all_numbers(session, found, plan.rows, again=True)
    for name, path in _inside(session).items():
        if numbers.get(name):
            erase_records(path, numbers[name])
    session.subject_keys.destroy(plan.subject)
    num_objects = _rewrite_objects(session, plan)
    retire_models(session.ledger, [model["model_id"] for model in plan.models])
    stages_dir = session.workspace.root / "stages"
    # In kept stages: what the processes of a killed run said, messages about rows among it.
    for folder in [*stages_dir.glob("*/"), *stages_dir.glob("*/*/.*.job/")]:
        if folder.name not in KEPT_STAGES and folder.exists():
            shutil.rmtree(folder)
    if session.workspace.trunk_dir.exists():  # hidden states of the person's rows among them
        shutil.rmtree(session.workspace.trunk_dir)
    drop_answers(session.workspace.calls_dir)
    _redact_report(session, plan.rows, draw_page)
    holding = files_holding(session.project_dir, subject)
    return _certify(session, replace(plan, is_done=True, num_objects=num_objects, still_holding=holding))


def _rewrite_objects(session: Session, plan: Erasure) -> int:
    """Packs and seals without the rows, the ledger pointing at the new ones, and nothing else left in the store."""
    from metier.ledger import erase_rows, referenced_objects

    num = erase_rows(session.ledger, session.store, plan.rows, subject=plan.subject)
    session.store.keep_only(referenced_objects(session.ledger))
    return num


def _redact_report(session: Session, gone: Collection[str], draw_page: Callable[[Report], str] | None) -> None:
    """The report without replies to erased rows and without messages about records; its new hash is recorded."""
    from metier.ledger import WrittenReport, record_report, row_ids_of

    (session.workspace.report_dir / DATA_PAGE_NAME).unlink(missing_ok=True)  # the next check or run draws it anew
    path = session.workspace.report_dir / REPORT_NAME
    if not path.exists():
        return
    report = report_from_json(read_json(path))
    row_ids = set(row_ids_of(session.ledger, gone))
    examples = tuple(example for example in report.examples if example.row_id not in row_ids)
    redacted = replace(report, examples=examples, data=replace(report.data, failures=()))
    write_json(path, redacted.as_json())
    page = None
    if draw_page is not None:
        page = draw_page(redacted).encode()
        write_bytes(path.with_name(PAGE_NAME), page)
    written = WrittenReport(
        report_sha256=sha256_hex(path.read_bytes()),
        page_sha256=sha256_hex(page) if page is not None else None,
        look_id=str(report.provenance["look_id"]),
    )
    record_report(session.ledger, written)


def _certify(session: Session, done: Erasure) -> Erasure:
    """Sign the certificate, keep it beside the ledger and record it."""
    from metier.ledger import finish_erasure, sign

    signature, public_key = sign(session.project_dir, canonical_json(done.as_json()))
    erasure_id = sha256_hex(canonical_json(done.as_json()))[:32]
    path = session.workspace.root / "erasures" / f"{erasure_id}.json"
    told = path.relative_to(session.project_dir).as_posix()
    certified = replace(done, signature=signature, public_key=public_key, path=told)
    write_json(path, certified.as_json())
    finish_erasure(session.ledger, session.store, erasure_id, subject=done.subject, certificate=path.read_bytes())
    return certified
