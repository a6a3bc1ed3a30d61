"""Annotations of Label Studio read as votes; rows go out to it in `metier.curate.label_tasks`.

What is read of a task; everything else in the file is ignored::

    {
        "id": 12,
        "data": {"row_id": "91ab", "prompt": "Where is order 4411?", "reply": "Dear Ana, ..."},
        "annotations": [
            {
                "id": 34,
                "completed_by": 7,
                "lead_time": 12.5,
                "created_at": "2026-03-01T09:30:00Z",
                "was_cancelled": false,
                "ground_truth": false,
                "result": [
                    {"from_name": "label", "to_name": "prompt", "type": "choices", "value": {"choices": ["refund"]}}
                ],
            }
        ],
    }

Read are exports of the kind "JSON", not JSON-MIN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from metier.core.config import nearest
from metier.core.errors import ConfigError, DataError
from metier.core.hashing import canonical_json
from metier.core.votes import Vote, vote_time
from metier.curate.read import Failure

__all__ = ["CONTROLS", "ImportedVotes", "read_label_studio"]

MAX_BYTES = 256 << 20
CONTROLS = ("choices", "rating", "number", "textarea", "taxonomy")
"""Kinds of answer that are read as votes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedVotes:
    """What was in a file; every annotation is in exactly one of the counts, or reading stops."""

    votes: list[Vote]
    gold: dict[str, str]
    """Row id -> answer of the annotations marked as ground truth; they are known answers, not votes."""
    failed: list[Failure]
    """What could not be read; a task that fails takes its annotations with it."""
    num_tasks: int
    num_annotations: int
    num_failed: int
    """Annotations lost to a failure of theirs or of their task."""
    num_ground_truth: int
    num_cancelled: int
    """Skipped by the annotator."""
    num_empty: int
    """Without an answer to the question that was read."""
    num_repeated: int
    """The same annotation again."""
    num_predictions: int
    """Of models; never read, and no annotations."""
    num_untimed: int
    """Votes without `lead_time`: their seconds are unknown, never 0."""

    def __post_init__(self) -> None:
        counted = (
            len(self.votes) + self.num_failed + self.num_ground_truth + self.num_cancelled + self.num_empty
            + self.num_repeated
        )  # fmt: skip
        if counted != self.num_annotations:
            raise DataError(
                f"reading lost annotations: {counted} counted of {self.num_annotations}. This is a defect of metier; "
                "please report it."
            )


class _Wrong(Exception):
    """What is wrong with one task or annotation: found, expected, do."""


def read_label_studio(
    path: Path,
    *,
    known_rows: Container[str],
    control: str = "",
    guideline_version: str = "",
    names: Mapping[str, str] | None = None,
) -> ImportedVotes:
    """The votes of one export; `control` is the `from_name` to read, needed where a task asks several questions.

    A task belongs to the row in `data.row_id`, else in `meta.row_id`. The annotator is the id of `completed_by` (its
    e-mail address where it has no id), renamed by `names`. The time is `updated_at`, else `created_at`, so that an
    annotation that was corrected is a newer vote. Several choices are one value: their sorted JSON list.

    Raises:
        DataError: the file cannot be read, is no JSON, or is no list of tasks.
        ConfigError: `control` is not in the file, or is needed and not given.
    """
    tasks = _tasks(path)
    reader = _Reader(path.name, known_rows, _control(path.name, tasks, control), guideline_version, names or {})
    for number, task in enumerate(tasks, start=1):
        reader.take(task, number)
    return reader.result(len(tasks))


def _tasks(path: Path) -> list[Any]:  # Any: JSON values
    """The list in the file, its parts not yet looked at."""
    where = path.name
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_BYTES:
            raise DataError(f"{where}: {num_bytes >> 20} MiB; expected at most {MAX_BYTES >> 20} MiB. Export in parts.")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as err:
        raise DataError(f"{where}: cannot be read ({err.strerror}). Check the file.") from err
    except UnicodeDecodeError as err:
        raise DataError(f"{where}: byte {err.start + 1} is not UTF-8; expected UTF-8. Export the file again.") from err
    try:
        tasks = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as err:
        raise DataError(
            f"{where}:{err.lineno}: broken JSON at character {err.colno} ({err.msg}); expected a Label Studio export. "
            "Export it again as JSON."
        ) from err
    except (RecursionError, ValueError) as err:
        raise DataError(f"{where}: no plain JSON ({err}); expected a Label Studio export. Export it again.") from err
    if not isinstance(tasks, list):
        raise DataError(f"{where}: a JSON {_kind(tasks)}; expected a list of tasks. Export the project as JSON.")
    if any(isinstance(task, dict) and "annotation_id" in task and "annotations" not in task for task in tasks):
        raise DataError(
            f"{where}: this is JSON-MIN, which loses time and id; expected JSON. Export the project as JSON."
        )
    return tasks


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the value {name}")


