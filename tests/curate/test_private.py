"""What counts as private data, what must not, and what takes its place."""

from __future__ import annotations

import string
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.curate import checksums
from metier.curate.private import KINDS, card_is_valid, find_private, iban_is_valid
from metier.curate.surrogates import surrogate

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
        ("carte 4111 1111 1111 1111 500 fois", "card", "4111 1111 1111 1111"),
        ("DE89 3704 0044 0532 0130 00 AND MORE", "iban", "DE89 3704 0044 0532 0130 00"),
        ("GB29NWBK60161331926819", "iban", "GB29NWBK60161331926819"),
        ("from 192.168.1.17.", "ip", "192.168.1.17"),
        ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", "ip", "2001:0db8:85a3:0000:0000:8a2e:0370:7334"),
        ("fe80::1a2b:3c4d", "ip", "fe80::1a2b:3c4d"),
        ("j.doe [at] example.org", "email", "j.doe [at] example.org"),
        ("jürgen@müller.example", "email", "jürgen@müller.example"),
        ("+33 (0)1 23 45 67 89", "phone", "+33 (0)1 23 45 67 89"),
        ("06.12.34.56.78 svp", "phone", "06.12.34.56.78"),
        ("0033 6 12 34 56 78", "phone", "0033 6 12 34 56 78"),
        ("+49 (0) 89 / 123456-78", "phone", "+49 (0) 89 / 123456-78"),
        ("07700900123", "phone", "07700900123"),
        ("+44\u00a020\u00a07946\u00a00958", "phone", "+44\u00a020\u00a07946\u00a00958"),
        ("call +49 171 5550199 2024-03-01", "phone", "+49 171 5550199"),
        ("de89 3704 0044 0532 0130 00", "iban", "de89 3704 0044 0532 0130 00"),
        ("SSN 078-05-1120", "us_ssn", "078-05-1120"),
        ("social security number is 078051120", "us_ssn", "078051120"),
        ("AB 12 34 56 C", "uk_nino", "AB 12 34 56 C"),
        ("943 476 5919", "uk_nhs", "943 476 5919"),
        ("NHS no. 9434765919", "uk_nhs", "9434765919"),
        ("Steuer-ID 86 095 742 719", "de_tax_id", "86 095 742 719"),
        ("86095742719", "de_tax_id", "86095742719"),
        ("15 070649 C 103", "de_social", "15 070649 C 103"),
        ("2 55 08 14 168 025 38", "fr_nir", "2 55 08 14 168 025 38"),
        ("DNI 12345678Z", "es_dni", "12345678Z"),
        ("MRN: 00482913", "record", "00482913"),
        ("numéro d'adhérent : 48291374", "record", "48291374"),
        ("Patienten-Nr. 482913", "record", "482913"),
        ("policy number AB-4829137", "record", "AB-4829137"),
        ("https://x.example/r?id=7&token=Zm9vYmFyMTIz", "url", "Zm9vYmFyMTIz"),
        ("https://ana:hunter2@x.example/", "url", "ana:hunter2"),
        ("AKIAIOSFODNN7EXAMPLE", "secret", "AKIAIOSFODNN7EXAMPLE"),
        ("password: hunter2!", "secret", "hunter2!"),
        ("das Passwort lautet Sommer2024", "secret", "Sommer2024"),
        ("mot de passe : azerty99", "secret", "azerty99"),
        ("PIN: 4821", "secret", "4821"),
        ("api_key=8f14e45fceea167a5a36dedd4bea2543", "secret", "8f14e45fceea167a5a36dedd4bea2543"),
        ("at 12 Baker Street.", "address", "12 Baker Street"),
        ("Lindenstr. 5a", "address", "Lindenstr. 5a"),
        ("Berliner Straße 46", "address", "Berliner Straße 46"),
        ("80331 München", "address", "80331 München"),
        ("D-60311 Frankfurt am Main", "address", "D-60311 Frankfurt am Main"),
        ("12 bis, rue de la République", "address", "12 bis, rue de la République"),
        ("69003 Lyon", "address", "69003 Lyon"),
        ("Springfield, IL 62704", "address", "Springfield, IL 62704"),
        ("London NW1 6XE", "address", "London NW1 6XE"),
        ("P.O. Box 1234", "address", "P.O. Box 1234"),
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
        "2026-11-02 10:30", "user@localhost", "5 x 200 x 300 mm", "999.999.999.999", "order 943 476 5919",
        "ticket 123-45-6789", "customer no. 86095742719", "ISBN 978-3-16-148410-0", "SN 05 302 313 085", "Absatz 4.2.8.3",
        "password: required", "password is incorrect", "pass stool?", "Passwort: ungültig", "password: ********",
        "https://docs.example/guide/install-2024-edition", "https://x.example/find?q=lamp&page=2", "127.0.0.1", "255.255.255.0",
        "Arbeitsplatz 12", "Monitoring 24", "12345 Euro", "15 Green chairs", "24 mg every 8 hours", "Im Jahr 2023", "76 miles street",
        "1 place libre", "policy from 2023", "MRN pending", "patient 55 years", "token expired", "AB12 3456 7890 1234 5678 9012",
        "id 3f2a9c1d-4a4b-4c4d-a4e4-9f4a4b4c4d4e",
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


