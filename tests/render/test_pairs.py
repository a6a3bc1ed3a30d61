"""Pairs as tokens: one prompt, two replies, only the replies trained; what cannot be trained on is left out whole."""

from __future__ import annotations

from typing import Any

import pytest

from metier.core.errors import DataError
from metier.core.rows import Message, Role, Row, Target, TargetKind
from metier.render import RenderedPair, Renderer, render_pairs
from tests.render.builders import row


def pair(*turns: tuple[str, str] | Message, chosen: str, rejected: str | None, number: int = 0) -> Row:
    target = Target(kind=TargetKind.PAIR, chosen=chosen, rejected=rejected)
    return row(*turns, ("assistant", chosen), number=number, target=target)


def trained(renderer: Renderer, rendered: Any) -> str:
    """The text of the trained tokens."""
    marked = [token for token, value in zip(rendered.tokens, rendered.weight, strict=True) if value]
    return renderer.template.decode(marked)


def only(renderer: Renderer, asked: Row, **options: Any) -> RenderedPair:
    (kept,) = render_pairs(renderer, [asked], max_row_tokens=200, **options).kept
    return kept


def test_both_sides_share_the_prompt_and_train_their_last_reply_alone(tiny: Renderer) -> None:
    asked = pair(
        ("system", "Be kind."), ("user", "Where is it?"), ("assistant", "Which one?"), ("user", "4411."),
        chosen="It left on Monday.", rejected="No idea.",
    )  # fmt: skip
    found = only(tiny, asked)
    assert trained(tiny, found.chosen) == "It left on Monday.<|im_end|>"
    assert trained(tiny, found.rejected) == "No idea.<|im_end|>"
    prompt = tiny.prompt_tokens(asked.messages[:-1])
    for side in found.rows:
        assert side.tokens[: len(prompt)] == prompt
        assert side.row_id == asked.row_id
    assert found.num_tokens == len(found.chosen.tokens) + len(found.rejected.tokens)


def test_an_instruction_stands_before_both_sides(tiny: Renderer) -> None:
    found = only(tiny, pair(("user", "Hi"), chosen="Yes.", rejected="No."), instruction="Answer briefly.")
    for side in found.rows:
        assert tiny.template.decode(side.tokens).startswith("<|im_start|>system\nAnswer briefly.<|im_end|>\n")


def test_a_reply_that_was_cut_off_does_not_train_its_end(tiny: Renderer) -> None:
    asked = pair(("user", "Hi"), chosen="Yes.", rejected="It left on")
    found = only(tiny, asked, unfinished={asked.row_id})
    assert trained(tiny, found.rejected) == "It left on"
    assert trained(tiny, found.chosen) == "Yes.<|im_end|>"


def test_pairs_that_cannot_be_trained_on_are_left_out_whole_with_their_reason(tiny: Renderer) -> None:
    rows = [
        pair(("user", "Hi"), chosen="Yes.", rejected="It left on Monday. " * 30, number=0),
        pair(("user", "Hi"), chosen="It left on Monday. " * 30, rejected="No.", number=1),
        pair(("user", "Hi"), chosen="Yes.", rejected="Yes.", number=2),
        pair(("user", "Hi"), chosen="Yes.", rejected="No.", number=3),
        pair(("user", "Hi"), chosen="Yes. ", rejected="Yes.", number=4),
        pair(("user", "Hi"), chosen="Yes.", rejected="", number=5),
    ]
    found = render_pairs(tiny, rows, max_row_tokens=100)
    reasons = [found.dropped.get(each.row_id, "") for each in rows]
    assert reasons == ["too_many_tokens", "too_many_tokens", "identical_replies", "", "", ""]
    assert [each.row_id for each in found.kept] == [rows[i].row_id for i in (3, 4, 5)]
    assert trained(tiny, found.kept[2].rejected) == "<|im_end|>", "saying nothing is a reply that ends at once"
    assert found.num_read == len(found.kept) + len(found.dropped) == 6


def test_an_empty_reply_that_was_cut_has_nothing_to_train(tiny: Renderer) -> None:
    asked = pair(("user", "Hi"), chosen="Yes.", rejected="")
    found = render_pairs(tiny, [asked], max_row_tokens=100, unfinished={asked.row_id})
    assert found.dropped == {asked.row_id: "identical_replies"}


def test_a_row_that_is_no_pair_is_refused_by_name(tiny: Renderer) -> None:
    asked = row(("user", "Hi"), Message(role=Role.ASSISTANT, content="Yes."))
    with pytest.raises(
        DataError, match=f"row {asked.row_id}: of kind reply, its chosen reply missing; expected a pair"
    ):
        render_pairs(tiny, [asked], max_row_tokens=100)
    half = pair(("user", "Hi"), chosen="Yes.", rejected=None)
    with pytest.raises(DataError, match="of kind pair, its rejected reply missing"):
        render_pairs(tiny, [half], max_row_tokens=100)
    assert render_pairs(tiny, [], max_row_tokens=100).kept == []
