"""Masked examples show everyday words and nothing else."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import metier.core.masking as masking
from metier.core.masking import MAX_MASKED_CHARS, everyday_words, mask

ROOT = Path(__file__).resolve().parents[2]
LISTS = tomllib.loads((Path(masking.__file__).parent / "everyday_words.toml").read_text(encoding="utf-8"))
SHOWN = set(LISTS["shown"].split())
KEEP = frozenset({"broken", "mark", "order", "street"})

NAMES = (
    "Anna", "Silva", "Viggo", "Sorrel", "Mark", "Will", "Rose", "May", "Grace", "Sue", "Rob", "Jack", "Klein", "Jung",
    "Braun", "Koch", "Petit", "Martin", "Leroux", "Blanc", "M\u00fcller", "J\u00fcrgen", "Wei\u00df", "Ren\u00e9e",
    "Fran\u00e7ois", "Nguy\u1ec5n", "Zo\u00eb", "O'Brien", "O\u2019Neill", "D'Angelo", "Jean-Pierre", "M\u00fcller-L\u00fcdenscheidt",
    "McDonald", "Smith", "Li", "Wu", "Ng", "Ivanova", "\u0418\u0432\u0430\u043d\u043e\u0432", "\u738b\u5c0f\u660e", "\u039c\u03b1\u03c1\u03af\u03b1", "\u0645\u0631\u064a\u0645",
)  # fmt: skip
PLACES = (
    "Hello {}, please help me.", "{} was here before.", "it was {}", "I am {}.\n{} again", "please ask {}!", "({})", "'{}'",
    "my name is {}, thanks", "mr {} and mrs {}", "{}: please help", "from:{}", "{}'s", "\u201e{}\u201c", "...{}", "**{}**",
    "name={}", "<{}>", "{}/{}", "{}-{}", "user_{}", "#{}", "{}\u2019s", "\u00a0{}\u2003", "\u200b{}\u200b",
)  # fmt: skip
VALUES = (
    "anna.silva@example.com", "ANNA@EXAMPLE.ORG", "anna (at) example (dot) com", "+49 30 1234567", "0171/1234567", "(030) 12345-67",
    "+1-202-555-0143", "4111 1111 1111 1111", "4111-1111-1111-1111", "DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432",
    "192.168.17.23", "2001:db8:85a3::8a2e:370:7334", "https://shop.example/reset?token=s3cr3tvalue", "www.anna-silva.example", "LK-40009",
    "t-0001", "INV2024/118", "SW1A 2AA", "Lindenstrasse 12", "12 Acacia Avenue", "78-3344-556", "536-90-4399", "1987-04-23", "23.04.1987",
    "April 23", "sk_live_4eC39HqLyjWDarjtT1zdp7dc", "\uff11\uff12\uff13\uff14\uff15\uff16\uff17", "\u0661\u0662\u0663\u0664\u0665\u0666", "\u0967\u0968\u0969\u096a\u096b", "\u2460\u2461\u2462", "\u00bd",
    "\u1d00\u0274\u0274\u1d00", "one two three four five six seven", "A n n a", "a.n.n.a", "AnNa", "a-n-n-a",
)  # fmt: skip


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text)


def plain(word: str) -> str:
    return masking._bare(word.lower())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "spelling", [str, str.lower, str.upper, str.swapcase], ids=["as is", "lower", "upper", "swapped"]
)
def test_a_name_is_shown_nowhere_in_no_spelling(place: str, spelling) -> None:
    for name in NAMES:
        # A name in lower case that is also an allowed word is that word, so "mark" is kept and tested below.
        if spelling(name) in KEEP:
            continue
        masked = mask(place.replace("{}", spelling(name)), keep_words=KEEP)
        for part in re.split(r"[-'\u2019 ]", name):
            if len(part) > 1:
                assert part.casefold() not in masked.casefold(), (name, masked)


@pytest.mark.parametrize("place", PLACES)
def test_a_number_an_address_a_link_or_a_key_is_not_shown(place: str) -> None:
    for value in VALUES:
        masked = mask(place.replace("{}", value), keep_words=KEEP)
        assert [char for char in masked if char.isnumeric() and char != "0"] == [], (value, masked)
        assert not set(masked) & set("@_<>#"), (value, masked)
        shown = [word for word in words_of(value) if len(word) > 2 and word.casefold() not in SHOWN | KEEP]
        assert [word for word in shown if word.casefold() in masked.casefold().split()] == [], (value, masked)
        assert "anna" not in masked.casefold().replace(" ", "").replace(".", "").replace("-", "")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400))
@example("T\u0300o be")  # an accent of its own: no letter has both
def test_whatever_the_text_only_allowed_words_are_left(text: str) -> None:
    masked = mask(text, keep_words=KEEP)
    assert len(masked) <= MAX_MASKED_CHARS
    assert [char for char in masked if char.isnumeric() and char != "0"] == []
    assert [word for word in words_of(masked) if plain(word) not in SHOWN | KEEP] == []
    assert set(re.sub(r"[^\W\d_]", "", masked)) <= set(" .,;:!?()[]'\"-/&+=*0\u2026")
    assert mask(text, keep_words=KEEP) == masked


@settings(max_examples=300, deadline=None)
@given(
    name=st.text(st.characters(categories=("Lu", "Ll", "Lt", "Lo")), min_size=2, max_size=12),
    around=st.lists(st.sampled_from([*sorted(SHOWN)[:80], "Hello", "000", "(", ".", "\n", "-", "@"]), max_size=30),
    at=st.integers(0, 30),
)
def test_a_made_up_name_among_everyday_words_is_never_shown(name: str, around: list[str], at: int) -> None:
    known = {part for part in words_of(name.lower()) if masking._bare(part) in SHOWN}
    if known or name.casefold() in " ".join(around).casefold():
        return
    text = " ".join([*around[:at], name, *around[at:]])
    assert name.casefold() not in mask(text).casefold()


def test_everyday_words_are_left_so_that_a_person_can_see_why_a_row_went() -> None:
    text = "Hello Viggo, my Glimmer Heron (LK-40009) is broken since 45 days.\nI don\u2019t know why. Thanks - Ana"
    assert (
        mask(text, keep_words=KEEP) == "Hello ***, my *** (***) is broken since 000 ***. I don't know why. Thanks - ***"
    )
    assert mask("F\u00fcr mich ist das nicht gut, bitte pr\u00fcfen.") == "*** mich ist das nicht ***, bitte ***."
    assert mask("Bonjour, o\u00f9 est ma commande ?") == "Bonjour, o\u00f9 est *** ?"


def test_a_run_of_blocked_words_is_one_block_whose_length_tells_nothing() -> None:
    assert mask("Ana") == mask("Maximiliane Theodora Freifrau Hohenstein") == "***"
    assert mask("1") == mask("123 456 789") == mask("\u0661\u0662") == "000"
    assert mask("GBP 43.75, GBP 1") == "*** 000, *** 000"


def test_a_word_of_the_data_is_kept_in_lower_case_only() -> None:
    assert mask("please mark the order", keep_words=KEEP) == "please mark the order"
    assert mask("Mark the order. Mark. MARK", keep_words=KEEP) == "*** the order. ***. ***"
    assert mask("please mark") == "please ***"


def test_an_everyday_word_with_a_capital_inside_a_sentence_may_be_a_name() -> None:
    assert mask("My order", keep_words=KEEP) == "My order"
    assert mask("with My or Since", keep_words=KEEP) == "with *** or ***"
    assert mask("it is so. My", keep_words=KEEP) == "it is ***. My"


def test_a_long_text_is_cut_between_words() -> None:
    masked = mask("please " * 100)
    assert masked == "please " * 22 + "\u2026"
    assert len(masked) <= MAX_MASKED_CHARS
    assert mask("y" * 10_000) == "***"
    assert mask("") == mask(" \n\t") == ""


def people(word: str, num: int, around: str = "i have a {} here") -> list[tuple[str, str]]:
    return [(f"person {place}", around.replace("{}", word)) for place in range(num)]


def test_a_word_stays_that_enough_different_people_use() -> None:
    assert "parcel" in everyday_words(people("parcel", 20))
    assert "parcel" not in everyday_words(people("parcel", 19))
    assert "parcel" in everyday_words(people("parcel", 3), min_persons=3)


def test_one_person_who_uses_a_word_often_is_one_person() -> None:
    assert everyday_words([("person", "my viggo")] * 500) == frozenset()


def test_a_word_that_is_mostly_written_with_a_capital_is_a_name() -> None:
    lower = people("rose", 90)
    assert "rose" in everyday_words(lower + people("Rose", 10))
    assert "rose" not in everyday_words(lower + people("Rose", 11))
    assert "rose" in everyday_words(lower + people("Rose", 50, "{} is here. {} again")), "a sentence begins so anyway"


def test_a_word_of_a_declared_subject_never_stays() -> None:
    texts = people("viggo viggo's parcel", 30)
    assert {"viggo", "viggo's", "parcel"} <= everyday_words(texts)
    kept = everyday_words(texts, never=("Viggo Sorrel", "c-044"))
    assert {"viggo", "viggo's", "parcel"} & kept == {"parcel"}


def test_a_number_in_words_and_an_endless_word_never_stay() -> None:
    assert not {"seven", "f\u00fcnf", "sept"} & everyday_words(people("seven f\u00fcnf sept", 30))
    assert "x" * 24 in everyday_words(people("x" * 24, 20))
    assert "x" * 25 not in everyday_words(people("x" * 25, 20))


def test_the_word_lists_hold_no_common_name_and_openers_are_shown_words() -> None:
    names = {masking._bare(part.lower()) for name in NAMES for part in re.split(r"[-'\u2019 ]", name) if len(part) > 1}
    assert names & SHOWN == set()
    assert set(LISTS["openers"].split()) <= SHOWN
    assert set(LISTS["numbers"].split()) & SHOWN == set()


@pytest.mark.parametrize("lower", [False, True])
def test_no_name_of_the_support_example_is_left_in_its_tickets(lower: bool) -> None:
    lines = (ROOT / "examples" / "support" / "data" / "tickets.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [(record["customer"], record["ticket"]) for record in map(json.loads, lines)]
    names = [
        name.lower()
        for _, text in texts
        if (found := re.search(r", from (\w+) (\w+) by", text))
        for name in found.groups()
    ]
    assert len(names) > 1600
    texts = [(who, text.lower() if lower else text) for who, text in texts]
    keep = everyday_words(texts)
    shown = {word.lower() for _, text in texts for word in words_of(mask(text, keep_words=keep))}
    assert shown & set(names) == set()
    assert {"delivery", "please", "broken"} & shown
