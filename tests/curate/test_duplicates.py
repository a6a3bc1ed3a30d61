"""Copies by column: who leaves, for whom, and why; what a template hides and what it does not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from metier.core.rows import Message, Meta, Role, Row, Target, TargetKind, ToolCall, make_row
from metier.core.shingles import fold, shingles_of, words
from metier.curate import templates
from metier.curate.duplicates import DuplicateColumns, Duplicates, duplicate_columns, find_duplicates
from metier.curate.templates import own_shingles, template_shingles

KEY = b"project"
DAY = datetime(2026, 1, 1, tzinfo=UTC)
FORM = (
    "dear service desk please open a ticket for the person named below and tell the team that keeps the list the "
    "approval of the line manager was given in writing and is attached the change is wanted for"
)


def row(prompt: str, reply: str = "It is on its way to you.", number: int = 0, **more: Any) -> Row:
    label, is_label = more.pop("label", None), more.pop("is_label", False)
    day = more.pop("day", None)
    return make_row(
        KEY,
        messages=(Message(role=Role.USER, content=prompt), Message(role=Role.ASSISTANT, content=reply)),
        target=Target(kind=TargetKind.LABEL if is_label else TargetKind.REPLY, label=label),
        meta=Meta(
            source=more.pop("source", "rows.jsonl"),
            source_row=number,
            collected_at=None if day is None else DAY + timedelta(days=day),
        ),
        **more,
    )


def found_in(rows: Sequence[Row], preferred: Sequence[bool] | None = None, near_dup: float = 0.8) -> Duplicates:
    return find_duplicates(duplicate_columns(rows, key=KEY, preferred=preferred), near_dup)


def gone(found: Duplicates) -> dict[int, tuple[str, int]]:
    return {i: (found.reason(i), int(j)) for i, j in enumerate(found.survivor_N) if j >= 0}


def jaccard(left: str, right: str) -> float:
    def parts(text: str) -> set[tuple[str, ...]]:
        found = words(text)
        found += [""] * (3 - len(found)) if found else []
        return {tuple(found[i : i + 3]) for i in range(len(found) - 2)}

    a, b = parts(left), parts(right)
    return 1.0 if not a | b else len(a & b) / len(a | b)


def near(a: Row, b: Row) -> bool:
    """What makes two rows near-duplicates, but for templates, which these rows are too few to make."""

    def numbers(row: Row) -> set[str]:
        return {word for word in words(row.prompt_text) if any(char.isdigit() for char in word)}

    return bool(
        a.target.label == b.target.label
        and numbers(a) == numbers(b)
        and words(a.prompt_text)
        and jaccard(a.prompt_text, b.prompt_text) >= 0.8
        and jaccard(a.gold, b.gold) >= 0.8
    )


def one_by_one(rows: Sequence[Row], preferred: Sequence[bool]) -> dict[int, tuple[str, int]]:
    """The rules of the module's docstring, row by row."""

    def rank(i: int) -> tuple[bool, float, int]:
        time = rows[i].meta.collected_at
        return not preferred[i], -time.timestamp() if time else float("inf"), i

    order = sorted(range(len(rows)), key=rank)
    content: dict[str, int] = {}
    leaves: dict[int, tuple[str, int]] = {}
    kept: list[int] = []
    for i in order:
        text = str([rows[i].target.kind, rows[i].target.label, [fold(m.content) for m in rows[i].messages]])
        first = content.setdefault(text, i)
        better = [j for j in kept if near(rows[i], rows[j])]
        if first != i:
            leaves[i] = ("exact_duplicate", leaves[first][1] if first in leaves else first)
        elif better:
            leaves[i] = ("near_duplicate", better[0])
        else:
            kept.append(i)
    return leaves


