"""Counts, sections, language."""

import time

import pytest

from metier.conventions.shape import count_sentences
from tests.conventions.builders import passes, why


def test_word_count_includes_both_ends():
    args = {"min": 2, "max": 3}
    assert [passes("word_count", args, " - ".join(["w"] * n)) for n in range(5)] == [False, False, True, True, False]
    assert why("word_count", args, "one") == "The reply has 1 word; at least 2 expected."
    assert why("word_count", args, "a b c d") == "The reply has 4 words; at most 3 allowed."


@pytest.mark.parametrize(
    ("text", "num"),
    [
        ("", 0),
        ("...", 0 + 1),
        ("no mark", 1),
        ("One. Two! Three?", 3),
        ("Dear Ana,\n\nIt is 3.50 today. Thanks.\n\nRegards,\nThe desk", 2),
        ("Dr. J. Roe came, e.g. today.", 1),
        ("1. First.\n2. Second.", 2),
        ('He said "no." Then left.', 2),
        ("So am I. And you.", 2),
        ("No. Ticket No. 4411 is open.", 2),
        ("\u4f60\u597d\u3002\u518d\u89c1\u3002", 2),
        ("Wait... what?!", 2),
    ],
)
def test_sentences_are_counted_as_a_reader_would(text, num):
    assert count_sentences(text) == num


def test_counting_sentences_of_a_huge_text_stays_linear():
    start = time.monotonic()
    assert count_sentences("a" * 2_000_000 + ".") == 1
    assert count_sentences("." * 2_000_000) == 1
    assert time.monotonic() - start < 5


def test_sentence_count_has_a_range():
    assert passes("sentence_count", {"min": 1, "max": 2}, "One. Two.")
    assert not passes("sentence_count", {"min": 1, "max": 2}, "One. Two. Three.")
    assert not passes("sentence_count", {"min": 1}, "")


def test_sections_stand_in_order_at_line_starts():
    args = {"names": ["Findings", "Plan"]}
    assert passes("sections", args, "## Findings\nok\n**Plan**: rest")
    assert passes("sections", args, "Findings: Plan B\nPlan: rest")
    assert not passes("sections", args, "Findings: see Plan")
    assert why("sections", args, "Plan\nFindings") == "The section 'Plan' is out of order."
    assert why("sections", args, "Findings\nPlanning") == "The section 'Plan' is missing at the start of a line."
    assert not passes("sections", args, "")


SENTENCES = {
    "en": "We have received your message and will send the parcel to you this week.",
    "de": "Wir haben Ihre Nachricht erhalten und werden das Paket in dieser Woche an Sie senden.",
    "fr": "Nous avons re\u00e7u votre message et nous vous enverrons le colis dans la semaine.",
    "es": "Hemos recibido su mensaje y le enviaremos el paquete a lo largo de la semana.",
    "it": "Abbiamo ricevuto il suo messaggio e le invieremo il pacco nel corso della settimana.",
    "nl": "Wij hebben uw bericht ontvangen en sturen het pakket in de loop van deze week naar u.",
    "pt": "Recebemos a sua mensagem e o pacote foi enviado para voc\u00ea no come\u00e7o da semana.",
}


@pytest.mark.parametrize("written", sorted(SENTENCES))
@pytest.mark.parametrize("code", sorted(SENTENCES))
def test_language_tells_its_seven_languages_apart(written, code):
    assert passes("language", {"code": code}, SENTENCES[written]) == (written == code)


def test_language_refuses_what_it_cannot_judge():
    for text in (
        "",
        "4411",
        "Lanternkeep Ltd",
        "\u4f60\u597d",
        "Dzi\u0119kujemy za wiadomo\u015b\u0107, paczka jest w drodze",
    ):
        assert not passes("language", {"code": "en"}, text)
    assert why("language", {"code": "en"}, "") == (
        "The reply holds too few common words of English to be in that language."
    )
    assert (
        why("language", {"code": "en"}, "The of this. " + SENTENCES["de"])
        == "The reply looks like German, not English."
    )
    assert (
        why("language", {"code": "nl"}, "de en in is " + SENTENCES["de"]) == "The reply looks like German, not Dutch."
    )
