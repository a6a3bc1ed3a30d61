"""Which prompts share a prefix, by hand and as a property."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from metier.engine.decode_plan import Group, entry_order, shared_length, shared_prefixes

HEAD = list(range(100, 200))


def test_shared_length_counts_equal_tokens_from_the_start() -> None:
    assert shared_length([1, 2, 3], [1, 2, 4]) == 2
    assert shared_length([1, 2], [1, 2, 4]) == 2
    assert shared_length([], [1]) == 0
    assert shared_length([5, 1, 1], [6, 1, 1]) == 0


def test_one_instruction_is_one_group() -> None:
    assert shared_prefixes([[*HEAD, 7], [*HEAD, 3, 4]]) == [Group(tuple(HEAD), [1, 0])]


def test_a_prefix_leaves_each_prompt_its_last_token() -> None:
    assert shared_prefixes([HEAD, [*HEAD, 3]]) == [Group(tuple(HEAD[:99]), [0, 1])]
    assert shared_prefixes([HEAD] * 3) == [Group(tuple(HEAD[:99]), [0, 1, 2])]


def test_a_prefix_that_saves_little_is_not_shared() -> None:
    assert shared_prefixes([[1, 2, 3], [1, 2, 4]]) == [Group((), [0, 1])]
    assert shared_prefixes([HEAD]) == [Group((), [0])]
    assert shared_prefixes([]) == []


def test_four_rows_with_a_longer_prefix_get_their_own() -> None:
    long = HEAD + list(range(300, 340))
    rows = [[*long, i] for i in range(4)] + [[*HEAD, 900 + i] for i in range(3)]
    assert shared_prefixes(rows) == [Group(tuple(HEAD), [4, 5, 6]), Group(tuple(long), [0, 1, 2, 3])]


def test_three_rows_with_a_longer_prefix_stay_with_the_others() -> None:
    long = HEAD + list(range(300, 340))
    rows = [[*long, i] for i in range(3)] + [[*HEAD, 900 + i] for i in range(3)]
    assert shared_prefixes(rows) == [Group(tuple(HEAD), [0, 1, 2, 3, 4, 5])]


def test_longest_prompts_enter_first_within_a_group() -> None:
    rows = [[*HEAD, 1], [*HEAD, 2, 3, 4], [*HEAD, 5, 6]]
    assert entry_order(rows, shared_prefixes(rows)) == [1, 2, 0]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9).map(lambda row: [i for i in row for _ in range(40)]))
)
def test_every_prompt_is_in_one_group_and_begins_with_its_prefix(rows: list[list[int]]) -> None:
    groups = shared_prefixes(rows)
    assert sorted(i for group in groups for i in group.members) == list(range(len(rows)))
    assert sorted(entry_order(rows, groups)) == list(range(len(rows)))
    for group in groups:
        for i in group.members:
            assert tuple(rows[i][: len(group.prefix)]) == group.prefix and len(group.prefix) < len(rows[i])
