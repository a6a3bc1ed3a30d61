"""The page of the alternatives states the numbers of the code."""

from __future__ import annotations

from pathlib import Path

from metier.arms.choosing import FINALISTS, SCREEN_ROWS

PAGE = (Path(__file__).parents[2] / "docs" / "arms.md").read_text(encoding="utf-8")


def test_the_page_says_how_many_rows_screen_and_how_many_candidates_go_on() -> None:
    words = {2: "two", 3: "three", 4: "four"}
    text = " ".join(PAGE.split())
    assert f"answers {SCREEN_ROWS} dev rows spread evenly over dev; the best {words[FINALISTS]} answer the rest" in text
