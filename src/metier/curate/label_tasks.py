"""Rows as tasks of Label Studio, and the labelling interface for a set of labels.

    >>> tasks = tasks_of(rows, votes_of(ledger))
    >>> write_json(Path("tasks.json"), tasks)
    >>> Path("labels.xml").write_text(labelling_config(["refund", "delivery"]))

A task holds the row's id, its prompt and its reply. No metadata goes out: no subject, customer, source or attribute.
What annotators say comes back through `metier.curate.label_studio`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree

from metier.core.errors import ConfigError
from metier.core.rows import Message, Row, TargetKind
from metier.core.votes import Vote

__all__ = ["labelling_config", "tasks_of"]

DEFAULT_CONTROL = "label"


def tasks_of(
    rows: Iterable[Row], votes: Iterable[Vote] = (), *, control: str = DEFAULT_CONTROL
) -> list[dict[str, Any]]:  # Any: JSON values
    """Rows as tasks for Label Studio, with the votes on them as annotations of choices.

    A row whose target is a label goes out without it: who sees an answer repeats it. Votes on other rows are left out.
    """
    by_row: dict[str, list[Vote]] = {}
    for vote in votes:
        by_row.setdefault(vote.row_id, []).append(vote)
    return [
        {
            "data": {"row_id": row.row_id, "prompt": _conversation(row.prompt), "reply": _shown_reply(row)},
            "annotations": [_annotation(vote, control) for vote in by_row.get(row.row_id, ())],
        }
        for row in rows
    ]


def _conversation(messages: Sequence[Message]) -> str:
    """A single message as it is; several with the name of who speaks."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role.value}: {message.content}" for message in messages)


def _shown_reply(row: Row) -> str:
    return "" if row.target.kind is TargetKind.LABEL else row.gold


def _annotation(vote: Vote, control: str) -> dict[str, Any]:  # Any: JSON values
    who = int(vote.annotator) if vote.annotator.isdecimal() else {"email": vote.annotator}
    answer = {"from_name": control, "to_name": "prompt", "type": "choices", "value": {"choices": [vote.value]}}
    return {
        "completed_by": who, "created_at": vote.at, "updated_at": vote.at, "lead_time": vote.seconds,
        "was_cancelled": False, "ground_truth": False, "result": [answer],
    }  # fmt: skip


def labelling_config(labels: Sequence[str], *, control: str = DEFAULT_CONTROL) -> str:
    """The labelling interface of tasks made by `tasks_of`, as Label Studio's XML: one label of a set.

    Raises:
        ConfigError: fewer than two labels, or one that is empty or stands twice.
    """
    if len(labels) < 2 or len(set(labels)) != len(labels) or not all(label.strip() for label in labels):
        raise ConfigError(
            f"labels are {list(labels)}; expected two or more, none empty, none twice. Name the label set."
        )
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Header", value="Prompt")
    ElementTree.SubElement(view, "Text", name="prompt", value="$prompt")
    ElementTree.SubElement(view, "Header", value="Reply")
    ElementTree.SubElement(view, "Text", name="reply", value="$reply")
    choices = ElementTree.SubElement(view, "Choices", name=control, toName="prompt", choice="single", required="true")
    for label in labels:
        ElementTree.SubElement(choices, "Choice", value=label)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")