def some_rows(num: int, seed: int) -> tuple[list[Row], list[bool]]:
    rng = random.Random(seed)
    vocabulary = [*(f"w{chr(97 + i)}" for i in range(20)), "4411", "4412"]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(0, 14))) for _ in range(num // 4)]
    rows = []
    for number in range(num):
        prompt, reply = rng.choice(texts), rng.choice(texts[:6])
        if rng.random() < 0.6:
            prompt = rng.choice([prompt.upper(), f"{prompt}!", f"{prompt} wz", prompt.partition(" ")[2]])
        day = rng.choice([None, 1, 2, 3])
        rows.append(row(prompt, reply, number, day=day, label=rng.choice([None, None, "a", "b"])))
    return rows, [rng.random() < 0.1 for _ in rows]


@pytest.mark.parametrize("seed", range(6))
def test_columns_find_what_the_rules_say_row_by_row(seed: int) -> None:
    rows, preferred = some_rows(160, seed)
    found = gone(found_in(rows, preferred))
    assert found == one_by_one(rows, preferred)
    assert {reason for reason, _ in found.values()} == {"exact_duplicate", "near_duplicate"}


def test_columns_of_chunks_are_the_columns_of_all_rows() -> None:
    rows, preferred = some_rows(90, 11)
    parts = [duplicate_columns(rows[i : i + 40], key=KEY, preferred=preferred[i : i + 40]) for i in (0, 40, 80)]
    assert gone(find_duplicates(DuplicateColumns.joined(parts), 0.8)) == gone(found_in(rows, preferred))
    some = np.arange(5, 60)
    taken = find_duplicates(DuplicateColumns.joined(parts).take(some), 0.8)
    assert gone(taken) == gone(found_in(rows[5:60], preferred[5:60]))


def test_a_copy_of_a_copy_names_the_row_that_stays() -> None:
    text = "the lamp came with a broken foot and the box was open so I want to send it back to you please"
    rows = [
        row(f"{text}!", day=1),
        row(f"{text.upper()}!", day=1),  # exactly the first
        row(text, day=2),  # the same shingles as the first
        row(f"{text} thanks", day=3),  # near all of them
        row("where is it", day=9),
    ]
    assert gone(found_in(rows)) == {
        0: ("near_duplicate", 3),
        1: ("exact_duplicate", 3),
        2: ("near_duplicate", 3),
    }


def test_the_newest_survives_and_a_preferred_row_before_it() -> None:
    rows = [row("where is it", day=day) for day in (None, 1, 3, 3)]
    assert gone(found_in(rows)) == dict.fromkeys((0, 1, 3), ("exact_duplicate", 2))
    assert gone(found_in(rows, [True, False, False, False])) == dict.fromkeys((1, 2, 3), ("exact_duplicate", 0))


def test_rows_that_differ_in_tools_calls_or_roles_are_not_exact_duplicates() -> None:
    def called(arguments: dict[str, Any], tools: tuple[dict[str, Any], ...] = (), role: Role = Role.USER) -> Row:
        call = Message(role=Role.ASSISTANT, tool_calls=(ToolCall(name="find", arguments=arguments),))
        return make_row(
            KEY, messages=(Message(role=role, content=""), call), tools=tools, meta=Meta(source="s", source_row=0)
        )

    rows = [called({"a": 1, "b": 2}), called({"b": 2, "a": 1}), called({"a": 1}), called({"a": 1}, ({"name": "find"},)),
            called({"a": 1}, role=Role.TOOL)]  # fmt: skip
    assert gone(found_in(rows)) == {1: ("exact_duplicate", 0)}


def test_other_numbers_or_other_answers_make_other_rows() -> None:
    prompt = "please tell me where order number 4411 is now because I have been waiting for it a whole week"
    rows = [row(prompt), row(prompt.replace("4411", "4412")), row(f"{prompt}", "No."), row(f"{prompt}!!")]
    assert gone(found_in(rows)) == {3: ("near_duplicate", 0)}


def test_a_message_of_its_own_above_a_long_quoted_text_makes_another_row() -> None:
    quoted = " ".join(f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(300))
    ten = "can I keep my old files when this is done"
    rows = [row(quoted), row(f"{ten} {quoted}"), row(f"{ten} please {quoted}"), row(f"otherwise {quoted}")]
    assert jaccard(rows[0].prompt_text, rows[2].prompt_text) > 0.95
    # The second has 10 shingles more than the first, the third 11 more than the first; 12 are allowed.
    assert set(gone(found_in(rows))) == {1, 2, 3}
    rows[2] = row(f"{ten} please tell me {quoted}")
    assert gone(found_in(rows[::2])) == {}


def test_labels_that_contradict_are_told_and_stay() -> None:
    prompt = "please tell me where my order is now because I have been waiting for it a whole week"
    rows = [
        row(prompt, "a", label="a", is_label=True),
        row(f"{prompt} thanks", "b", label="b", is_label=True),
        row(prompt, "b", label="b", is_label=True),
        row("how do I pay for this", "a", label="a", is_label=True),
        row(prompt.replace("a whole week", "4 days"), "c", label="c", is_label=True),  # another number: another row
        row(f"{prompt} so long", "d"),  # no label: contradicts nobody
    ]
    found = found_in(rows)
    assert gone(found) == {2: ("near_duplicate", 1)}
    assert found.conflicting.tolist() == [0, 1]


def test_different_payloads_in_one_long_form_survive_and_true_copies_of_them_do_not() -> None:
    payloads = [f"{a} {b}" for a in ("lamps", "doors", "pumps", "desks", "boats", "trees", "cards", "roofs")
                for b in ("red", "blue", "green", "white", "black", "brown", "grey", "pink")]  # fmt: skip
    rows = [row(f"{FORM} {payload}", number=i) for i, payload in enumerate(payloads)]
    assert jaccard(rows[0].prompt_text, rows[1].prompt_text) > 0.9
    copies = [
        row(f"{FORM.upper()}: {payload}", "It is on its way to you!", 100 + i) for i, payload in enumerate(payloads[:5])
    ]
    copies.append(row(f"{FORM} {payloads[9]}", number=105))
    assert gone(found_in([*rows, *copies])) == {
        **{64 + i: ("near_duplicate", i) for i in range(5)},
        69: ("exact_duplicate", 9),
    }


def test_a_sentence_added_to_a_filled_in_form_makes_a_copy_and_other_words_in_it_do_not() -> None:
    def filled(words: str, more: str = "") -> str:
        return f"{FORM} {words} {more}"

    others = [row(filled(f"{chr(97 + i // 26)}x {chr(97 + i % 26)}y"), number=i) for i in range(40)]
    rows = [
        row(filled("the red lamp in the hall on the first floor")),
        row(filled("the red lamp in the hall on the first floor", "sent once more from home")),
        row(filled("the blue lamp in the hall on the first floor")),  # 3 of 10 shingles are other
        row(filled("a desk")),
        row(filled("")),
    ]
    found = found_in([*rows, *others])
    # The second has 5 shingles beside the 10 of the first; the third shares 7 with the first: inside by less than .8.
    assert gone(found) == {1: ("near_duplicate", 0)}


def test_twenty_near_copies_are_copies_and_one_more_is_a_form() -> None:
    rows = [row(f"{FORM} {chr(97 + i)}x {chr(97 + i)}y", number=i) for i in range(21)]
    assert gone(found_in(rows[:20])) == dict.fromkeys(range(1, 20), ("near_duplicate", 0))
    assert gone(found_in(rows)) == {}


def test_equal_copies_make_no_template_however_many() -> None:
    text = "the lamp came with a broken foot and the box was open so I want to send it back to you please"
    rows = [row(text if i else f"{text} thanks", number=i) for i in range(200)]
    rows += [row(f"{text}{mark}", number=200 + i) for i, mark in enumerate(("!", "?", " ..."))]
    found = gone(found_in(rows))
    assert found == {
        **dict.fromkeys(range(2, 200), ("exact_duplicate", 0)),
        **dict.fromkeys((1, 200, 201, 202), ("near_duplicate", 0)),
    }


def test_a_payload_in_a_standard_answer_survives_as_well() -> None:
    rows = [row("what is the state of it", f"{FORM} {chr(97 + i // 26)}x {chr(97 + i % 26)}y", i) for i in range(60)]
    assert gone(found_in(rows)) == {}


def test_rows_that_are_all_template_are_compared_as_they_stand() -> None:
    rows = [row(f"{FORM} {chr(97 + i // 26)}x {chr(97 + i % 26)}y", number=i) for i in range(60)]
    bare = [row(FORM, number=60), row(FORM.replace("dear ", ""), number=61)]
    assert gone(found_in([*rows, *bare])) == {61: ("near_duplicate", 60)}


def test_template_is_what_more_rows_of_one_source_have_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "FEW", 3)
    monkeypatch.setattr(templates, "MANY", 6)
    monkeypatch.setattr(templates, "CHUNK_TEXTS", 4)
    texts = ["a b c", "x y z"] * 4 + ["p q r"] * 3 + ["u v w"] * 7
    made = shingles_of(texts)

    def template(source: Sequence[int], rows: Sequence[int] = range(18)) -> set[str]:
        found = set(template_shingles(made, np.asarray(source, dtype=np.int32), np.asarray(rows)).tolist())
        return {text for i, text in enumerate(texts) if int(made.take(np.array([i])).code_S[0]) in found}

    assert template([0] * 18) == {"a b c", "x y z", "u v w"}  # 5 % of 18 rows is less than FEW: more than 3
    assert template([0] * 18, range(8, 18)) == {"u v w"}
    monkeypatch.setattr(templates, "SHARE", 0.5)
    assert template([0] * 18) == {"u v w"}  # half of 18 is above MANY: more than 6
    assert template([0] * 8 + [1] * 10) == {"u v w"}  # half of the second source is 5
    assert template([0] * 8 + [1] * 3 + [2] * 7) == {"u v w"}  # the source of three is too small to tell
    own = own_shingles(made, template_shingles(made, np.zeros(18, dtype=np.int32), np.arange(18)))
    assert own is not None
    assert own.tolist() == [True] * 11 + [False] * 7
    assert own_shingles(made, np.zeros(0, dtype=np.uint64)) is None


def test_no_rows_and_one_row() -> None:
    assert gone(found_in([])) == {}
    assert gone(found_in([row("")])) == {}
