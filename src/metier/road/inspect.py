"""Looking without changing anything: a row as the model sees it, how far a project is, what the machine offers."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.arms import Replier, TunedArm
from metier.arms.replier import with_instruction
from metier.core.arm_config import ArmConfig
from metier.core.errors import DataError, ModelError, StoreError
from metier.core.folders import read_json
from metier.core.project_file import ProjectConfig
from metier.core.rows import Message, Meta, Role, Row, make_row
from metier.road.cut import cut_rows
from metier.road.ground import read_and_check
from metier.road.rendered import instruction_text
from metier.road.run import open_session
from metier.road.session import Session
from metier.road.workspace import Workspace

if TYPE_CHECKING:
    from metier.ledger import RowHistory

__all__ = ["Diagnosis", "ShownRow", "Status", "diagnose", "history_of", "open_chat", "read_status", "show_row"]

MIN_ID_CHARACTERS = 8
"""A number of fewer digits is a place among the train rows, not the beginning of an id."""
BEFORE_ARMS, AFTER_ARMS = ("ground", "split", "plan", "seal", "tune"), ("look", "report")
NOT_ALWAYS = {"rehearsal": "plan", "search": "plan", "pairs": "tune", "tune-dpo": "tune"}
"""Stages that only some projects have, each with the one it is told after."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownRow:
    """A row as the tuned model is trained on it."""

    row_id: str
    part: str
    segments: tuple[tuple[str, bool], ...]
    """Text and whether its tokens are trained."""
    num_tokens: int
    num_trained: int
    source: str

    def as_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        return {**asdict(self), "segments": [{"text": text, "trained": trained} for text, trained in self.segments]}

    def as_text(self, *, colour: bool) -> str:
        """The row with trained tokens marked: inverse on a terminal, else between [[ and ]]."""
        start, end = ("\x1b[7m", "\x1b[0m") if colour else ("[[", "]]")
        body = "".join(f"{start}{text}{end}" if trained else text for text, trained in self.segments)
        head = f"{self.row_id} ({self.part}, {self.source}): {self.num_trained} of {self.num_tokens} tokens trained"
        return f"{head}\n{body}"


def show_row(project_dir: Path, config: ProjectConfig, wanted: str) -> ShownRow:
    """A train or dev row by the beginning of its id, or by its number among the train rows.

    Raises:
        DataError: no such row, several, or one of the hold-out, which is never shown.
    """
    from metier.render import show

    with open_session(project_dir, config, what="metier show") as session:
        parts = cut_rows(session, read_and_check(session))
        named = [("train", row) for row in parts.train] + [("dev", row) for row in parts.dev]
        if wanted.isdigit() and int(wanted) < len(parts.train):
            found = [named[int(wanted)]]
        else:
            found = [(part, row) for part, row in named if row.row_id.startswith(wanted)]
        if len(found) != 1:
            raise DataError(
                f"row {wanted!r}: {len(found)} rows of train and dev begin so; expected one. Give a number below "
                f"{len(parts.train)} or more of the id; rows of the hold-out are never shown."
            )
        part, row = found[0]
        tuned = next(arm for arm in config.arm if arm.kind == "tuned")
        renderings = session.renderer.train_rows(row, instruction_text(tuned, session.wordings))
        return ShownRow(
            row_id=row.row_id,
            part=part,
            segments=tuple(segment for rendered in renderings for segment in show(session.renderer, rendered)),
            num_tokens=sum(len(rendered.tokens) for rendered in renderings),
            num_trained=sum(rendered.num_trained for rendered in renderings),
            source=f"{row.meta.source}:{row.meta.source_row}",
        )


def history_of(project_dir: Path, config: ProjectConfig, wanted: str) -> RowHistory:
    """Everything that happened to a row, by the beginning of one of its ids, or by its number among the train rows.

    Raises:
        DataError: no recorded row, or several.
    """
    from metier.ledger import row_history

    with open_session(project_dir, config, what="metier show --history") as session:
        if wanted.isdigit() and len(wanted) < MIN_ID_CHARACTERS:
            parts = cut_rows(session, read_and_check(session))
            if int(wanted) < len(parts.train):
                wanted = parts.train[int(wanted)].origin_id
        return row_history(session.ledger, wanted)


