"""Characters that went wrong are repaired; everything else stays byte-identical."""

from __future__ import annotations

import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier.curate.unicode import repaired, repaired_values

BROKEN: list[tuple[str, str, tuple[str, ...]]] = [
    # UTF-8 read as Windows-1252, Latin-1, Mac Roman, once and twice; a lost no-break space; C1 controls.
    ("The caf\u00c3\u00a9 isn\u00e2\u20ac\u2122t open", "The caf\u00e9 isn\u2019t open", ("mojibake",)),
    ("na\u00c3\u0083\u00c2\u00afve", "na\u00efve", ("mojibake",)),
    ("voil\u00c3 le travail", "voil\u00e0 le travail", ("mojibake",)),
    ("Gr\u221a\u00ba\u221a\u00fce aus M\u221a\u00banchen", "Gr\u00fc\u00dfe aus M\u00fcnchen", ("mojibake",)),
    ("\u00f0\u0178\u02dc\u0160 merci", "\U0001f60a merci", ("mojibake",)),
    ("\u0093quoted\u0094", "\u201cquoted\u201d", ("mojibake",)),
    ("price \u201cok\u201d but caf\u00c3\u00a9", "price \u201cok\u201d but caf\u00e9", ("mojibake",)),
    # Where a byte is lost, the rest is left for all to see.
    ("caf\u00c3\ufffd ol\u00c3\u00a9", "caf\u00c3\ufffd ol\u00e9", ("mojibake",)),
    # Controls: colours of a terminal, a page break, a field separator, a backspace.
    ("\x1b[31mred\x1b[0m", "red", ("control",)),
    ("page 1\x0cpage 2", "page 1\npage 2", ("control",)),
    ("a\x1fb\x08c\x7f", "a bc", ("control",)),
    ("caf\u00e9\x07", "caf\u00e9", ("control",)),
    # Invisible where they carry nothing.
    ("\ufeffHello\u200b wor\u00adld\u2060!", "Hello world!", ("invisible",)),
    ("pass\u200dword \u200cx", "password x", ("invisible",)),
    ("left \u200eto\u200f right", "left to right", ("invisible",)),
    ("hi\U000e0068\U000e0069", "hi", ("invisible",)),
    # One spelling.
    ("Jose\u0301", "Jos\u00e9", ("nfc",)),
    ("10 k\u2126", "10 k\u03a9", ("nfc",)),
    ("\u00ef\u00bb\u00bfcaf\u00c3\u00a9 e\u0301\x01", "caf\u00e9 \u00e9", ("mojibake", "control", "invisible", "nfc")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected", "kinds"), BROKEN)
def test_what_went_wrong_is_repaired_and_named(text: str, expected: str, kinds: tuple[str, ...]) -> None:
    assert repaired(text) == (expected, kinds)
    assert repaired(expected) == (expected, ())


WHOLE = {
    "ASCII": "He said \"it's\" -- 5' x 6\" &amp; <b> \\u00e9\t1\n\r2",
    "code": "if (a && b) { printf(\"%s\\n\", x); } // \u201cnot straightened\u201d \u2013 \u2026",
    "ligatures and widths": "\ufb01nd \uff21\uff22\uff23 \u00bd \u2460 \u2167",
    "French": "L\u2019\u00e9t\u00e9 \u00e0 No\u00ebl : \u00ab o\u00f9 \u00e7a ? \u00bb co\u00fbte 10\u00a0\u20ac, \u0153uvre",
    "Portuguese capitals": "INFORMA\u00c7\u00c3O, N\u00c3O, S\u00c3O PAULO, A\u00c7\u00d5ES",
    "German": "\u00dcber stra\u00dfe \u201egro\u00df\u201c \u2013 \u00c4rger & S\u00f6hne \u00a7 5",
    "Icelandic": "\u00de\u00f3r \u00e1 \u00cdsafir\u00f0i, \u00c6\u00f0i",
    "Polish": "Za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144",
    "Vietnamese": "Ti\u1ebfng Vi\u1ec7t, \u0111\u01b0\u1ee3c \u00c2n",
    "Turkish": "\u0130stanbul \u015e\u0131k \u011fa",
    "Russian": "\u0413\u0434\u0435 \u043c\u043e\u0439 \u0437\u0430\u043a\u0430\u0437 \u2116 4411? \u00ab\u0421\u00bb",
    "Greek": "\u03a0\u03bf\u03cd \u03b5\u03af\u03bd\u03b1\u03b9 \u03b7 \u03c0\u03b1\u03c1\u03b1\u03b3\u03b3\u03b5\u03bb\u03af\u03b1",
    "Chinese": "\u60a8\u597d\uff0c\u60a8\u7684\u8ba2\u5355\u3002",
    "Japanese": "\u6ce8\u6587\u306f\u3069\u3053\u3067\u3059\u304b\uff1f",
    "Korean": "\uc8fc\ubb38\uc740 \uc5b4\ub514\uc5d0",
    "Persian with a non-joiner": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "Hindi with a joiner": "\u0915\u094d\u200d\u0937",
    "Khmer with blanks of no width": "\u1797\u17b6\u179f\u17b6\u200b\u1781\u17d2\u1798\u17c2\u179a",
    "Hebrew with a direction": "\u05e9\u05dc\u05d5\u05dd\u200f (1)",
    "a file name turned around on purpose": "invoice\u202efdp.exe",
    "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f469\U0001f3fd\u200d\U0001f52c",
    "the flag of Scotland": "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "units and money": "10 \u00b5m \u00b1 2 \u00b0C, \u00a35, \u00a5 300, \u20ac9",
}  # fmt: skip


@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE)
def test_whole_text_stays_byte_identical(text: str) -> None:
    same, kinds = repaired(text)
    assert same is text
    assert kinds == ()


@given(st.text(alphabet=string.printable.replace("\x0b", "").replace("\x0c", "")))
def test_printable_ascii_is_never_touched(text: str) -> None:
    assert repaired(text)[0] is text


@given(st.text())
def test_a_repair_is_named_exactly_when_something_changed(text: str) -> None:
    new, kinds = repaired(text)
    assert bool(kinds) == (new != text)
    assert unicodedata.is_normalized("NFC", new)
    assert [kind for kind in ("mojibake", "control", "invisible", "nfc") if kind in kinds] == list(kinds)


def test_every_text_inside_a_value_is_repaired_and_no_name_of_a_field() -> None:
    value = {"a\ufeff": ["x\ufeff", {"b": "y"}, 1, None], "c": '["e\\u0301"]', "d": '["e\\u0301"]', "e": "[\\u0301"}
    found: set[str] = set()
    new = repaired_values(value, found, frozenset({"c", "e"}))
    assert new == {"a\ufeff": ["x", {"b": "y"}, 1, None], "c": '["\\u00e9"]', "d": '["e\\u0301"]', "e": "[\\u0301"}
    assert found == {"invisible", "nfc"}
    untouched = {"a": ["x", {"b": "y"}]}
    assert repaired_values(untouched, found) is untouched