def _kind(value: Any) -> str:  # Any: a JSON value
    """How messages name the type of a JSON value."""
    if value is None:
        return "null"
    names = {dict: "object", list: "list", str: "text", bool: "true or false"}
    return names.get(type(value), "number")


def _results(task: Any) -> Iterable[Mapping[str, Any]]:  # Any: JSON values
    """Every answer in a task that has the form of one."""
    annotations = task.get("annotations") if isinstance(task, dict) else None
    for annotation in annotations if isinstance(annotations, list) else ():
        results = annotation.get("result") if isinstance(annotation, dict) else None
        for result in results if isinstance(results, list) else ():
            if isinstance(result, dict) and isinstance(result.get("from_name"), str):
                yield result


def _control(where: str, tasks: list[Any], control: str) -> str:  # Any: JSON values
    """The question to read: the one given, or the only one there is."""
    seen = sorted({result["from_name"] for task in tasks for result in _results(task)})
    if not seen:
        return control
    if control and control not in seen:
        raise ConfigError(f"{where}: no answer to {control!r} (control); {nearest(control, seen)}")
    if not control and len(seen) > 1:
        raise ConfigError(
            f"{where}: answers to {len(seen)} questions ({', '.join(seen)}); expected one. Name the one to read with "
            "control."
        )
    return control or seen[0]


@dataclass(slots=True)
class _Reader:
    """Votes and failures so far, with what must be known across tasks."""

    file: str
    known_rows: Container[str]
    control: str
    guideline_version: str
    names: Mapping[str, str]
    votes: list[Vote] = field(default_factory=list)
    gold: dict[str, str] = field(default_factory=dict)
    failed: list[Failure] = field(default_factory=list)
    num: dict[str, int] = field(default_factory=dict)
    by_id: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    by_time: dict[tuple[str, str, str], Vote] = field(default_factory=dict)

    def count(self, what: str, num: int = 1) -> None:
        self.num[what] = self.num.get(what, 0) + num

    def take(self, task: Any, number: int) -> None:  # Any: a JSON value
        """Read one task; `number` is its place in the file."""
        annotations: list[Any] = []  # Any: JSON values
        where = f"{self.file}: task number {number}"
        try:
            if not isinstance(task, dict):
                raise _Wrong(f"a JSON {_kind(task)}; expected an object. Export the project as JSON.")
            if task.get("id") is not None:
                where = f"{self.file}: task {task['id']}"
            found = task.get("annotations")
            if not isinstance(found, list):
                raise _Wrong(f"annotations is {_kind(found)}; expected a list. Export the project as JSON.")
            annotations = found
            predictions = task.get("predictions")
            self.count("predictions", len(predictions) if isinstance(predictions, list) else 0)
            row_id = self._row_id(task)
        except _Wrong as err:
            self.failed.append(Failure(where, str(err)))
            self.count("failed", len(annotations))
            self.count("annotations", len(annotations))
            return
        for annotation in annotations:
            self.count("annotations")
            try:
                self.count(self._read(annotation, row_id, where))
            except _Wrong as err:
                name = annotation.get("id") if isinstance(annotation, dict) else None
                self.failed.append(Failure(f"{where}, annotation {'without id' if name is None else name}", str(err)))
                self.count("failed")

    def _row_id(self, task: Mapping[str, Any]) -> str:  # Any: JSON values
        places = [task.get("data"), task.get("meta")]
        found = [place["row_id"] for place in places if isinstance(place, dict) and place.get("row_id")]
        if not found:
            raise _Wrong("no data.row_id and no meta.row_id; expected the id of a row. Export tasks with metier first.")
        if len(set(map(str, found))) > 1:
            raise _Wrong(
                f"data.row_id is {found[0]!r} and meta.row_id {found[1]!r}; expected one row. Correct the task."
            )
        row_id = str(found[0])
        if row_id not in self.known_rows:
            raise _Wrong(
                f"row {row_id!r} is not in this project; expected the id of a recorded row. Import into the project "
                "the task came from, or leave it out."
            )
        return row_id

    def _read(self, annotation: Any, row_id: str, where: str) -> str:  # Any: a JSON value
        """Read one annotation; returns the count it belongs to."""
        if not isinstance(annotation, dict):
            raise _Wrong(f"a JSON {_kind(annotation)}; expected an object. Export the project as JSON.")
        if self._is_repeated(annotation, where):
            return "repeated"
        if annotation.get("was_cancelled"):
            return "cancelled"
        value = _answer(annotation, self.control)
        if not value:
            return "empty"
        if annotation.get("ground_truth"):
            first = self.gold.setdefault(row_id, value)
            if first != value:
                raise _Wrong(
                    f"ground truth is {value!r}, and {first!r} in another annotation of the row; expected one known "
                    "answer. Unmark one of them."
                )
            return "ground_truth"
        who = _annotator(annotation.get("completed_by"))
        vote = Vote(
            row_id=row_id, annotator=self.names.get(who, who), value=value, at=_time(annotation),
            guideline_version=self.guideline_version, seconds=_seconds(annotation.get("lead_time")),
        )  # fmt: skip
        first_vote = self.by_time.setdefault((row_id, vote.annotator, vote.at), vote)
        if first_vote is not vote:
            if first_vote.value == value:
                return "repeated"
            raise _Wrong(
                f"annotator {vote.annotator} says {value!r}, and {first_vote.value!r} at the same time; expected one "
                "answer at one time. Remove one of the two."
            )
        self.votes.append(vote)
        self.count("untimed", vote.seconds is None)
        return "votes"

    def _is_repeated(self, annotation: Mapping[str, Any], where: str) -> bool:  # Any: JSON values
        """Whether the same annotation was read before; the same id with other content is refused."""
        name = annotation.get("id")
        if name is None:
            return False
        content = canonical_json(annotation)
        first_where, first = self.by_id.setdefault(str(name), (where, content))
        if first_where == where and first is content:
            return False
        if first == content:
            return True
        raise _Wrong(
            f"the id stands already at {first_where.partition(': ')[2]} with other content; expected one annotation an "
            "id. Remove one of the two."
        )

    def result(self, num_tasks: int) -> ImportedVotes:
        """All that was read."""
        names = ("annotations", "failed", "ground_truth", "cancelled", "empty", "repeated", "predictions", "untimed")
        counts = {f"num_{name}": self.num.get(name, 0) for name in names}
        return ImportedVotes(votes=self.votes, gold=self.gold, failed=self.failed, num_tasks=num_tasks, **counts)


