"""How checks look at text: spacing folded, whole words, the texts of a row, and how they are quoted in sentences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from metier.core.hashing import canonical_json
from metier.core.rows import Role, Row

__all__ = ["asked_text", "bounded", "fold", "gold_reply", "listed", "prompt_text", "row_name", "shown", "words"]


def fold(text: str) -> str:
    """The text in Unicode NFC with every run of white space as one space, ends stripped."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def words(text: str) -> list[str]:
    """The white-space separated pieces with at least one letter or digit."""
    return [piece for piece in text.split() if any(c.isalnum() for c in piece)]


def bounded(text: str) -> str:
    """A pattern for the text as whole words: "12" is found in "12 items", not in "112", "12.50" or "A12"."""
    inner = r"\s+".join(re.escape(piece) for piece in text.split())
    before = r"(?<!\w)(?<!\d[.,])" if text[:1].isalnum() else ""
    after = r"(?!\w)(?![.,]\d)" if text[-1:].isalnum() else ""
    return before + inner + after


def shown(text: str, limit: int = 60) -> str:
    """The text as it is quoted in a sentence: one line, control characters visible, cut at `limit`.

    A backslash stands once, so that a pattern reads as it was written.
    """
    return repr(text if len(text) <= limit else text[: limit - 3] + "...").replace("\\\\", "\\")


def listed(texts: Iterable[str], limit: int = 5) -> str:
    """Texts quoted and joined by commas; more than `limit` are counted."""
    items = [shown(text) for text in texts]
    rest = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + rest


def row_name(row: Row) -> str:
    """How errors name a row: the place it came from, as an editor opens it, and the id that `metier show` takes."""
    return f"{row.meta.source}:{row.meta.source_row} (row {row.row_id})"


def asked_text(row: Row) -> str:
    """What the user and the tools said in the prompt, one message a line."""
    return "\n".join(m.content for m in row.prompt if m.role in (Role.USER, Role.TOOL))


def prompt_text(row: Row) -> str:
    """Everything said in the prompt, system text and earlier replies included, one message a line."""
    return "\n".join(m.content for m in row.prompt)


def gold_reply(row: Row) -> str:
    """The gold reply as a model would write it: the row's gold text, and its tool calls as `<tool_call>` JSON."""
    last = row.messages[-1]
    if last.role is not Role.ASSISTANT or not last.tool_calls:
        return row.gold
    calls = [
        f"<tool_call>\n{canonical_json({'name': call.name, 'arguments': call.arguments}).decode()}\n</tool_call>"
        for call in last.tool_calls
    ]
    return "\n".join([row.gold, *calls] if row.gold else calls)
