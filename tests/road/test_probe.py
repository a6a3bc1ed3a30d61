"""The canary probe of a run: which values count, what they are compared with, and what a tuned tiny model gives away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metier.core.project_file import load_project_file
from metier.core.rows import Message, Meta, Role, Row, make_row
from metier.curate import find_private
from metier.curate.contacts import without_private
from metier.evaluate.exposure import Exposure
from metier.models import make_tiny_model
from metier.render import Renderer
from metier.road import probe
from metier.road.cut import cut_rows
from metier.road.ground import read_and_check
from metier.road.plan import make_plan
from metier.road.probe import CanarySource, draw_canaries, find_trained_values, probe_exposure
from metier.road.run import open_session
from metier.road.tuning import Tuning
from tests.road.running import one_core
from tests.road.small_project import LEAN, rows, write_project

KEY = b"project key"
ROLES = {"s": Role.SYSTEM, "u": Role.USER, "a": Role.ASSISTANT}


def talk(*turns: str, number: int = 0, subjects: tuple[str, ...] = (), untrained: Sequence[int] = ()) -> Row:
    """A cleaned row of turns such as "u: Where is it?"."""
    messages = tuple(
        Message(role=ROLES[turn[0]], content=turn[3:], train=False if i in untrained else None)
        for i, turn in enumerate(turns)
    )
    meta = Meta(source="t", source_row=number, subjects=subjects, groups={"customer": f"c{number}"})
    return without_private(make_row(KEY, messages=messages, meta=meta), frozenset(), KEY)


def found(*of: Row, instruction: str = "") -> CanarySource:
    return find_trained_values(of, key=KEY, instruction=instruction)


def counts(source: CanarySource) -> tuple[int, int, list[str]]:
    return source.num_values, source.num_copied, [value.hit.kind for value in source.values]


def test_a_value_that_only_the_reply_holds_is_a_canary() -> None:
    source = found(talk("u: How do I reach you?", "a: Write to ana@firm.example or ring 030 1234567."))
    assert counts(source) == (2, 0, ["email", "phone"])
    (mail, _) = source.values
    assert mail.messages[-1].content[mail.hit.start : mail.hit.end] == mail.hit.text
    assert mail.hit.text != "ana@firm.example", "cleaning has put a surrogate there"


@pytest.mark.parametrize(
    ("turns", "instruction"),
    [
        (("u: I am ana@firm.example.", "a: Thank you, ana@firm.example."), ""),
        (("u: I am ANA@firm.example.", "a: Thank you, ana@firm.example."), ""),
        (("u: Ring +49 30 1234567.", "a: We ring 030 1234567."), ""),
        (("s: Mail is ana@firm.example.", "u: Where?", "a: At ana@firm.example."), ""),
        (("u: Who?", "a: x", "u: I am ana@firm.example", "a: So ana@firm.example."), ""),
    ],
)
def test_a_value_that_can_be_read_before_its_place_is_counted_as_copied(
    turns: tuple[str, ...], instruction: str
) -> None:
    assert counts(found(talk(*turns), instruction=instruction)) == (1, 1, [])


def test_a_value_of_the_instruction_and_one_that_the_reply_repeats_are_read_and_not_remembered() -> None:
    row = talk("u: Where?", "a: At ana@firm.example, I say ana@firm.example.")
    (first,) = found(row).values
    assert first.hit.start == row.gold.index(first.hit.text), "the first mention is the canary"
    assert counts(found(row, instruction=f"Mail {first.hit.text}.")) == (1, 1, [])


def test_a_value_that_stands_earlier_in_the_reply_inside_other_text_can_be_read_there() -> None:
    texts = ((Role.USER, "Who?"), (Role.ASSISTANT, "See x0301234567y, or ring 030 1234567."))
    messages = tuple(Message(role=role, content=text) for role, text in texts)
    row = make_row(KEY, messages=messages, meta=Meta(source="t", source_row=0))
    assert counts(find_trained_values([row], key=None)) == (1, 1, [])


def test_one_place_where_it_cannot_be_read_makes_a_value_a_canary_once() -> None:
    copied = talk("u: I am ana@firm.example.", "a: Thank you, ana@firm.example.", number=1)
    free = talk("u: Who?", "a: It is ana@firm.example.", number=2)
    source = found(copied, free, talk("u: Where?", "a: At ana@firm.example.", number=3))
    assert counts(source) == (1, 0, ["email"])
    assert source.values[0].place == 1


def test_only_trained_turns_count_and_each_sees_what_came_before_it() -> None:
    row = talk("u: Who?", "a: Me, ana@firm.example.", "u: And?", "a: Ring 030 1234567.", untrained=[1])
    source = found(row)
    assert counts(source) == (1, 0, ["phone"])
    assert len(source.values[0].messages) == 4
    earlier = found(talk("u: Who?", "a: Me, ana@firm.example.", "u: And?", "a: Again ana@firm.example."))
    assert counts(earlier) == (1, 0, ["email"])
    assert len(earlier.values[0].messages) == 2


def test_a_row_without_a_trained_turn_holds_no_value() -> None:
    assert counts(found(talk("u: Who?", "a: ana@firm.example", untrained=[1]))) == (0, 0, [])
    assert counts(found(talk("u: Who are you, ana@firm.example?"))) == (0, 0, [])


def test_a_declared_person_is_found_under_the_name_that_cleaning_gave() -> None:
    row = talk("u: Who has it?", "a: It lies with Ms Silva.", subjects=("Ana Silva",))
    assert "Silva" not in row.gold
    assert counts(found(row)) == (1, 0, ["name"])
    assert find_trained_values([row], key=None).values == [], "the declared name itself is gone"
    known = talk("u: I am Ana Silva.", "a: Dear Ms Silva!", subjects=("Ana Silva",))
    assert counts(found(known)) == (1, 1, [])


def test_the_organisations_own_contact_is_no_canary() -> None:
    told = [talk("u: Where?", "a: Ring 030 1234567, any time.", number=i) for i in range(6)]
    assert counts(found(*told)) == (0, 0, [])
    assert counts(found(*told[:4])) == (1, 0, ["phone"])


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return Renderer(make_tiny_model(tmp_path_factory.mktemp("m") / "m", texts=["x"], vocab_size=259, num_layers=1))


def test_references_are_other_values_of_the_kind_that_no_row_holds(renderer: Renderer) -> None:
    of = [
        talk(
            "u: How?",
            f"a: Write to p{i}@firm.example or ring 030 12345{i:02d}, Ms Silva.",
            number=i,
            subjects=("Ana Silva",),
        )
        for i in range(4)
    ]
    source = found(*of)
    first = {canary.value: canary for canary, _ in draw_canaries(source, renderer, corpus=of, groups="abcd", seed=1)}
    assert len(first) == len(source.values) == 9
    for value, canary in first.items():
        assert len({value, *canary.references}) == probe.NUM_REFERENCES + 1
        for reference in canary.references:
            reply = canary.reply.content[: canary.start] + reference + canary.reply.content[canary.end :]
            subjects = (reference,) if canary.kind == "name" else ()
            assert (canary.kind, canary.start) in {(hit.kind, hit.start) for hit in find_private(reply, subjects)}
    # Rows that hold some of the references: they are not drawn again.
    taken = next(canary for canary in first.values() if canary.kind == "email").references[:3]
    told = [Message(role=Role.USER, content=f"I am {mail.upper()}.") for mail in taken]
    more = [*of, *(make_row(KEY, messages=(said,), meta=Meta(source="u", source_row=0)) for said in told)]
    again = {canary.value: canary for canary, _ in draw_canaries(source, renderer, corpus=more, groups="abcd", seed=1)}
    assert set(again) == set(first)
    assert not {reference for canary in again.values() for reference in canary.references} & set(taken)


def test_the_groups_of_the_rows_are_those_of_the_canaries(renderer: Renderer) -> None:
    of = [talk("u: How?", f"a: Write to p{i}@firm.example.", number=i) for i in range(3)]
    drawn = draw_canaries(found(*of), renderer, corpus=of, groups=["x", "y", "z"], seed=1)
    replies = {canary.reply.content: canary.group for canary, _ in drawn}
    assert replies == {of[0].gold: "x", of[1].gold: "y", of[2].gold: "z"}


def test_the_cost_is_bounded_and_long_rows_are_passed_over(renderer: Renderer) -> None:
    of = [talk("u: How?", f"a: Write to p{i}@firm.example.", number=i) for i in range(60)]
    long = talk("u: " + "word " * 400, "a: Write to q@firm.example.", number=99)
    source = found(*of, long)
    drawn = list(draw_canaries(source, renderer, corpus=of, groups=["g"] * 61, seed=1))
    assert 0 < sum(len(row.tokens) for _, each in drawn for row in each) <= probe.MAX_TOKENS
    assert len(drawn) <= probe.MAX_CANARIES
    assert all(len(canary.prompt[0].content) < 100 for canary, _ in drawn)
    assert list(draw_canaries(found(long), renderer, corpus=of, groups=["g"], seed=1)) == []
    other = list(draw_canaries(source, renderer, corpus=of, groups=["g"] * 61, seed=2))
    assert [canary.value for canary, _ in drawn] != [canary.value for canary, _ in other]


TUNED = (
    LEAN.replace("passes = 1.0", "passes = 15.0").replace("lr = 0.002", "lr = 0.01").replace("evals = 2", "evals = 1")
)


def records() -> list[dict[str, str]]:
    """Replies with a number of the customer's own; every third prompt holds it too. An early one is too long to train."""
    made = []
    for i, record in enumerate(rows(90)):
        phone = f"030 45{i:02d}7{i:02d}"
        ask = f"{record['ask']} {phone}" if i % 3 == 0 else record["ask"]
        made.append({**record, "ask": ask, "answer": f"{record['answer']} We ring {phone}."})
    made[4] = {**made[4], "ask": made[4]["ask"] + " and so on" * 300}
    return made


