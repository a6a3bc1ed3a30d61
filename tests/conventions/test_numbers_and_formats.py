"""Numbers, dates and amounts as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.conventions.numeric import last_number
from tests.conventions.builders import passes, row, why


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It is 12.", 12), ("1,234.50 pounds", 1234.5), ("-3", -3), ("\u22123.5", -3.5), ("(1,200)", -1200),
        ("\u00a3(45)", -45), ("(\u00a345.10)", -45.1), ("-\u00a35", -5), ("\u00a3-5", -5), ("3.2 million", 3.2e6), ("$4bn", 4e9),
        ("$5k", 5000), ("5 km", 5), ("1.234,56", 1234.56), ("3,5", 3.5), ("3,500", 3500), ("1.234.567", 1234567),
        ("3.500", 3.5), ("1'000", 1000), ("1\u202f000", 1000), ("12 345", 345), ("6e3", 6000), (".5", 0.5), ("10-12", 12),
        ("see 1,2,3", 3), ("12%", 12), ("total 7, ref A99", 7), ("0", 0), ("2024-05-06", 6), ("x=-4", -4),
    ],
)  # fmt: skip
def test_the_last_number_is_read_as_written(text, value):
    found = last_number(text)
    assert found is not None
    assert found.value == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["", "none", "Q3 and A12", "\x00", "five"])
def test_a_text_without_a_number_has_none(text):
    assert last_number(text) is None


@given(st.floats(-1e9, 1e9).map(lambda x: round(x, 2)))
def test_every_printed_amount_reads_back(value):
    found = last_number(f"The total is {value:,.2f} today.")
    assert found is not None
    assert found.value == pytest.approx(value, abs=1e-9)


@given(st.text(alphabet="0123456789.,'()-+%$ \u00a3ekmbn", max_size=30))
def test_no_spelling_breaks_the_reader(text):
    last_number(text)


def test_numeric_compares_the_last_numbers():
    on = row(gold="2 + 2 is 4")
    assert passes("numeric", {}, "I think 5, no, 4.0", on)
    assert not passes("numeric", {}, "4, or perhaps 5", on)
    assert why("numeric", {}, "", on) == "The reply holds no number; expected '4'."
    assert why("numeric", {}, "5", on) == "The reply's last number is '5'; expected '4'."
    assert not passes("numeric", {}, "-4", on)
    assert not passes("numeric", {}, "4e999", on)


def test_numeric_without_a_number_in_the_gold_passes_nothing():
    assert why("numeric", {}, "4", row(gold="four")) == "The gold reply 'four' holds no number to compare with."


def test_tolerances_end_where_they_say():
    on = row(gold="200")
    assert passes("numeric", {"tolerance": 1}, "201", on)
    assert not passes("numeric", {"tolerance": 1}, "201.01", on)
    assert passes("numeric", {"relative": 0.01}, "198", on)
    assert not passes("numeric", {"relative": 0.01}, "197.9", on)
    assert passes("numeric", {}, "0.3", row(gold=str(0.1 + 0.2)))


def test_percent_and_currency_are_part_of_a_number():
    assert passes("numeric", {}, "0.12", row(gold="12%"))
    assert passes("numeric", {}, "12 percent", row(gold="12%"))
    assert not passes("numeric", {}, "12", row(gold="12%"))
    assert passes("numeric", {"tolerance": 0.5}, "12.4%", row(gold="12%"))
    assert not passes("numeric", {"tolerance": 0.5}, "0.13", row(gold="12%"))
    assert passes("numeric", {}, "12", row(gold="\u00a312"))
    assert passes("numeric", {}, "GBP 12", row(gold="\u00a312"))
    assert "in EUR; expected" in why("numeric", {}, "\u20ac12", row(gold="\u00a312"))


def test_dates_have_one_spelling():
    args = {"format": "%d %B %Y"}
    assert passes("date_format", args, "From 05 March 2024 to 29 February 2024.")
    for other in ("5 March 2024", "2024-03-05", "05/03/2024", "5.3.24", "March 5, 2024", "5th of March", "05-Mar-2024"):
        assert not passes("date_format", args, f"on {other}, we"), other
    assert why("date_format", args, "on 2024-03-05") == (
        "The date '2024-03-05' is not a date written as 05 March 2024."
    )
    assert passes("date_format", args, "")
    assert passes("date_format", args, "Order 4411, 24/7, v1.2.3, 1/2, may 5 people")


def test_a_date_must_exist():
    args = {"format": "%Y-%m-%d"}
    assert passes("date_format", args, "2024-02-29")
    assert not passes("date_format", args, "2023-02-29")
    assert not passes("date_format", args, "2023-13-01")
    weekday = {"format": "%A, %-d %B %Y"}
    assert passes("date_format", weekday, "Tuesday, 5 March 2024")
    assert not passes("date_format", weekday, "Monday, 5 March 2024")


def test_unpadded_and_short_forms_are_their_own_spellings():
    assert passes("date_format", {"format": "%-d %b %y"}, "5 Mar 24")
    assert not passes("date_format", {"format": "%-d %b %y"}, "05 Mar 24")
    assert passes("date_format", {"format": "%-d/%-m/%Y"}, "5/3/2024")
    assert passes("date_format", {"format": "%d %B"}, "05 March")


@pytest.mark.parametrize(
    ("style", "good"),
    [
        ("symbol_first", "\u00a31,234.50"),
        ("symbol_last", "1234.50 \u00a3"),
        ("code_first", "GBP 1,234.50"),
        ("code_last", "1,234.50 GBP"),
    ],
)
def test_money_has_one_spelling(style, good):
    args = {"currency": "GBP", "style": style}
    assert passes("money_format", args, f"It costs {good}, and {good}.")
    others = ["\u00a312.50", "12.50 \u00a3", "GBP 12.50", "12.50 GBP"]
    others.remove(next(o for o in others if passes("money_format", args, o)))
    for other in [*others, "12 pounds", "\u20ac12.50", "12.50 USD", "\u00a312", "GBP 12.5", "\u00a312,3.50"]:
        assert not passes("money_format", args, f"costs {other} now"), other
    assert passes("money_format", args, "")
    assert passes("money_format", args, "Order 4411 of 12.50 kg")


def test_money_names_the_amount_and_the_spelling():
    assert why("money_format", {"currency": "GBP"}, "12 pounds") == (
        "The amount '12 pounds' is not written as \u00a31,234.50."
    )
    assert passes("money_format", {"currency": "JPY", "decimals": 0}, "\u00a51,200")
    assert not passes("money_format", {"currency": "JPY", "decimals": 0}, "\u00a51,200.00")


def test_money_by_pattern():
    args = {"pattern": r"\d+ euros"}
    assert passes("money_format", args, "12 euros")
    assert (
        why("money_format", args, "\u20ac12") == "The amount '\u20ac12' is not written as text that matches \\d+ euros."
    )
