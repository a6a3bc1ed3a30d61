"""The table the verdict is recomputed from."""

import math

import pytest

from metier.core.columns import parquet_bytes
from metier.core.errors import DataError
from metier.core.trials import Reply
from metier.evaluate import ScoreTable, group_ids, score_arm
from tests.conventions.builders import row
from tests.evaluate.builders import GREETING, TICKET, grader, tickets

ROWS = [
    row(
        f"Please look at T-{i}.",
        f"Dear T-{i}",
        number=i,
        attributes={"region": "ns"[i % 2], "name": "Ana"},
        groups=groups,
    )
    for i, groups in enumerate([{"customer": "c1"}, {"customer": "c1"}, {"customer": "c2"}, {}])
]


def replies(*texts):
    return [Reply(text=text, tokens_in=10 + i, tokens_out=3, seconds=0.5) for i, text in enumerate(texts)]


def scored(arm, *texts):
    return score_arm(ROWS, replies(*texts), grader([TICKET, GREETING], name="mean"), arm=arm)


GOOD, HALF = scored("tuned", "Dear T-0", "Dear T-1", "T-2", ""), scored("prompt", "T-0", "T-1", "Dear", "Dear")
TABLE = ScoreTable.build(ROWS, [GOOD, HALF], groups=group_ids(ROWS, "customer", key=b"k"), slices=["region"])


def test_an_arm_is_scored_with_its_means():
    assert (GOOD.mean, GOOD.num_rows) == (pytest.approx((1 + 1 + 0.75 + 0) / 4), 4)
    assert GOOD.checks == {"ticket": 0.75, "greeting": 0.5}


def test_an_arm_without_rows_has_no_mean():
    with pytest.raises(DataError, match="No rows to score the replies of tuned on; a mean of nothing is not 0"):
        score_arm([], [], grader([GREETING]), arm="tuned")
    with pytest.raises(DataError, match="1 replies for 2 rows"):
        score_arm(tickets(2), replies("x"), grader([GREETING]))


def test_the_table_comes_back_as_it_was_written():
    again = ScoreTable.from_parquet(TABLE.to_parquet())
    assert again == TABLE
    assert again.to_parquet() == TABLE.to_parquet()
    assert again.arms == ("tuned", "prompt")
    assert list(again.scores_of("tuned").values()) == [1.0, 1.0, 0.75, 0.0]
    assert list(again.scores_of("prompt", check="greeting").values()) == [0.0, 0.0, 1.0, 1.0]
    assert again.tokens_in[:2] == (10, 11)


def test_an_empty_table_keeps_its_columns():
    empty = ScoreTable.build([], [], groups=[])
    assert ScoreTable.from_parquet(empty.to_parquet()) == empty


def test_groups_are_keyed_and_rows_without_one_stand_alone():
    groups = group_ids(ROWS, "customer", key=b"k")
    assert groups[0] == groups[1] != groups[2]
    assert groups[3] == ROWS[3].row_id
    assert "c1" not in groups
    assert groups[0] != group_ids(ROWS, "customer", key=b"other")[0]
    assert TABLE.groups() == dict(zip([r.row_id for r in ROWS], groups, strict=True))


def test_only_named_attributes_reach_the_table():
    assert b"Ana" not in TABLE.to_parquet()
    assert TABLE.slice[:2] == ('{"region":"n"}', '{"region":"s"}')
    assert TABLE.in_slice("region", "n") == {ROWS[0].row_id, ROWS[2].row_id}
    assert TABLE.in_slice("region", "x") == frozenset()


def test_unknown_arms_and_conventions_are_errors():
    with pytest.raises(DataError, match="has no arm 'base'; it has: tuned, prompt"):
        TABLE.scores_of("base")
    with pytest.raises(DataError, match="has no convention 'x'; it has: ticket, greeting"):
        TABLE.scores_of("tuned", check="x")


def test_arms_of_other_rows_are_refused():
    with pytest.raises(DataError, match="arm 'tuned' was not scored on these 4 rows in this order"):
        ScoreTable.build(ROWS[::-1], [GOOD], groups=["g"] * 4)
    with pytest.raises(DataError, match="1 groups for 4 rows"):
        ScoreTable.build(ROWS, [GOOD], groups=["g"])


def columns(**changed):
    values = {
        "row_id": ["a", "b"], "arm": ["t", "t"], "score": [1.0, 0.0], "group": ["g", "g"], "slice": ["{}", "{}"],
        "tokens_in": [1, 1], "tokens_out": [1, 1], "seconds": [0.1, 0.1],
    }  # fmt: skip
    return values | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score": [1.2, 0.0]}, "column 'score' holds a value outside 0-1, or none"),
        ({"score": [math.nan, 0.0]}, "column 'score' holds a value outside 0-1, or none"),
        ({"score": [None, 0.0]}, "column 'score' holds a value outside 0-1, or none"),
        ({"check:x": [2.0, 0.0]}, "column 'check:x' holds a value outside 0-1"),
        ({"row_id": ["a", "a"]}, "2 scores of 1 arms on 1 rows; expected each arm once on each row"),
        ({"arm": ["t", "u"]}, "2 scores of 2 arms on 2 rows; expected each arm once on each row"),
        ({"text": ["x", "y"]}, r"has the unknown columns \['text'\]"),
    ],
)
def test_an_edited_table_that_is_not_one_is_refused(changed, message):
    with pytest.raises(DataError, match=message):
        ScoreTable.from_parquet(parquet_bytes(columns(**changed)))


def test_what_is_not_a_table_is_refused():
    values = columns()
    del values["group"]
    with pytest.raises(DataError, match=r"lacks the columns \['group'\]"):
        ScoreTable.from_parquet(parquet_bytes(values))
    with pytest.raises(DataError, match="scores.parquet cannot be read"):
        ScoreTable.from_parquet(TABLE.to_parquet()[:-40])
    with pytest.raises(DataError, match="column 'arm' has 0 values; expected 1"):
        ScoreTable(row_id=("a",), checks={})
