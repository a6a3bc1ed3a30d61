"""What of a row is learned: its conversation as it is trained on, and which of its turns are replies to learn."""

from __future__ import annotations

from collections.abc import Sequence

from metier.core.errors import DataError
from metier.core.rows import Message, Role, Row, TargetKind

__all__ = ["RowProblem", "trained_turns", "training_messages", "with_instruction"]


class RowProblem(DataError):
    """A row that cannot be trained on, with its reason code; caught where rows are rendered."""

    code = "reply_unreadable"

    def __init__(self, sentence: str, code: str = "reply_unreadable") -> None:
        super().__init__(sentence)
        self.code = code


def with_instruction(messages: Sequence[Message], instruction: str | None) -> tuple[Message, ...]:
    """The messages with the instruction as system message in front; a standing one follows it in the same message."""
    if not instruction:
        return tuple(messages)
    if messages and messages[0].role is Role.SYSTEM:
        merged = messages[0].model_copy(update={"content": f"{instruction}\n\n{messages[0].content}"})
        return (merged, *messages[1:])
    return (Message(role=Role.SYSTEM, content=instruction), *messages)


def training_messages(row: Row) -> tuple[Message, ...]:
    """The conversation a row trains on: as it stands, or its prompt and gold where the gold lies in the target.

    Raises:
        DataError: the row has no reply to learn.
    """
    if row.target.kind is TargetKind.REPLY:
        last = row.messages[-1] if row.messages else None
        if last is None or last.role is not Role.ASSISTANT:
            found = "no messages" if last is None else f"a last message of role {last.role.value}"
            raise RowProblem(f"row {row.row_id}: {found}; expected an assistant message to learn.", "no_trained_tokens")
        return row.messages
    if not row.gold:
        raise RowProblem(
            f"row {row.row_id}: its target of kind {row.target.kind.value} is empty; expected a text to learn.",
            "no_trained_tokens",
        )
    return (*row.prompt, Message(role=Role.ASSISTANT, content=row.gold))


def trained_turns(row_id: str, messages: Sequence[Message]) -> list[int]:
    """Places of the assistant messages that are trained: all but those marked `train=false`.

    An assistant message before any user or tool message answers nothing; it is trained only when
    asked for, and then refused.

    Raises:
        DataError: such a message is marked `train=true`.
    """
    turns = []
    asked = False
    for place, message in enumerate(messages):
        asked = asked or message.role in (Role.USER, Role.TOOL)
        if message.role is not Role.ASSISTANT or message.train is False:
            continue
        if not asked:
            if message.train:
                raise RowProblem(
                    f"row {row_id}: message {place} is marked train=true but answers nothing; expected a user message "
                    "before it."
                )
            continue
        turns.append(place)
    return turns