@pytest.mark.parametrize(
    ("holds", "number"),
    [  # numbers that the issuers or their handbooks print as examples
        (checksums.nhs_is_valid, "9434765919"),
        (checksums.tax_id_is_valid, "86095742719"),
        (checksums.tax_id_is_valid, "65929970489"),
        (checksums.social_is_valid, "15070649C103"),
        (checksums.social_is_valid, "65180539W001"),
        (checksums.nir_is_valid, "255081416802538"),
        (checksums.dni_is_valid, "12345678Z"),
    ],
)
def test_published_numbers_hold_and_no_other_last_character_does(holds: Callable[[str], bool], number: str) -> None:
    assert holds(number)
    others = [number[:-1] + char for char in ("0123456789" if number[-1].isdigit() else string.ascii_uppercase)]
    assert [other for other in others if holds(other)] == [number]


def test_numbers_that_are_never_issued_are_refused() -> None:
    assert checksums.ssn_is_valid("078051120")
    assert not any(map(checksums.ssn_is_valid, ("000123456", "666123456", "900123456", "123006789", "123450000")))
    assert checksums.nino_is_valid("AB123456C")
    assert not any(map(checksums.nino_is_valid, ("GB123456C", "AB123456E", "DA123456A", "AO123456A")))
    assert checksums.nir_is_valid("1850578006084" + f"{checksums.nir_key('1850578006084'):02d}")
    assert checksums.nir_is_valid("185052A006084" + f"{checksums.nir_key('185052A006084'):02d}")
    assert not checksums.nir_is_valid("1851378006084" + f"{checksums.nir_key('1851378006084'):02d}")  # month 13
    assert not checksums.tax_id_is_valid("11195742716")  # one digit three times in a row


def test_a_word_decides_what_a_bare_number_is() -> None:
    assert found("9434765919") == []
    assert found("NHS 9434765919") == ["uk_nhs"]
    assert found("123456789") == []
    assert found("SSN: 123456789") == ["us_ssn"]
    assert found("+1 463 716 4249") == ["phone"]  # passes as a health number, but is dialled
    assert found("account number 4111111111111111") == []
    assert found("Order 4111 1111 1111 1111") == ["card"]  # nobody writes an order number in groups of four
    assert found("Customer: 0171 5550199") == ["phone"]
    assert found("Kundennummer 0171 5550199") == []


def test_the_surer_kind_holds_where_two_lie_over_each_other() -> None:
    assert found("https://ana:pw1234@mail.example/x") == ["url"]
    assert found("https://x.example/?mail=ana@home.example") == ["email"]
    assert [h.text for h in find_private("12 Oak Road, Springfield, IL 62704")] == [
        "12 Oak Road",
        "Springfield, IL 62704",
    ]


def test_a_private_key_is_one_secret_from_head_to_foot() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nq83vEg==\n-----END RSA PRIVATE KEY-----"
    (hit,) = find_private(f"see\n{key}\nthanks")
    assert (hit.kind, hit.text) == ("secret", key)
    made = surrogate(KEY, hit)
    assert made.startswith("-----BEGIN RSA PRIVATE KEY-----\n")
    assert made.endswith("\n-----END RSA PRIVATE KEY-----")
    assert "MIIEow" not in made


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("0123456789 +-./()@:#=ABDEabdeßäé_\u00a0\n'\",") | st.characters(), max_size=80))
def test_hits_lie_in_order_in_the_text_and_every_one_can_be_replaced(text: str) -> None:
    hits = find_private(text, ("Ana Silva", "c-001", "D'Angelo, É."))
    assert all(text[hit.start : hit.end] == hit.text and hit.kind in KINDS for hit in hits)
    assert all(first.end <= second.start for first, second in pairwise(hits))
    for hit in hits:
        assert surrogate(KEY, hit) != hit.text


def found(text: str) -> list[str]:
    return [hit.kind for hit in find_private(text)]
