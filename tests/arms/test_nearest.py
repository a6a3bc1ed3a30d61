import pytest

from metier.arms.nearest import NearestRows
from metier.arms.slots import masked
from metier.core.errors import DataError
from tests.arms.builders import row, rows

TRAIN = rows([("lamp broken", "a"), ("tent wet", "b"), ("lamp broken", "c"), ("flask leaks", "d")])


def golds(found: list[list]) -> list[list[str]]:
    return [[near.gold for near in line] for line in found]


def test_no_rows_to_index_is_an_error() -> None:
    with pytest.raises(DataError, match=r"NearestRows.build: 0 rows; expected at least one train row"):
        NearestRows.build([])


@pytest.mark.parametrize("analyzer", ["word", "char_wb"])
def test_equal_rows_are_found_in_index_order(analyzer: str) -> None:
    index = NearestRows.build(TRAIN, analyzer=analyzer)
    assert golds(index.nearest([row("the lamp is broken", "?"), row("wet tent", "?")], 2)) == [["a", "c"], ["b", "a"]]


def test_many_equal_rows_are_found_in_index_order() -> None:
    index = NearestRows.build(rows([("lamp", str(i)) if i % 2 else ("tent", str(i)) for i in range(400)]))
    assert golds(index.nearest([row("lamp", "?")], 200)) == [[str(i) for i in range(1, 400, 2)]]


def test_one_row_is_found_whatever_is_asked_and_k_may_be_larger() -> None:
    assert golds(NearestRows.build(TRAIN[:1]).nearest([row("zzz", "?")], 5)) == [["a"]]


def test_no_rows_asked_gives_nothing() -> None:
    assert NearestRows.build(TRAIN).nearest([], 3) == []


@pytest.mark.parametrize("analyzer", ["word", "char_wb"])
def test_prompts_of_punctuation_are_told_apart(analyzer: str) -> None:
    index = NearestRows.build(rows([("!!!", "a"), ("???", "b")]), analyzer=analyzer)
    assert golds(index.nearest([row("???", "?")], 1)) == [["b"]]


def test_empty_prompts_can_be_indexed() -> None:
    assert golds(NearestRows.build(rows([("", "a")])).nearest([row("", "?")], 1)) == [["a"]]


def test_one_letter_words_and_digits_count() -> None:
    index = NearestRows.build(rows([("size 3 y", "a"), ("size 4 x", "b")]))
    assert golds(index.nearest([row("size 4", "?"), row("x", "?")], 1)) == [["b"], ["b"]]


def test_similarity_is_one_for_the_same_prompt_and_zero_for_another_world() -> None:
    near = NearestRows.build(TRAIN).ranked([row("lamp broken", "?")], 4)[0]
    assert [round(one.similarity, 6) for one in near] == [1, 1, 0, 0]


def test_a_masked_index_looks_past_names() -> None:
    train = rows([("lamp for Bo Ek", "lamp"), ("tent for Ana Lima", "tent")])
    asked = [row("lamp for Ana Lima", "?")]
    assert golds(NearestRows.build(train).nearest(asked, 1)) == [["tent"]]
    assert golds(NearestRows.build(train, read=masked).nearest(asked, 1)) == [["lamp"]]
