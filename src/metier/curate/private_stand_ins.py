"""Stand-ins that are words: plausible names and addresses, drawn from keyed numbers, in the form the originals had.

    A. Silva      -> K. Hartcombe          the initial is that of the stand-in for Ana
    SILVA, Ana    -> HARTCOMBE, Kim
    Lindenstr. 5a -> Amselstr. 8c

A given name and a surname are drawn each on its own, so that a surname alone, a title with a surname and the full name
agree in every row. The order of letters carries nothing over: initials are mapped by the key too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from metier.curate.private_hit import Hit
from metier.curate.private_lists import (
    ADDRESS_WORDS,
    CITIES,
    GIVEN_BY_LETTER,
    STAND_IN_CITIES,
    STATE_NAMES,
    STATES,
    STREET_STEMS,
    SUFFIXES,
    SURNAME_PARTS,
    TITLES,
    fold,
)
from metier.curate.private_names import WORD, person_of

__all__ = ["address_identity", "name_identity", "stand_in_address", "stand_in_name"]

Draw = Callable[[str, str], Iterator[int]]
"""Keyed numbers 0-255 of a purpose and a value."""

_LETTERS = tuple(GIVEN_BY_LETTER)
_GERMAN = re.compile(
    r"(?:mann|berg|stein|bach|bauer|meier|maier|meyer|mayer|muller|schmidt|schmitt|schulz|schulze|hoff|haus|hof|dorf|"
    r"burg|wald|feld|huber|[rtkg]ner|tz|rich|hardt|brecht|olf|itz|sch|cke|pke|mke)$|^sch"
)
_FRENCH = re.compile(
    r"(?:eau|eaux|ault|aud|ier|iere|ois|oix|ez|ard|ette|elle|et|ot|ont|ain|in|ieu|eur|gne|ac|oux|ou)$|"
    r"^(?:du|le|de)[b-z]{4}"
)
_TYPE_TAIL = re.compile(
    r"(?:stra(?:\xdf|ss)e|str|weg|platz|gasse|allee|damm|ufer|ring|chaussee|stieg|steig|promenade|markt)$",
    re.IGNORECASE,
)
_SAME = (("strasse", "str"), ("street", "st"), ("avenue", "av"), ("ave", "av"), ("road", "rd"), ("boulevard", "bd"))
# Letters that may stand anywhere in a British postcode.
_CODE_LETTERS = "ABEHP"
_STATE = "|".join((*sorted(STATES), *STATE_NAMES))
_ZIP = rf"(?:{_STATE}) \d{{5}}(?:-\d{{4}})?"
_UK_CODE = r"[A-Za-z]{1,2}\d[A-Za-z\d]? ?\d[A-Za-z]{2}"
_CITY_FORMS = (
    re.compile(r"(?:[A-Z]{1,2}-)?\d{4,5} (?P<city>[^\d,]+)"),
    re.compile(rf"(?P<city>[^\d,]+?),? {_ZIP}"),
    re.compile(rf"(?:(?P<city>[^\d,]+?),? )?{_UK_CODE}"),
)
_CODE_TAIL = re.compile(rf"(?:(?<=[ ,]){_ZIP}|\b{_UK_CODE})$")
_STREET_TYPE = re.compile(
    r"\b(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|bd|court|ct|place|pl|square|sq|terrace|"
    r"way|close|crescent|gardens|grove|mews|parkway|highway|circle|hill|row|walk|rise|trail|loop|wharf|box|postfach|"
    r"rue|av|chemin|all[\xe9e]e|impasse|quai|route|passage)\b(?!\.? ?[A-Z][a-z]+$)",
    re.IGNORECASE,
)
_FRENCH_TYPE = re.compile(
    r"(?:\d+(?: ?(?:bis|ter|quater|[a-d]\b))?,? )?(?:ru|av|avenu|bd|boulevard|place|chemin|alle+|impasse|quai|route|"
    r"square|passage|faubourg|cite|residence|villa|sentier|esplanade|cours)\.? "
)
_PIECES = re.compile(r"[^\W\d_]+|\d+")


def name_identity(hit: Hit) -> str:
    """What makes two mentions the same person: the declared name, folded."""
    return person_of(hit.of or hit.text).identity


def address_identity(written: str) -> str:
    """An address without case, accents, punctuation and the ways to shorten "street"."""
    words = " ".join(re.findall(r"[^\W_]+", fold(written)))
    for long, short in _SAME:
        words = words.replace(long, short)
    return words.replace(" ", "")


def stand_in_name(draw: Draw, hit: Hit) -> str:
    """Another name in the form of the mention: its order, punctuation, case and initials."""
    person = person_of(hit.of or hit.text)

    def other(match: re.Match[str]) -> str:
        written = match.group()
        word = fold(written)
        if len(word) == 1 and word not in person.particles:
            return _cased(_initial(draw, word), written)
        if word in person.particles or word in TITLES or word in SUFFIXES:
            return written
        made = _given(draw, word) if word in person.given and word not in person.surname else _surname(draw, word)
        return _cased(made, written)

    return WORD.sub(other, hit.text)


def _cased(word: str, like: str) -> str:
    if like.isupper() and (len(like) > 1 or len(word) == 1):
        return word.upper()
    return word.lower() if like.islower() else word


def _initial(draw: Draw, letter: str) -> str:
    """The letter that given names with this initial get, another one."""
    numbers = draw("initial", letter)
    while (other := _LETTERS[_below(numbers, len(_LETTERS))]) == letter.upper():
        pass
    return other


def _given(draw: Draw, word: str) -> str:
    options = [name for name in GIVEN_BY_LETTER[_initial(draw, word[0])] if fold(name) != word]
    return options[_below(draw("given", word), len(options))]


def _surname(draw: Draw, word: str) -> str:
    """A surname put together in the language the original looks like."""
    language = "de" if _GERMAN.search(word) else "fr" if _FRENCH.search(word) else "en"
    numbers = draw("surname", word)
    while True:
        front, middle, back = (parts[_below(numbers, len(parts))] for parts in SURNAME_PARTS[language])
        smooth = front[-1] != (middle or back)[0] and (
            not middle or (middle[-1] != back[0] and front[-1] not in "aeiou")
        )
        if smooth and fold(front + middle + back) != word:
            return front + middle + back


def _below(numbers: Iterator[int], limit: int) -> int:
    return (next(numbers) << 24 | next(numbers) << 16 | next(numbers) << 8 | next(numbers)) % limit


def stand_in_address(draw: Draw, hit: Hit) -> str:
    """Another address of the same form: street words, city, numbers and postcode letters replaced, the types kept."""
    numbers = draw("address", address_identity(hit.text))
    if not _STREET_TYPE.search(hit.text):
        for form in _CITY_FORMS:
            if match := form.fullmatch(hit.text):
                return _other_city(numbers, hit.text, match)
    tail = _CODE_TAIL.search(hit.text)
    street = hit.text[: tail.start()] if tail else hit.text
    language = _street_language(street)
    made = _PIECES.sub(lambda match: _other_piece(numbers, match, language), street)
    return made + _other_digits(numbers, tail.group()) if tail else made


def _other_city(numbers: Iterator[int], written: str, match: re.Match[str]) -> str:
    city, (low, high) = match["city"] or "", match.span("city")
    language = _city_language(city) if match.re is _CITY_FORMS[0] else "en"
    if not city:
        return _other_digits(numbers, written)
    other = _cased(_one_of(numbers, STAND_IN_CITIES[language], city), city)
    return _other_digits(numbers, written[:low]) + other + _other_digits(numbers, written[high:])


def _one_of(numbers: Iterator[int], options: Sequence[str], written: str) -> str:
    others = [option for option in options if fold(option) != fold(written)]
    return others[_below(numbers, len(others))]


def _city_language(city: str) -> str:
    known = (CITIES.get(fold(part)) for part in re.split(r"[ -]", city))
    return next(filter(None, known), "fr" if re.match(r"L[ae]s? |Sainte?[ -]", city) else "de")


def _street_language(written: str) -> str:
    if _FRENCH_TYPE.match(fold(written)):
        return "fr"
    if re.match(r"\d|(?:flat|apt|apartment|unit|suite|p\.? ?o\.? )", written, re.IGNORECASE):
        return "en"
    return "de"


def _other_digits(numbers: Iterator[int], written: str) -> str:
    """Other digits for all digits, and other letters for those of a British postcode."""
    beside = {
        i
        for match in re.finditer(r"[A-Za-z]{1,2}\d[A-Za-z\d]? ?\d?[A-Za-z]{0,2}", written)
        for i in range(*match.span())
    }
    made = []
    for i, char in enumerate(written):
        if char.isdigit():
            low = int(char != "0" and not written[i - 1 : i].isdigit())
            digits = [str(d) for d in range(low, 10) if str(d) != char]
            made.append(digits[_below(numbers, len(digits))])
        elif i in beside and char.isalpha():
            letter = _CODE_LETTERS[_below(numbers, len(_CODE_LETTERS))]
            made.append(letter if char.isupper() else letter.lower())
        else:
            made.append(char)
    return "".join(made)


def _other_piece(numbers: Iterator[int], match: re.Match[str], language: str) -> str:
    """The stand-in of one word or number of a street."""
    written, text = match.group(), match.string
    word = fold(written)
    if written.isdigit():
        return _other_digits(numbers, written)
    if len(written) == 1 and text[match.start() - 1 : match.start()].isdigit():
        letters = "abcdefgh".replace(written.lower(), "")
        return _cased(letters[_below(numbers, len(letters))].upper(), written)
    # "Am Markt" is a whole name; in "Berliner Platz" the type stays.
    is_name = language == "de" and re.search(
        r"\b(?:[AI]m|[Aa]n de[rn]|[Zz]u[mr]|[Aa]uf de[rm]) $", text[: match.start()]
    )
    if written.islower() or (word in ADDRESS_WORDS and not (is_name and _TYPE_TAIL.fullmatch(written))):
        return written
    tail = _TYPE_TAIL.search(written) if language == "de" else None
    made = _one_of(numbers, STREET_STEMS[language], written[: tail.start()] if tail else written)
    return _cased(made + tail.group().lower() if tail else made, written)