def _annotator(completed_by: Any) -> str:  # Any: a JSON value
    """The id of an annotator, whether it stands alone or in an object; the e-mail address only where there is no id."""
    found = completed_by
    if isinstance(completed_by, dict):
        found = completed_by.get("id") if completed_by.get("id") is not None else completed_by.get("email")
    if isinstance(found, bool) or not isinstance(found, int | str) or found == "":
        raise _Wrong(
            f"completed_by is {_kind(completed_by)} without an id; expected a user's id or an object with one. Export "
            "again with annotators."
        )
    return str(found)


def _time(annotation: Mapping[str, Any]) -> str:  # Any: JSON values
    """When the annotation was last changed."""
    found = annotation.get("updated_at") or annotation.get("created_at")
    try:
        return vote_time(datetime.fromisoformat(found)) if isinstance(found, str) else _no_time(found)
    except (ValueError, OverflowError) as err:
        raise _Wrong(f"the time {found!r} is none; expected ISO 8601 in updated_at or created_at. Correct it.") from err


def _no_time(found: Any) -> NoReturn:  # Any: a JSON value
    raise _Wrong(f"updated_at and created_at are {_kind(found)}; expected a time. Export again as JSON.")


def _number(value: Any) -> float | None:  # Any: a JSON value
    """A finite number; None for everything else, whole numbers too large for a float included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _seconds(lead_time: Any) -> float | None:  # Any: a JSON value
    """Seconds spent; None where the file has none."""
    if lead_time is None:
        return None
    seconds = _number(lead_time)
    if seconds is None or seconds < 0:
        raise _Wrong(f"lead_time is {lead_time!r}; expected seconds, 0 or more, or nothing. Correct it or take it out.")
    return seconds


def _answer(annotation: Mapping[str, Any], control: str) -> str:  # Any: JSON values
    """The value of an annotation's answer as text; empty where the question was not answered."""
    results = annotation.get("result")
    if not isinstance(results, list):
        raise _Wrong(f"result is {_kind(results)}; expected a list. Export the project as JSON.")
    own = [result for result in results if isinstance(result, dict) and result.get("from_name") == control]
    if not own:
        return ""
    if len(own) > 1:
        raise _Wrong(f"{len(own)} answers to {control!r}; expected one a task, not one a region. Ask it once a task.")
    kind, value = own[0].get("type"), own[0].get("value")
    if kind not in CONTROLS:
        raise _Wrong(f"an answer of type {kind!r}; expected {', '.join(CONTROLS)}. Ask with one of these.")
    content = value.get("text" if kind == "textarea" else kind) if isinstance(value, dict) else None
    text = _text_of(kind, content)
    if text is None:
        raise _Wrong(f"a {kind} whose value is {_kind(content)}; expected its answer. Export the project as JSON.")
    return text


def _text_of(kind: str, content: Any) -> str | None:  # Any: a JSON value
    """One spelling for every kind of answer; None where the content has not its form."""
    if kind in ("rating", "number"):
        number = _number(content)
        return None if number is None else f"{number:.15g}"
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list):
        return None
    if kind == "taxonomy":
        parts = [" / ".join(map(str, path)) if isinstance(path, list) else path for path in parts]
    if not all(isinstance(part, str) for part in parts):
        return None
    if kind == "textarea":
        return "\n".join(parts).strip()
    return parts[0] if len(parts) == 1 else canonical_json(sorted(parts)).decode() if parts else ""
