"""Which prompts share a prefix, and in what order they enter: pure functions of the prompt list.

    >>> shared_prefixes([[1, 2, 3, 9], [1, 2, 3, 8]], min_saved=1)
    [Group(prefix=(1, 2, 3), members=[1, 0])]

Nothing here looks at a clock or at what was decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Group", "entry_order", "shared_length", "shared_prefixes"]

MIN_SAVED = 64
"""Prompt tokens a shared prefix must save; below that the extra products of each step cost more."""
MIN_SPLIT_ROWS = 4
"""A longer prefix of a part of the rows is worth its own products from this many rows up."""
MIN_SPLIT_TOKENS = 32
"""... and from this many tokens beyond the prefix of all."""


class Group(NamedTuple):
    """Prompts (positions in the list) that begin with `prefix`; an empty prefix shares nothing."""

    prefix: tuple[int, ...]
    members: list[int]


def shared_length(one: Sequence[int], two: Sequence[int]) -> int:
    """Tokens two sequences have in common from the start."""
    low, high = 0, min(len(one), len(two))
    while low < high:  # bisection over slices: compared in C
        middle = (low + high + 1) // 2
        if one[low:middle] == two[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def shared_prefixes(prompts: Sequence[Sequence[int]], *, min_saved: int = MIN_SAVED) -> list[Group]:
    """Groups that cover every prompt once, longest prefixes where enough rows share them.

    A prefix never takes a prompt's last token, which has to be read to answer it.
    """
    order = sorted(range(len(prompts)), key=lambda i: (tuple(prompts[i]), i))
    if not order:
        return []
    ordered = [tuple(prompts[i]) for i in order]
    common = [shared_length(one, two) for one, two in pairwise(ordered)]
    groups: list[Group] = []
    stack = [(0, len(order))]
    while stack:
        low, high = stack.pop()
        shortest = min(len(prompt) for prompt in ordered[low:high])
        length = min([*common[low : high - 1], shortest - 1])
        cuts = [i + 1 for i in range(low, high - 1) if common[i] == length]
        pieces = list(zip([low, *cuts], [*cuts, high], strict=True))
        rest: list[int] = []
        for start, end in pieces:
            longer = min(common[start : end - 1], default=0)
            if end - start >= MIN_SPLIT_ROWS and longer - length >= MIN_SPLIT_TOKENS and (start, end) != (low, high):
                stack.append((start, end))
            else:
                rest += order[start:end]
        if rest:
            is_worth_it = length * (len(rest) - 1) >= min_saved
            groups.append(Group(ordered[low][:length] if is_worth_it else (), rest))
    return sorted(groups, key=lambda group: group.prefix)


def entry_order(prompts: Sequence[Sequence[int]], groups: Sequence[Group]) -> list[int]:
    """Positions in the order of entering: group by group, longest prompt first.

    Equal lengths side by side keep attention free of padding; the longest first keeps the last
    rows of a call, which decode in a small batch, short.
    """
    return [i for group in groups for i in sorted(group.members, key=lambda i: (-len(prompts[i]), i))]
