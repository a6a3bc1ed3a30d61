"""Repeated rows: one survivor for every set of copies, and labels that contradict one another.

    columns = DuplicateColumns.joined([duplicate_columns(chunk, key=key) for chunk in chunks])
    found = find_duplicates(columns, near_dup=0.8)
    found.reason(7), found.survivor_N[7]

Two rows are *exact* duplicates when everything a model may see or be graded by is equal after folding case, white
space and Unicode forms. They are *near*-duplicates when all of this holds:

- prompts and right answers both have a Jaccard similarity of word shingles of at least `near_dup`;
- without the text that very many rows share (`metier.curate.templates`), the rest of the one stands in the rest of the
  other to the same degree, and makes up at least half of it;
- neither has more than `MAX_OTHER` shingles that the other has not: in a long text a fifth is a whole message;
- the same words with digits stand in both prompts, and labels are equal.

So templated rows, equal but for an order number, a date or a few words in a long form, are different rows and survive,
and so do different questions about one document.

Clusters are stars: a row leaves only if it is itself a duplicate of its survivor. Never the closure over chains of
similar rows, which once reduced a source of 859,092 templated rows to 2 (docs/curate.md).
"""

# Shapes: N rows.

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from metier.core.rows import Row, TargetKind
from metier.core.shingles import Shingles, fold, mixed, shingles_of, text_codes, words
from metier.core.similarity import Compared, near_pairs, stars
from metier.core.table import Values, micros_of
from metier.curate.templates import own_shingles, template_shingles

__all__ = ["DuplicateColumns", "Duplicates", "duplicate_columns", "find_duplicates"]

MAX_OTHER = 12
"""Ten words in a row or four single words: more is a message of its own, however long what stands around it."""
REASONS = ("", "exact_duplicate", "near_duplicate")
_CHUNK_TEXTS = 50_000

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DuplicateColumns:
    """What decides about copies among N rows: 57 bytes a row, 8 a shingle of prompt and answer; no text but labels."""

    content_N2: Codes
    """128-bit keyed hash of all that two exact duplicates have in common."""
    prompts: Shingles
    answers: Shingles
    """Of the right answer, with the label or the rejected answer where a row has one."""
    values_N: Codes
    """Hash of the different words with digits in the prompt: order numbers, dates, amounts, references."""
    label: Values
    source: Values
    time_N: Ints
    """When the row was collected, as in `RowTable`."""
    preferred_N: Bools
    """Rows that survive before all others: those of a given test set."""

    def __len__(self) -> int:
        return len(self.values_N)

    def take(self, index: Ints) -> DuplicateColumns:
        """These rows, in their order."""
        if np.array_equal(index, np.arange(len(self))):
            return self  # shingles are large, and usually every row is still in
        return DuplicateColumns(
            content_N2=self.content_N2[index],
            prompts=self.prompts.take(index),
            answers=self.answers.take(index),
            values_N=self.values_N[index],
            label=self.label.take(index),
            source=self.source.take(index),
            time_N=self.time_N[index],
            preferred_N=self.preferred_N[index],
        )

    @staticmethod
    def joined(parts: Sequence[DuplicateColumns]) -> DuplicateColumns:
        """All rows of several parts, whose hashes were made with one key; at least one part is needed."""
        if len(parts) == 1:
            return parts[0]
        return DuplicateColumns(
            content_N2=np.concatenate([part.content_N2 for part in parts]),
            prompts=Shingles.joined([part.prompts for part in parts]),
            answers=Shingles.joined([part.answers for part in parts]),
            values_N=np.concatenate([part.values_N for part in parts]),
            label=Values.joined([part.label for part in parts]),
            source=Values.joined([part.source for part in parts]),
            time_N=np.concatenate([part.time_N for part in parts]),
            preferred_N=np.concatenate([part.preferred_N for part in parts]),
        )


def duplicate_columns(rows: Sequence[Row], *, key: bytes, preferred: Sequence[bool] | None = None) -> DuplicateColumns:
    """The columns of these rows; `key` is the project key, which every hash depends on."""
    prompts = [row.prompt_text for row in rows]
    content = b"".join(blake2b(_content(row), digest_size=16, key=key[:64]).digest() for row in rows)
    return DuplicateColumns(
        content_N2=np.frombuffer(content, dtype=np.uint64).reshape(-1, 2),
        prompts=shingles_of(prompts, key=key),
        answers=shingles_of([_answer(row) for row in rows], key=key),
        values_N=text_codes(map(_values, prompts), key=key),
        label=Values.of(row.target.label for row in rows),
        source=Values.of(row.meta.source for row in rows),
        time_N=np.asarray([micros_of(row.meta.collected_at) for row in rows], dtype=np.int64),
        preferred_N=np.asarray(preferred if preferred is not None else [False] * len(rows), dtype=bool),
    )


def _content(row: Row) -> bytes:
    """What two exact duplicates have in common: folded messages, tools and target."""
    target = row.target
    parts = [target.kind.value, *(fold(t or "") for t in (target.chosen, target.rejected, target.answer, target.label))]
    if row.tools:
        parts.append(json.dumps(row.tools, sort_keys=True))
    for message in row.messages:
        calls = [(call.name, call.arguments) for call in message.tool_calls]
        parts += [message.role.value, fold(message.content), json.dumps(calls, sort_keys=True) if calls else ""]
    # Lengths keep apart what would read the same once joined.
    return "".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "backslashreplace")


