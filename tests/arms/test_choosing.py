from collections.abc import Callable, Sequence

import pytest

from metier.arms.choosing import choices_as_json, choices_from_json, choose_on_dev
from metier.core.errors import DataError
from metier.core.rows import Row
from metier.core.trials import Reply
from tests.arms.builders import grader, rows

DEV = rows([(str(i), "gold") for i in range(10)])
SCORE = grader(lambda row, text: float(text))
Say = Callable[[Sequence[Row]], list[Reply]]


def says(score_of: Callable[[int], float], seen: list[str] | None = None) -> Say:
    def reply(asked: Sequence[Row]) -> list[Reply]:
        if seen is not None:
            seen.extend(row.prompt_text for row in asked)
        return [Reply(text=str(score_of(int(r.prompt_text))), tokens_in=0, tokens_out=0, seconds=0) for r in asked]

    return reply


def test_the_best_wins_and_every_candidate_is_logged_with_its_rows() -> None:
    candidates = {
        "a": says(lambda i: 0.1),
        "b": says(lambda i: 0.9),
        "c": says(lambda i: 0.5),
        "d": says(lambda i: 0.2),
    }
    chosen = choose_on_dev(candidates, DEV, SCORE, screen_rows=4, finalists=2)
    assert chosen.name == "b"
    logged = [(c.name, round(c.score, 6), c.num_rows) for c in chosen.tried]
    assert logged == [("a", 0.1, 4), ("b", 0.9, 10), ("c", 0.5, 10), ("d", 0.2, 4)]


def test_the_final_score_is_over_all_dev_rows_not_the_screen() -> None:
    # Screened on rows 0, 3, 6, 9: "early" is perfect there and 0 elsewhere.
    candidates = {"early": says(lambda i: float(i % 3 == 0)), "steady": says(lambda i: 0.6)}
    chosen = choose_on_dev(candidates, DEV, SCORE, screen_rows=4)
    assert chosen.name == "steady"
    assert {c.name: round(c.score, 6) for c in chosen.tried} == {"early": 0.4, "steady": 0.6}


def test_ties_go_to_the_first_listed_even_when_the_screen_ranked_it_lower() -> None:
    # Both mean 0.4 over ten rows; the screen (rows 0, 3, 6, 9) shows only the second one's ones.
    first, second = says(lambda i: float(i in (1, 2, 4, 5))), says(lambda i: float(i % 3 == 0))
    assert choose_on_dev({"first": first, "second": second}, DEV, SCORE, screen_rows=4).name == "first"
    assert choose_on_dev({"second": second, "first": first}, DEV, SCORE, screen_rows=4).name == "second"


def test_screening_rows_are_spread_and_no_row_is_asked_twice() -> None:
    seen_a: list[str] = []
    seen_b: list[str] = []
    choose_on_dev(
        {"a": says(lambda i: 1, seen_a), "b": says(lambda i: 0, seen_b)}, DEV, SCORE, screen_rows=4, finalists=1
    )
    assert seen_b == ["0", "3", "6", "9"]
    assert sorted(seen_a) == [str(i) for i in range(10)]


def test_one_candidate_is_screened_for_the_log_only() -> None:
    chosen = choose_on_dev({"only": says(lambda i: 1)}, DEV, SCORE, screen_rows=4)
    assert (chosen.name, chosen.tried[0].num_rows) == ("only", 4)


def test_one_dev_row_is_enough() -> None:
    chosen = choose_on_dev({"a": says(lambda i: 0), "b": says(lambda i: 1)}, DEV[:1], SCORE)
    assert (chosen.name, [c.num_rows for c in chosen.tried]) == ("b", [1, 1])


@pytest.mark.parametrize(
    ("names", "num_dev", "said"), [(["a"], 0, "1 candidates and 0 dev rows"), ([], 3, "0 candidates and 3 dev rows")]
)
def test_nothing_to_choose_from_or_on_is_an_error(names: list[str], num_dev: int, said: str) -> None:
    with pytest.raises(DataError, match=f"choose_on_dev: {said}; need at least one each"):
        choose_on_dev({name: says(lambda i: 1) for name in names}, DEV[:num_dev], SCORE)


def test_choices_survive_json() -> None:
    tried = choose_on_dev({"a": says(lambda i: 0.5)}, DEV, SCORE).tried
    assert choices_from_json(choices_as_json(tried)) == tried
