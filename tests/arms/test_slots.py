import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.arms.slots import fill, masked, number_gap, values_in

CASES = {
    "support": (
        "Hello Ana, GBP 12.50 for LK-1 is on its way.",
        "Order LK-1 cost GBP 12.50. Thanks, Ana Lima",
        "Order LK-7 cost GBP 9.00. Thanks, Bo Ek",
        "Hello Bo, GBP 9.00 for LK-7 is on its way.",
    ),
    "insurance, greeted by the last name": (
        "Dear Ms Lima, your claim CL-2231 of $1,200.50 was approved on 3 March 2025.",
        "Claim CL-2231: my name is Ana Lima, the repair cost $1,200.50 on 3 March 2025.",
        "Claim CL-9: my name is Bo Ek, the repair cost $75 on 14 April 2025.",
        "Dear Ms Ek, your claim CL-9 of $75 was approved on 14 April 2025.",
    ),
    "finance, the two amounts in another order": (
        "Revenue grew 12% to EUR 4.5, costs were EUR 3.1.",
        "Revenue was EUR 4.5 (up 12%), costs were EUR 3.1.",
        "Costs were EUR 7.7, revenue was EUR 9.2 (up 3%).",
        "Revenue grew 3% to EUR 9.2, costs were EUR 7.7.",
    ),
    "health": (
        "Take 500 mg of ibuprofen 3 times a day.",
        "Patient takes 500 mg ibuprofen 3 times a day for pain.",
        "Patient takes 250 mg ibuprofen 2 times a day for pain.",
        "Take 250 mg of ibuprofen 2 times a day.",
    ),
    "placeholder, and a number before a comma": (
        "Hi {{Name}}, order 12.", "Order 12, I am {{Name}}", "Order 13, I am {{Customer}}", "Hi {{Customer}}, order 13.",
    ),
    "dates and times": (
        "See you on 2025-03-04 at 10:30.", "Visit on 2025-03-04 at 10:30 please", "Visit on 2026-11-12 at 9:15 please",
        "See you on 2026-11-12 at 9:15.",
    ),
    "signature of one word": ("Hello Ana.", "Where is my parcel?\nAna", "Where is my parcel?\nBo", "Hello Bo."),
    "accents and apostrophes": (
        "Bonjour Zo\u00eb!", "from Zo\u00eb Dupr\u00e9 by email", "from \u00c9mile O'Brien by email", "Bonjour \u00c9mile!",
    ),
    "e-mail": ("I wrote to a.b@x.org.", "my mail is a.b@x.org", "my mail is q@y.com", "I wrote to q@y.com."),
    "same value twice": ("LK-1 again: LK-1.", "about LK-1", "about LK-22", "LK-22 again: LK-22."),
    "overlapping values": (
        "1 and 12 and 123", "pay 1 then 12 then 123 now", "pay 12 then 123 then 1 now", "12 and 123 and 1",
    ),
    "digits where the kind differs": ("Order 12345 left.", "order 12345 please", "order 99 please", "Order 99 left."),
    "words between shared words": (
        "A moss green one is sent.", "I would like moss green or so", "I would like sea blue or so", "A sea blue one is sent.",
    ),
    "stop words stay": (
        "It is here.", "the lamp is broken now", "the lamp was broken now", "It is here.",
    ),
    "two amounts do not become one": (
        "GBP 5 of GBP 8.", "item GBP 5, with delivery GBP 8", "item GBP 6, with delivery GBP 9", "GBP 6 of GBP 9.",
    ),
    "the opener of a sentence is no name": ("The desk helps.", "The lamp broke.", "Our lamp broke.", "The desk helps."),
    "no value anywhere": ("We replace it.", "the lamp broke", "the tent leaks", "We replace it."),
    "empty texts": ("", "", "", ""),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "old", "new", "expected"), CASES.values(), ids=CASES.keys())
def test_fill_moves_the_values_of_one_case_to_the_other(reply: str, old: str, new: str, expected: str) -> None:
    assert fill(reply, old, new) == (expected, 0)


@pytest.mark.parametrize(("reply", "old", "new", "expected"), CASES.values(), ids=CASES.keys())
def test_a_filled_reply_filled_again_from_its_own_prompt_stays(reply: str, old: str, new: str, expected: str) -> None:
    assert fill(expected, new, new) == (expected, 0)


def test_a_value_without_counterpart_stays_and_is_counted_open() -> None:
    assert fill("Hello Ana, LK-1.", "Thanks for LK-1, Ana Lima", "Thanks for LK-2") == ("Hello Ana, LK-2.", 0)
    assert fill("Hello Ana Lima.", "Thanks, Ana Lima", "Thanks") == ("Hello Ana Lima.", 1)


def test_a_value_that_is_not_in_the_reply_is_never_open() -> None:
    assert fill("Hello.", "Thanks, Ana Lima, EUR 5", "Thanks") == ("Hello.", 0)


def test_the_longer_of_two_values_is_swapped_first() -> None:
    old, new = "ask Ana or else write to Ana Lima", "ask Bo or else write to Cy Ek"
    assert fill("I asked Ana and wrote to Ana Lima.", old, new).text == "I asked Bo and wrote to Cy Ek."


def test_a_value_inside_a_longer_word_is_not_touched() -> None:
    assert fill("Room A12, code 12.", "code 12 please", "code 77 please").text == "Room A12, code 77."


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("Ana Bo12.5,-/#GBP EUR$%\n:{}@x"), max_size=60), st.text("Ana Bo12.5GBP", max_size=40))
def test_filling_with_the_same_prompt_changes_nothing(prompt: str, reply: str) -> None:
    assert fill(reply, prompt, prompt).text == reply


def test_values_are_found_with_their_kind() -> None:
    text = "Call +44 7700 900904 at 10:30, mail a@b.org, see https://x.org/a. Paid 12 EUR (5%) on 1/2/2025 for #42."
    assert [(v.kind, v.text) for v in values_in(text)] == [
        ("phone", "+44 7700 900904"), ("time", "10:30"), ("email", "a@b.org"), ("link", "https://x.org/a"),
        ("money", "12 EUR"), ("percent", "5%"), ("date", "1/2/2025"), ("reference", "#42"),
    ]  # fmt: skip


def test_masked_prompts_of_two_people_are_the_same() -> None:
    assert masked("Order LK-1 cost GBP 2. Thanks, Ana") == masked("Order LK-9 cost GBP 7,500.10. Thanks, Bo Ek")
    assert masked("") == ""


def test_number_gap_by_hand() -> None:
    assert number_gap("it came 3 days ago", "it came 3 days ago") == 0
    assert number_gap("it came 9 days ago", "it came 4 days ago") == pytest.approx(0.693147, abs=1e-6)  # log(10 / 5)
    assert number_gap("it came 1 days ago", "it came 400 days ago") == 1
    assert number_gap("it came", "it came 3 days ago") == 1
    assert number_gap("it came", "it went for GBP 5") == 0
    assert number_gap("1,000 units", "1000 units") == 0
