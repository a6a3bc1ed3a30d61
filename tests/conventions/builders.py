"""Rows and checks for the tests of conventions and evaluation."""

from pathlib import Path
from typing import Any

from metier.conventions import Convention, make_conventions
from metier.core.rows import Message, Meta, Role, Row, Target, TargetKind, ToolCall, make_row
from metier.core.settings import ConventionConfig


def row(
    prompt: str = "Where is order 4411?",
    gold: str = "Dear Ana, order 4411 is on its way.",
    *,
    number: int = 1,
    system: str = "",
    label: str | None = None,
    attributes: dict[str, str] | None = None,
    calls: tuple[ToolCall, ...] = (),
    **more: Any,
) -> Row:
    front = (Message(role=Role.SYSTEM, content=system),) if system else ()
    target = Target(kind=TargetKind.LABEL, label=label) if label is not None else None
    return make_row(
        b"key",
        messages=(
            *front,
            Message(role=Role.USER, content=prompt),
            Message(role=Role.ASSISTANT, content=gold, tool_calls=calls),
        ),
        meta=Meta(source="t.jsonl", source_row=number, attributes=attributes or {}, groups=more.pop("groups", {})),
        target=target,
        **more,
    )


def convention(check: str, args: dict[str, Any] | None = None, project_dir: Path = Path(), **fields: Any) -> Convention:
    config = ConventionConfig(name="rule", check=check, args=args or {}, **fields)
    return make_conventions([config], project_dir)[0]


def passes(check: str, args: dict[str, Any], text: str, on: Row | None = None) -> bool:
    """Whether a reply scores 1; a score below 1 must come with a sentence, 1 with none."""
    result = convention(check, args).check(on or row(), text)
    assert 0 <= result.score <= 1
    assert bool(result.why) == (result.score < 1)
    assert result.why == "" or result.why[0].isupper()
    assert result.why == "" or result.why.endswith(".")
    return result.score == 1


def why(check: str, args: dict[str, Any], text: str, on: Row | None = None) -> str:
    return convention(check, args).check(on or row(), text).why
