"""Where a row's declared subjects are found in its text, and where a word that only looks like them stays."""

from __future__ import annotations

import pytest

from metier.curate.private import find_private
from metier.curate.private_names import person_of


def names(text: str, *subjects: str) -> list[str]:
    return [hit.text for hit in find_private(text, subjects) if hit.kind == "name"]


@pytest.mark.parametrize(
    ("subject", "text", "found"),
    [
        ("Ana Silva", "I am Ana Silva.", ["Ana Silva"]),
        ("Ana Silva", "ANA SILVA wrote", ["ANA SILVA"]),
        ("Ana Silva", "thanks, ana silva", ["ana silva"]),
        ("Ana Silva", "Silva, Ana: open", ["Silva, Ana"]),
        ("Ana Silva", "from A. Silva and A Silva", ["A. Silva", "A Silva"]),
        ("Ana Silva", "see Silva, A. for it", ["Silva, A."]),
        ("Ana Silva", "Ms Silva, Frau Silva, Mme Silva", ["Silva", "Silva", "Silva"]),
        ("Ana Silva", "Silva's order and Silvas Konto", ["Silva", "Silva"]),
        ("Ana Silva", "Hi Ana, thanks", ["Ana"]),
        ("Ana Silva", "Silva, Ana Silva", ["Silva, Ana Silva"]),
        ("Ana Silva", "login ana.silva or ana_silva", ["ana.silva", "ana_silva"]),
        ("Silva, Ana", "Ana Silva", ["Ana Silva"]),
        ("Dr. Ana Silva", "Dr Silva", ["Silva"]),
        ("Jürgen Müller", "Juergen Mueller; Jurgen Muller; J. Müller", ["Juergen Mueller", "Jurgen Muller", "J. Müller"]),
        ("Juergen Mueller", "Herr Müller", ["Müller"]),
        ("Hélène Lefèvre", "HELENE LEFEVRE", ["HELENE LEFEVRE"]),
        ("Jan van der Berg", "Herr van der Berg; Jan van der Berg", ["van der Berg", "Jan van der Berg"]),
        ("Siobhan O'Brien", "Mrs O'Brien and S. O\u2019Brien", ["O'Brien", "S. O\u2019Brien"]),
        ("Eva Meyer-Landgraf", "Frau Meyer-Landgraf, Frau Meyer", ["Meyer-Landgraf", "Meyer"]),
        ("Minh Le", "Minh Le, Mr Le, le chat", ["Minh Le", "Le"]),
        ("Mei Li", "Dear Ms Li! Mei Li wrote; li", ["Li", "Mei Li"]),
        ("Will Brown", "Mr Brown; Hi Will; Will Brown", ["Brown", "Will", "Will Brown"]),
    ],
)  # fmt: skip
def test_a_declared_name_is_found_in_every_spelling(subject: str, text: str, found: list[str]) -> None:
    assert names(text, subject) == found


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ("Will Brown", "The brown box will come. Brown boxes only. Will it?"),
        ("Karl Klein", "Das Paket ist klein. Klein, aber fein."),
        ("Rose Petit", "une rose pour le petit, Petit souci"),
        ("Mei Li", "li and LI are units"),
        ("A", "A day at a time"),
        ("Ana Silva", "A banana from Banff; analysis, Silvaner"),
        ("Ana Silva", "I silva"),
        ("Customer", "Dear Customer, the customer is right"),
        ("Guest User", "Guest User logged in as guest"),
        ("Unknown", "Unknown error"),
        ("", "nothing to find"),
        ("7", "7 of 7 items"),
        ("2024", "in 2024"),
        ("v2", "the v2 release"),
    ],
)  # fmt: skip
def test_a_common_word_a_letter_or_a_short_number_blanks_nothing(subject: str, text: str) -> None:
    assert [hit for hit in find_private(text, (subject,)) if hit.kind in ("name", "record")] == [
        hit for hit in find_private(text, (subject,)) if subject == "Ana Silva" and hit.text == "silva"
    ]


def test_mail_addresses_and_ids_that_are_subjects_are_found_as_they_stand() -> None:
    text = "Account C-001 of ANA@home, not c-0012 or XC-001; number 48213, not 148213 or 48213.5"
    hits = find_private(text, ("c-001", "ana@home", "48213"))
    assert [(hit.kind, hit.text) for hit in hits] == [("record", "C-001"), ("email", "ANA@home"), ("record", "48213")]


def test_two_subjects_of_one_surname_are_told_apart() -> None:
    hits = find_private("Ana Silva and Ben Silva", ("Ana Silva", "Ben Silva"))
    assert [(hit.text, hit.of) for hit in hits] == [("Ana Silva", "Ana Silva"), ("Ben Silva", "Ben Silva")]


def test_without_subjects_no_name_is_looked_for() -> None:
    assert names("Dear Ms Silva, I am Ana Silva") == []


@pytest.mark.parametrize(
    ("name", "given", "surname"),
    [
        ("Ana Silva", "ana", "silva"), ("Silva, Ana Maria", "ana maria", "silva"), ("Prof. Dr. Jan van der Berg", "jan", "van der berg"), ("Silva", "", "silva"),
        ("Siobhan O'Brien", "siobhan", "o brien"), ("Eva Meyer-Landgraf", "eva", "meyer landgraf"), ("Martin Luther King Jr.", "martin luther", "king"), ("", "", ""),
    ],
)  # fmt: skip
def test_a_name_is_taken_apart_as_columns_write_it(name: str, given: str, surname: str) -> None:
    assert (" ".join(person_of(name).given), " ".join(person_of(name).surname)) == (given, surname)
