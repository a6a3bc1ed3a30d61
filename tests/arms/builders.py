"""Rows, graders and a tiny model for the tests of the arms."""

from collections.abc import Callable

from metier.conventions import CheckResult
from metier.core.rows import Message, Meta, Role, Row, Target, TargetKind, make_row
from metier.evaluate import Grader


def row(prompt: str, gold: str, *, number: int = 0, label: bool = False, system: str = "") -> Row:
    front = (Message(role=Role.SYSTEM, content=system),) if system else ()
    messages = (*front, Message(role=Role.USER, content=prompt))
    meta = Meta(source="t.jsonl", source_row=number)
    if label:
        return make_row(b"key", messages=messages, meta=meta, target=Target(kind=TargetKind.LABEL, label=gold))
    return make_row(b"key", messages=(*messages, Message(role=Role.ASSISTANT, content=gold)), meta=meta)


def rows(pairs: list[tuple[str, str]], *, label: bool = False) -> list[Row]:
    return [row(prompt, gold, number=i, label=label) for i, (prompt, gold) in enumerate(pairs)]


def grader(measure: Callable[[Row, str], float]) -> Grader:
    return Grader(
        metric="own", unit="share", binary=False, pass_mark=0.5, conventions=(),
        measure=lambda row, text, _: CheckResult(measure(row, text), "wrong"),
    )  # fmt: skip


EXACT = grader(lambda row, text: float(text == row.gold))


def with_golds(asked: list[Row], gold: str) -> list[Row]:
    """The same prompts with another gold."""
    label = asked[0].target.kind is TargetKind.LABEL
    return [row(r.prompt_text, gold, number=i, label=label) for i, r in enumerate(asked)]
