"""What counts as private data, what must not, and what takes its place."""

from __future__ import annotations

import re

import pytest

from metier.curate.private import card_is_valid, find_private, iban_is_valid
from metier.curate.surrogates import replace_private, surrogate

KEY = b"project"


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("Mail ana.b+x@mail.example.org.", "email", "ana.b+x@mail.example.org"),
        ("<KIM@EXAMPLE.COM>", "email", "KIM@EXAMPLE.COM"),
        ("at +49 171 5550199 please", "phone", "+49 171 5550199"),
        ("+4915112345678", "phone", "+4915112345678"),
        ("0049 171 5550199", "phone", "0049 171 5550199"),
        ("call +1 (555) 010-2222 now", "phone", "+1 (555) 010-2222"),
        ("(415) 555-0132", "phone", "(415) 555-0132"),
        ("415-555-0132.", "phone", "415-555-0132"),
        ("0171 5550199", "phone", "0171 5550199"),
        ("030/1234567", "phone", "030/1234567"),
        ("phone: 5550123", "phone", "5550123"),
        ("Call me at 5551234567", "phone", "5551234567"),
        ("4111 1111 1111 1111", "card", "4111 1111 1111 1111"),
        ("card 5500000000000004,", "card", "5500000000000004"),
        ("3782 822463 10005", "card", "3782 822463 10005"),
        ("DE89 3704 0044 0532 0130 00 AND MORE", "iban", "DE89 3704 0044 0532 0130 00"),
        ("GB29NWBK60161331926819", "iban", "GB29NWBK60161331926819"),
        ("from 192.168.1.17.", "ip", "192.168.1.17"),
        ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", "ip", "2001:0db8:85a3:0000:0000:8a2e:0370:7334"),
    ],
)
def test_private_data_is_found_whole(text: str, kind: str, found: str) -> None:
    assert [(hit.kind, hit.text) for hit in find_private(text)] == [(kind, found)]


@pytest.mark.parametrize(
    "text",
    [
        "ORD-12345", "order 4111111111111111", "order number 415-555-0132", "Ticket #20240312", "TCK-2024-000123",
        "$1,234.56", "1 234 567,89 EUR", "GBP 42.10", "500 000 1000", "2024-03-15", "15.03.2024", "03/15/2024",
        "05 10 2024", "version 1.2.3.4", "10:30:45", "08:00-17:30", "purchase 113542617735902", "order 00123 4567 please",
        "ref 0171 5550199", "invoice 2024-0001-7788", "std::vector", "between 2019-2023", "case 0030-1234",
        "3.14159265358979", "SKU 030-1234567", "ZIP 94103-1234", "REF-415-555-0132", "#415-555-0132", "LK-40010",
        "GB29 NWBK 6016 1331 9268 18", "4111 1111 1111 1112", "00:1B:44:11:3A:B7", "order no. 07700 900123", "113542617735902",
        "2026-11-02 10:30", "user@localhost", "5 x 200 x 300 mm", "999.999.999.999",
    ],
)  # fmt: skip
def test_references_amounts_and_dates_are_not_private(text: str) -> None:
    assert find_private(f"My {text} is here.") == []
    assert find_private(text) == []


def test_checksums_by_hand() -> None:
    assert card_is_valid("4111111111111111")
    assert not card_is_valid("4111111111111112")
    assert not card_is_valid("1111111111111117")  # Luhn holds, but nobody issues it
    assert iban_is_valid("DE89370400440532013000")
    assert not iban_is_valid("DE89370400440532013001")
    assert not iban_is_valid("DE8937040044053201300")


def one(text: str) -> str:
    (hit,) = find_private(text)
    return surrogate(KEY, hit)


def test_surrogates_are_of_the_same_type_and_form() -> None:
    card, iban, phone = one("4111 1111 1111 1111"), one("DE89 3704 0044 0532 0130 00"), one("+49 171 5550199")
    assert re.fullmatch(r"4111 \d{4} \d{4} \d{4}", card)
    assert card_is_valid(card.replace(" ", ""))
    assert re.fullmatch(r"DE\d\d \d{4} \d{4} \d{4} \d{4} \d\d", iban)
    assert iban_is_valid(iban.replace(" ", ""))
    assert re.fullmatch(r"\+49 [1-9]\d\d \d{7}", phone)
    assert re.fullmatch(r"[a-z]+\.\d{5}@example\.(com|org|net)", one("ana@shop.example"))
    assert re.fullmatch(r"198\.1[89]\.\d+\.\d+", one("192.168.1.17"))
    for made in (card, iban, phone, one("192.168.1.17"), one("ana@shop.example"), one("2001:db8:85a3::8a2e:370:7334")):
        assert [hit.text for hit in find_private(made)] == [made]


def test_one_value_has_one_surrogate_however_it_is_written() -> None:
    assert one("Ana@Shop.example") == one("ana@shop.example")
    assert one("+49 171 5550199").replace(" ", "") == one("+491715550199")
    assert one("4111-1111-1111-1111").replace("-", "") == one("4111111111111111")
    assert one("ana@shop.example") != one("eva@shop.example")


def test_surrogates_hang_on_the_key() -> None:
    (hit,) = find_private("ana@shop.example")
    assert surrogate(b"one", hit) != surrogate(b"two", hit)


def test_everything_around_a_replaced_value_stays() -> None:
    text = "Order 4411, mail ana@shop.example or call +49 171 5550199 before 2026-03-01."
    cleaned = replace_private(text, find_private(text), KEY)
    mail, phone = one("ana@shop.example"), one("+49 171 5550199")
    assert cleaned == f"Order 4411, mail {mail} or call {phone} before 2026-03-01."