def number_of(row: Row) -> str:
    """The telephone number in a cleaned reply."""
    return row.gold.partition("We ring ")[2].rstrip(".")


@pytest.fixture(scope="module")
def tuned_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project_dir = tmp_path_factory.mktemp("probe") / "project"
    return write_project(
        project_dir, text=TUNED.replace("rank = 4", "rank = 16\nmax_row_tokens = 512"), records=records()
    )


def probed(project_dir: Path, said: list[str] | None = None) -> tuple[Exposure, Any, list[Row]]:
    """The probe after the tuning of a project, the plan's tuning, and the train rows."""
    heard = [] if said is None else said
    with one_core(), open_session(
        project_dir, load_project_file(project_dir), what="test", watcher=lambda tick: heard.append(tick.text)
    ) as session:  # fmt: skip
        parts = cut_rows(session, read_and_check(session))
        tuning = Tuning(session, parts, make_plan(session, parts))
        return probe_exposure(session, parts, tuning), tuning.stage, parts.train


def test_a_model_tuned_too_long_is_found_to_have_memorised_its_rows(tuned_project: Path) -> None:
    said: list[str] = []
    exposure, _, train = probed(tuned_project, said)
    trained = [row for row in train if len(row.prompt_text) < 1000]
    copied = [row for row in trained if number_of(row) in row.prompt_text]
    assert len(trained) == len(train) - 1
    assert 0 < len(copied) < len(trained)
    assert (exposure.num_values, exposure.num_copied) == (len(trained), len(copied))
    assert exposure.kinds == {"phone": exposure.num_canaries}
    assert 5 <= exposure.num_canaries <= probe.MAX_CANARIES
    assert exposure.num_references == probe.NUM_REFERENCES
    assert exposure.gain_low is not None
    assert exposure.gain_low > 0
    assert exposure.sentence.endswith("it memorised private values of its training rows.")
    assert exposure.sentence in said
    assert 0 < exposure.seconds < 60
    # A second call reads the stage: the same seconds; and nothing it wrote names a value.
    again, _, _ = probed(tuned_project)
    assert again == exposure
    (stored,) = (tuned_project / ".metier" / "stages" / "probe").glob("*/exposure.json")
    assert not [row for row in train if number_of(row) in stored.read_text(encoding="utf-8")]


def test_a_run_without_private_values_says_why_nothing_is_measured(lean: Path) -> None:
    exposure, _, _ = probed(lean)
    assert exposure == replace(
        Exposure(sentence="Canary probe: not measured: no private value stands in trained text."),
        seconds=exposure.seconds,
    )


def test_values_that_all_stand_in_their_prompts_are_a_reason_of_their_own() -> None:
    source = CanarySource(values=[], num_values=14, num_copied=14)
    assert probe._why_none(source) == (
        "no private value is in trained text that is not also in its prompt (14 are in both, where a model can copy "
        "and needs no memory)."
    )