def open_chat(project_dir: Path, config: ProjectConfig) -> Callable[[str], dict[str, str]]:
    """A function from a message to the replies of base and tuned model, each as the newest report judged it.

    Raises:
        StoreError: no finished run, so no tuned model.
        ModelError: base, adapter or the tuned model's instruction is not what the report judged.
    """
    report_path = Workspace(project_dir).report_dir / "report.json"
    if not report_path.exists():
        raise StoreError(f"{report_path}: no finished run, so no tuned model yet. Run: metier run -C {project_dir}")
    report = read_json(report_path)
    model = report["model"]
    with open_session(project_dir, config, what="metier chat") as session:
        _require_judged_base(session, model)
        _require_not_retired(session, model)
        session.dtype = model["dtype"]
        instructions = {"base": _judged_wording(session, report), "tuned": _judged_instruction(session, report)}
        handles = {"base": session.handle, "tuned": session.tuned_handle(project_dir / model["adapter_path"])}
        repliers = {
            name: Replier(handle, session.renderer, model["max_reply_tokens"]) for name, handle in handles.items()
        }
        _require_judged_tuned(session, report, repliers["tuned"], instructions["tuned"])

    def talk(message: str) -> dict[str, str]:
        row = _asked(message)
        return {
            name: replier.reply([row], [with_instruction(row, instructions[name])])[0].text
            for name, replier in repliers.items()
        }

    return talk


def _require_judged_base(session: Session, model: Mapping[str, Any]) -> None:
    """Refuse a base other than the one under the adapter: its replies would be of a model nobody judged."""
    if session.base.base_sha256 != model["base_sha256"]:
        raise ModelError(
            f"[base] names {session.base.name} ({session.base.base_sha256[:12]}), but the newest report judged "
            f"{model['base']} ({model['base_sha256'][:12]}). Set [base] back to that one, or run again: "
            f"metier run -C {session.project_dir}"
        )


def _require_not_retired(session: Session, model: Mapping[str, Any]) -> None:
    """Refuse a model that an erasure retired: it saw rows of a person who is gone."""
    from metier.ledger import ModelState, find_model

    if find_model(session.ledger, model["id"]).state is ModelState.RETIRED:
        raise ModelError(
            f"model {model['id'][:12]} was retired: it was trained on a row that was erased since. Train it anew: "
            f"metier run -C {session.project_dir}"
        )


def _judged_wording(session: Session, report: Mapping[str, Any]) -> str | None:
    """The wording the prompted base was judged with, from its stage; today's first where none ran or it is gone."""
    ran = [arm["name"] for arm in report["arms"] if arm["kind"] == "prompt" and arm["status"] == "ran"]
    stages = report["provenance"]["stages"]
    for name in (f"arm-{arm}" for arm in ran):
        path = session.workspace.stage_dir(name, stages[name]) / "arm.json"
        if path.exists():
            instruction: str = read_json(path)["described"]["instruction"]
            return instruction
    return next(iter(session.wordings.values()), None)


def _judged_instruction(session: Session, report: Mapping[str, Any]) -> str | None:
    """What every request to the tuned arm carried, by the report; the setting of today does not matter."""
    carried = next(arm["carries_instruction"] for arm in report["arms"] if arm["kind"] == "tuned")
    return instruction_text(ArmConfig(kind="tuned", instruction=carried), session.wordings)


def _require_judged_tuned(
    session: Session, report: Mapping[str, Any], replier: Replier, instruction: str | None
) -> None:
    """Refuse a tuned model whose adapter, or whose instruction's text, was edited since it was judged."""
    name = next(arm["name"] for arm in report["arms"] if arm["kind"] == "tuned")
    stage_dir = session.workspace.stage_dir(f"arm-{name}", report["provenance"]["stages"][f"arm-{name}"])
    judged = read_json(stage_dir / "arm.json")["fingerprint"]
    found = TunedArm(name, lambda: replier, instruction).fit((), (), seed=0).fingerprint
    if found != judged:
        raise ModelError(
            f"the tuned model with its instruction is {found[:12]}, but the newest report judged {judged[:12]}: the "
            f"adapter or the guidelines were edited since. Restore them, or run again: metier run -C "
            f"{session.project_dir}"
        )