def _answer(row: Row) -> str:
    rejected = row.target.rejected if row.target.kind is TargetKind.PAIR else ""
    return "\n".join(part for part in (row.gold, rejected) if part)


def _values(prompt: str) -> str:
    if prompt.isascii() and not any(digit in prompt for digit in "0123456789"):
        return ""
    return " ".join(sorted({word for word in words(prompt) if any(map(str.isdigit, word))}))


@dataclass(frozen=True, slots=True, eq=False)
class Duplicates:
    """Which rows repeat which."""

    reason_N: npt.NDArray[np.int8]
    """Place of each row's reason in `REASONS`; 0 for a row that stays."""
    survivor_N: Ints
    """The row that stays in its place; -1 for a row that stays."""
    conflicting: Ints
    """Rows that stay whose label differs from that of another, with the same or a near-identical prompt, that stays."""

    def reason(self, row: int) -> str:
        """Why a row leaves; "" if it stays."""
        return REASONS[self.reason_N[row]]


def find_duplicates(columns: DuplicateColumns, near_dup: float) -> Duplicates:
    """The duplicates of every row that survives.

    The survivor is the newest row; without times, or at the same time, the first in the order given. Preferred rows
    survive before all others.
    """
    # ~ turns the order of times round, where minus would overflow at NO_TIME: the oldest of all.
    order = np.lexsort((~columns.time_N, ~columns.preferred_N))
    survivor_N = np.arange(len(columns))
    _first_of_each(order, (columns.content_N2[:, 0], columns.content_N2[:, 1]), survivor_N)
    exact_N = survivor_N != np.arange(len(columns))
    left = order[~exact_N[order]]
    prompt_N, answer_N = _set_codes(columns.prompts), _set_codes(columns.answers)
    block_N = mixed(columns.values_N + mixed(columns.label.code_N.astype(np.uint64)))
    # Equal shingles come first: copies that a form or a bot made many times cost nothing after this.
    filled = left[columns.prompts.size_N[left] > 0]
    _first_of_each(filled, (prompt_N, answer_N, block_N), survivor_N)
    left = filled[survivor_N[filled] == filled]
    compared = [
        Compared(texts, own_shingles(texts, template_shingles(texts, columns.source.code_N, left)))
        for texts in (columns.prompts, columns.answers)
    ]
    survivor_N[left] = left[stars(compared, near_dup, order=left, block=block_N, max_other=MAX_OTHER)]
    for _ in range(2):  # an exact copy of a copy of a near-copy: three steps at most
        survivor_N = survivor_N[survivor_N]
    gone_N = survivor_N != np.arange(len(columns))
    kept = left[~gone_N[left]]
    return Duplicates(
        np.where(exact_N, 1, np.where(gone_N, 2, 0)).astype(np.int8),
        np.where(gone_N, survivor_N, -1),
        _conflicting(columns, np.sort(kept), prompt_N, compared[0], near_dup),
    )


def _first_of_each(rows: Ints, codes: tuple[Codes, ...], survivor_N: Ints) -> None:
    """Send every row whose codes are all equal to those of an earlier one of `rows` to the first such."""
    by_code = np.lexsort((np.arange(len(rows)), *(code[rows] for code in codes)))
    ordered = rows[by_code]
    starts = np.ones(len(rows), dtype=bool)
    if len(rows):
        starts[1:] = np.any([code[ordered[1:]] != code[ordered[:-1]] for code in codes], axis=0)
    survivor_N[ordered] = ordered[np.flatnonzero(starts)[np.cumsum(starts) - 1]]


def _set_codes(texts: Shingles) -> Codes:
    """One hash of the set of shingles of each text."""
    code_N = np.zeros(len(texts), dtype=np.uint64)
    for low in range(0, len(texts), _CHUNK_TEXTS):
        start = texts.start_N[low : low + _CHUNK_TEXTS + 1]
        total = np.cumsum(mixed(texts.code_S[start[0] : start[-1]]), dtype=np.uint64)
        total = np.concatenate([np.zeros(1, dtype=np.uint64), total])
        code_N[low : low + _CHUNK_TEXTS] = np.diff(total[start - start[0]])
    return code_N


def _conflicting(columns: DuplicateColumns, kept: Ints, prompt_N: Codes, prompts: Compared, near_dup: float) -> Ints:
    """Kept rows with a label that another of the same or a near-identical prompt contradicts."""
    conflicting_N = np.zeros(len(columns), dtype=bool)
    label_N = columns.label.code_N
    kept = kept[label_N[kept] >= 0]
    if not len(kept) or (label_N[kept] == label_N[kept[0]]).all():
        return kept[:0]
    # Rows that ask the same with the same label fare alike: one stands for all of them.
    same_N = np.arange(len(columns))
    _first_of_each(kept, (prompt_N, columns.values_N, label_N.astype(np.uint64)), same_N)
    rows = kept[same_N[kept] == kept]
    for pairs in near_pairs(
        prompts.shingles, near_dup, rows=rows, block=columns.values_N, own_S=prompts.own_S, max_other=MAX_OTHER
    ):
        differ = label_N[pairs.first] != label_N[pairs.second]
        conflicting_N[pairs.first[differ]] = True
        conflicting_N[pairs.second[differ]] = True
    return kept[conflicting_N[same_N[kept]]]
