"""Repeated rows: one survivor for every set of copies, and labels that contradict one another.

Two rows are *exact* duplicates when everything a model may see or be graded by is equal after folding case, white
space and Unicode forms. They are *near*-duplicates when their prompts and their right answers both have a Jaccard
similarity of word shingles of at least `near_dup`, and the same words with digits stand in both prompts. So templated
rows, equal but for an order number or a date, are different rows and survive, and so do different questions about one
document.

Clusters are stars: a row leaves only if it is itself a duplicate of its survivor. Never the closure over chains of
similar rows, which once reduced a source of 859,092 templated rows to 2 (docs/curate.md).
"""

# Shapes: N rows.

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from metier.core.rows import Row, TargetKind
from metier.core.similarity import Pairs, fold, near_pairs, shingle_matrix, words

__all__ = ["Duplicates", "find_duplicates"]


class Duplicates(NamedTuple):
    """Which rows repeat which."""

    survivor_of: dict[int, tuple[str, int]]
    """Reason (exact_duplicate, near_duplicate) and index of the survivor, by index of the row that leaves."""
    conflicting: frozenset[int]
    """Rows whose label differs from that of a row with the same or a near-identical prompt; they stay."""


def find_duplicates(rows: Sequence[Row], near_dup: float, preferred: Sequence[bool]) -> Duplicates:
    """The duplicates of every row that survives.

    The survivor is the newest row; without times, or at the same time, the first in the order given. Rows marked
    `preferred` (those of a given test set) survive before all others.
    """
    rank = sorted(range(len(rows)), key=lambda i: (not preferred[i], -_seconds(rows[i]), i))
    survivor_of: dict[int, tuple[str, int]] = {}
    first: dict[str, int] = {}
    for i in rank:
        survivor = first.setdefault(_content_key(rows[i]), i)
        if survivor != i:
            survivor_of[i] = ("exact_duplicate", survivor)
    left = [i for i in rank if i not in survivor_of]
    links, conflicting = _near_links([rows[i] for i in left], near_dup)
    kept: set[int] = set()
    for place, i in enumerate(left):  # best first, so a star grows around the best row only
        near = [j for j in links[place] if j in kept]
        if near:
            survivor_of[i] = ("near_duplicate", left[min(near)])
        else:
            kept.add(place)
    return Duplicates(survivor_of, frozenset(left[place] for place in conflicting))


def _seconds(row: Row) -> float:
    return row.meta.collected_at.timestamp() if row.meta.collected_at else float("-inf")


def _content_key(row: Row) -> str:
    """What two exact duplicates have in common: folded messages, tools and target."""
    messages = [
        (m.role, fold(m.content), [(c.name, json.dumps(c.arguments, sort_keys=True)) for c in m.tool_calls])
        for m in row.messages
    ]
    target = row.target
    answers = [fold(text or "") for text in (target.chosen, target.rejected, target.answer, target.label)]
    return json.dumps([messages, list(row.tools), target.kind, answers], sort_keys=True)


def _answer(row: Row) -> str:
    """The right answer as text, with the label where a reply has one too."""
    rejected = row.target.rejected if row.target.kind is TargetKind.PAIR else ""
    return "\n".join(part for part in (row.gold, rejected) if part)


def _values(row: Row) -> str:
    """The different words with digits in a prompt: order numbers, dates, amounts, references."""
    return " ".join(sorted({word for word in words(row.prompt_text) if any(char.isdigit() for char in word)}))


def _near_links(rows: Sequence[Row], near_dup: float) -> tuple[dict[int, list[int]], set[int]]:
    """For each row the earlier rows it nearly repeats, and the rows whose label contradicts a near-identical one's."""
    answers = shingle_matrix([_answer(row) for row in rows])
    labels = [row.target.label for row in rows]
    links: dict[int, list[int]] = defaultdict(list)
    conflicting: set[int] = set()
    prompts, values = [row.prompt_text for row in rows], [_values(row) for row in rows]
    for pairs in near_pairs(prompts, near_dup, block=values):
        for i, j, answer_similarity in zip(*_with_answers(pairs, answers), strict=True):
            if labels[i] != labels[j]:
                if labels[i] is not None and labels[j] is not None:
                    conflicting |= {i, j}
            elif answer_similarity >= near_dup:
                links[j].append(i)
    return links, conflicting


def _with_answers(pairs: Pairs, answers: Any) -> tuple[list[int], list[int], list[float]]:  # Any: a sparse matrix
    """The pairs with the exact similarity of their answers; two empty answers are alike."""
    import numpy as np

    first, second = pairs.first, pairs.second
    size = np.diff(answers.indptr)
    common = np.asarray(answers[first].multiply(answers[second]).sum(axis=1)) if len(first) else np.zeros(0)
    union = size[first] + size[second] - common
    similarity = np.where(union > 0, common / np.maximum(union, 1), 1.0)
    return first.tolist(), second.tolist(), similarity.tolist()