def _asked(message: str) -> Row:
    """A row around one message of a person at the terminal; it is stored nowhere."""
    messages = (Message(role=Role.USER, content=message),)
    return make_row(b"terminal", messages=messages, meta=Meta(source="terminal", source_row=0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """How far a project is."""

    stages: dict[str, str]
    """finished, unfinished or not begun, by stage."""
    verdict: str
    report: str
    running: bool

    def as_json(self) -> dict[str, Any]:
        """The status as JSON values."""
        return asdict(self)

    def as_text(self) -> str:
        """The status for a person."""
        width = max(8, *map(len, self.stages))
        lines = [f"{name:<{width}} {state}" for name, state in self.stages.items()]
        lines.append(f"{'verdict':<{width}} {self.verdict or 'none yet'}")
        if self.running:
            lines.append("a metier process is at work in this project")
        return "\n".join(lines)


def read_status(project_dir: Path, config: ProjectConfig) -> Status:
    """Which stages have a finished or an unfinished folder, and the newest verdict; takes no lock."""
    import fcntl

    del config  # a status is told of what lies there, whatever the settings say now
    workspace = Workspace(project_dir)
    stages_dir = workspace.root / "stages"
    arms = sorted(folder.name for folder in stages_dir.glob("arm-*/"))
    stages = {}
    begun = [name for name in NOT_ALWAYS if any((stages_dir / name).glob("*/"))]
    before = [each for name in BEFORE_ARMS for each in (name, *(at for at in begun if NOT_ALWAYS[at] == name))]
    for name in (*before, *arms, *AFTER_ARMS):
        folders = sorted((stages_dir / name).glob("*/"))
        done = [folder for folder in folders if (folder / "done.json").exists()]
        stages[name] = "finished" if done else ("unfinished" if folders else "not begun")
    running = False
    if workspace.lock_path.exists():
        with workspace.lock_path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                running = True
    report_path = workspace.report_dir / "report.json"
    verdict = read_json(report_path)["verdict"]["sentence"] if report_path.exists() else ""
    page = workspace.report_dir / "index.html"
    return Status(stages=stages, verdict=verdict, report=str(page) if page.exists() else "", running=running)


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What a machine offers."""

    facts: dict[str, str]
    missing: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The diagnosis as JSON values."""
        return {"facts": self.facts, "missing": list(self.missing)}

    def as_text(self) -> str:
        """The diagnosis for a person."""
        lines = [f"{name:<16} {value}" for name, value in self.facts.items()]
        lines += [f"missing: {text}" for text in self.missing] or ["nothing is missing"]
        return "\n".join(lines)


def diagnose() -> Diagnosis:
    """Processor, memory, disk, torch, product precision and the model cache."""
    import torch

    from metier.models import cache_dir, known_models

    cache = cache_dir()
    place = next(path for path in (cache, *cache.parents) if path.exists())
    free_gib = shutil.disk_usage(place).free / 1024**3
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3
    capability = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace") if sys.platform == "linux" else ""
    fast = "AMX" if "amx_bf16" in flags else ("AVX512-BF16" if "avx512_bf16" in flags else "none")
    missing = []
    if free_gib < 2:
        missing.append(f"{free_gib:.1f} GiB free for models in {cache}; 2 GiB are needed. Set METIER_CACHE elsewhere.")
    if memory_gib < 6:
        missing.append(f"{memory_gib:.1f} GiB of memory; the default model needs 6 GiB to be tuned.")
    return Diagnosis(
        facts={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cpu": f"{len(os.sched_getaffinity(0))} cores, {capability}, bf16 products: {fast}",
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
            "memory": f"{memory_gib:.1f} GiB",
            "model cache": f"{cache} ({free_gib:.0f} GiB free)",
            "models": ", ".join(sorted(known_models())),
        },
        missing=tuple(missing),
    )
