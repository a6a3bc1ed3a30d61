"""Postal addresses of Britain, the United States, Germany and France: street with number, postcode with city.

    >>> [hit.text for hit in find_addresses("I moved to Lindenstr. 5a, 10115 Berlin; before: 12 Baker Street")]
    ['Lindenstr. 5a', '10115 Berlin', '12 Baker Street']

Streets are found where they are written with capitals and have a number, or a postcode behind them. A postcode counts
with a larger city, a state or a street beside it; a British one by its form. A city alone is no address.
"""

from __future__ import annotations

import re

from metier.curate.private_hit import Hit, before
from metier.curate.private_lists import CITIES, STATE_NAMES, STATES, fold

__all__ = ["find_addresses"]

_NUMBER = re.compile(r"[0-9]+")
_UP, _LO = "A-Z\xc0-\xd6\xd8-\xde", "a-z\xdf-\xf6\xf8-\xff"
_CAP = rf"[{_UP}][{_UP}{_LO}'-]*"

_EN_TYPE = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr(?!\.? [A-Z]['a-z])|Boulevard|Blvd|Court|Ct|Place|Pl|Square|Sq|"
    r"Terrace|Ter|Way|Close|Crescent|Cres|Gardens|Gdns|Grove|Mews|Parkway|Pkwy|Highway|Hwy|Circle|Cir|Hill|Row|Walk|"
    r"Rise|Trail|Loop|Wharf|STREET|ST|AVENUE|AVE|ROAD|RD|LANE|LN|DRIVE|DR|BOULEVARD|BLVD|COURT|CT|PLACE|PL|SQUARE|"
    r"TERRACE|WAY|CLOSE|GARDENS|GROVE)\b"
)
_UNIT = r"(?:[Aa]pt|[Aa]partment|[Ss]uite|[Ss]te|[Uu]nit|[Ff]lat|[Ff]loor|[Ss]tudio|#)\.? ?[A-Za-z]?\d*[A-Za-z]?\b"
_EN_STREET = re.compile(
    r"\d{1,5}(?:-\d{1,4})?[A-Za-z]?,? (?:[NSEW]{1,2}\.? |North |South |East |West )?"
    rf"(?:(?:{_CAP}|(?:St|Mt|Ft)\.|\d{{1,3}}(?:st|nd|rd|th)) ){{1,3}}?{_EN_TYPE}(?:\.?,? {_UNIT})?"
)
_EN_FLAT = re.compile(rf"{_UNIT},? $")
# Lower case only for the words that are hardly anything else after a number and a name.
_LOW_STREET = re.compile(
    r"\d{1,5}[a-z]? (?!more|less|times|miles?|other|each|lane|side|feet|meters?|metres?|yards?|blocks?|busy|long|main|"
    r"hours?|minutes?|day|city|different|new|old)[a-z]{4,} (?:street|avenue|road)(?![a-z])"
)
# What lies between a house number or a flat and the city with its code: words with capitals, blanks and commas.
_EN_BLOCK = re.compile(rf"(?<![\w.,-])(?:{_UNIT},? |\d{{1,5}}[A-Za-z]?,? ){{1,2}}(?:(?:{_UNIT}|{_CAP}\.?),? ){{1,7}}$")
_US_STATE = re.compile(rf"{_CAP}\.?(?: {_CAP}){{0,2}}?,? ([A-Z]{{2}}|{'|'.join(STATE_NAMES)}) $")
_ZIP_TAIL = re.compile(r"-\d{4}(?!\d)")
_UK_CODE = re.compile(
    r"(?<![A-Za-z0-9-])(?:GIR ?0AA|[A-PR-UWYZ](?:\d|\d\d|[A-HK-Y]\d|[A-HK-Y]\d\d|\d[A-HJKPSTUW]|"
    r"[A-HK-Y]\d[ABEHMNPRVWXY])"
    r"( ?)\d[ABD-HJLNP-UW-Z]{2})(?![A-Za-z0-9-])",
    re.IGNORECASE,
)
_CITY_BEFORE = re.compile(rf"({_CAP})(?: {_CAP})?,? $")

_FR_TYPE = (
    r"(?:[Rr]ue|RUE|[Aa]v(?:enue|\.)|AVENUE|[Bb](?:oulevar)?d\.?|BOULEVARD|[Pp]lace|[Cc]hemin|[Aa]ll\xe9e|[Ii]mpasse|"
    r"[Qq]uai|[Rr]oute|[Ss]quare|[Pp]assage|[Ff]aubourg|[Cc]it\xe9|[Rr]\xe9sidence|[Vv]illa|[Ss]entier|[Ee]splanade|"
    r"[Cc]ours(?= (?:de|du|des|d')))"
)
_FR_LINK = r"(?:de la |de l'|de |du |des |d'|la |le |les |l'|\xe0 |aux |en |DE LA |DE |DU |DES )"
_FR_NAME = rf"{_FR_TYPE} {_FR_LINK}{{0,2}}{_CAP}(?:[ -]{_FR_LINK}{{0,2}}{_CAP}){{0,4}}"
_FR_STREET = re.compile(rf"\d{{1,4}}(?: ?(?:bis|ter|quater|[A-D])\b)?,? {_FR_NAME}")
_FR_BEFORE_CODE = re.compile(rf"(?<!\w){_FR_NAME}(?: \d{{1,4}}[a-z]?)?(?=,? $)")

_DE_TAIL = (
    "stra\xdfe ", "strasse ", "str. ", "str.", "str ", "weg ", "platz ", "gasse ", "allee ", "damm ", "ufer ", "ring ",
    "chaussee ", "steig ", "stieg ", "promenade ", "markt ",
)  # fmt: skip
_DE_TYPE = (
    r"(?:[Ss]tra(?:\xdf|ss)e|STRASSE|[Ss]tr\.?|STR\.?|[Ww]eg|WEG|[Pp]latz|PLATZ|[Gg]asse|[Aa]llee|[Dd]amm|[Uu]fer|"
    r"[Rr]ing|[Cc]haussee|[Ss]tieg|[Ss]teig|[Pp]romenade|[Mm]arkt)"
)
_DE_STREET = re.compile(
    r"(?<!\w)(?:(?:van|von|vom|zum|zur)(?: der| den)? )?"
    rf"(?:(?:{_CAP}[ -]){{1,3}}{_DE_TYPE}|(?:{_CAP}[ -]){{0,3}}[{_UP}][{_UP}{_LO}-]+?{_DE_TYPE}) ?$"
)
_DE_HOUSE = re.compile(r"\d{1,4}(?: ?[a-hA-H](?!\w))?(?: ?[-/+] ?\d{1,4}[a-h]?)?(?![\w.,]\d)")
# Words that end like a street and are none; -ring only behind letters that no English -ing has.
_DE_NO_STREET = re.compile(
    r"^(?:der|die|das|den|dem|eine?n?|meine?n?|deine?n?|unsere?n?|keine?n?) \w+$"
    r"|(?:^|[ -])(?:(?:arbeits|park|sitz|stell|speicher|steck|lager|spiel|listen|camping|liege|steh|warte|schlaf|zelt|"
    r"stamm|standard)platz|(?:um|aus|r\xfcck|hin|her|heim|werde|bildungs|rechts|verkehrs)weg|(?:super|bau|arbeits|fach|"
    r"floh|"
    r"weihnachts|wochen|drogerie|getr\xe4nke)markt|[^ -]+(?<![rnlgdfkh])(?<!stadt)(?<!hansa)ring)$",
    re.IGNORECASE,
)
_CODE_BEHIND = re.compile(r",?[ \n](?:[A-Z]{1,2}-)?\d{4,5} [A-Z\xc4\xd6\xdc]")
_DE_PHRASE = re.compile(
    r"(?:Am|An der|An den|An dem|Im|In der|In den|Auf der|Auf dem|Unter den|Zum|Zur|Hinter der|Hinter dem|Vor dem|"
    r"Beim|Alte|"
    rf"Alter|Neue|Neuer) {_CAP}(?: {_CAP})? \d{{1,4}} ?[a-h]?(?=,? $)"
)
_CITY = re.compile(
    r"(?:(?:Bad|Sankt|St\.?|La|Le|Les|Saint|Sainte|K\xf6nigs|Markt|Neu|Alt|New|Schw\xe4bisch|Hannoversch|Bergisch|"
    r"Wiener) ){0,2}"
    rf"{_CAP}(?:(?:-(?:(?:en|de|du|la|le|les|l\xe8s|sur|sous|am)-)?| (?:am|an der|im|in der|in(?= [TKOSV])|ob der|bei|"
    rf"sur|sous|l\xe8s) ){_CAP})*"
)
_CITY_WORDS = frozenset(("bad", "sankt", "saint", "sainte"))
_COUNTRY = re.compile(r"(?<!\w)(?:D|A|CH|F|FR|DE|AT)-$")
_SAYS_POSTCODE = re.compile(
    r"\b(?:post ?code|postal code|zip|zip code|plz|postleitzahl|code postal)[^\d\n]{0,12}$", re.IGNORECASE
)
_AMOUNTS = frozenset(("euro", "euros", "eur", "usd", "chf", "gbp", "stuck", "uhr", "kunden"))
_BOX = re.compile(r"\b(?:P\.? ?O\.? ?Box|Postfach|B\.?P\.?) (?:\d{2,6}|\d\d(?: \d\d){1,2})\b")
_NEAR = 4
"""Characters that may lie between a street and its postcode."""
_BACK = 96
"""Characters before a postcode in which its street is looked for."""

_Span = tuple[int, int]


def find_addresses(text: str) -> list[Hit]:
    """Streets and postcodes of a flat text, in order, none overlapping another."""
    spans: list[_Span] = []
    for number in _NUMBER.finditer(text):
        start, end = number.span()
        front = text[max(0, start - 2) : start]
        if end - start > 5 or front.endswith((".", ",", "#")) or (front[-1:] == "-" and front[0].isdigit()):
            continue
        last = spans[-1][1] if spans else 0
        if start < last:
            continue
        for low, high in _street(text, start, end) or _postcode(text, start, end, last):
            # Where an earlier number began a street, what is left of the address is its own hit.
            low = max(low, last)
            low += len(text[low:high]) - len(text[low:high].lstrip(" ,.\n"))
            spans.append((low, high))
    if "ox " in text or "fach " in text or "BP " in text:
        spans += [match.span() for match in _BOX.finditer(text)]
    return [Hit("address", low, high, text[low:high]) for low, high in spans if low < high]


def _street(text: str, start: int, end: int) -> list[_Span]:
    """The street that begins or ends with the number, if there is one."""
    if start and text[start - 1].isalnum():
        return []
    if text[end : end + 1].isspace() or text[end : end + 1].isalpha() or text[end : end + 1] in (",", "-"):
        match = _EN_STREET.match(text, start) or _FR_STREET.match(text, start) or _LOW_STREET.match(text, start)
        if match:
            flat = _EN_FLAT.search(text[max(0, start - 16) : start])
            return [(start - len(flat.group()) if flat else start, match.end())]
    if text[max(0, start - 10) : start].lower().endswith(_DE_TAIL):
        low = max(0, start - 48)
        street, house = _DE_STREET.search(text[low:start]), _DE_HOUSE.match(text, start)
        sure = house and _CODE_BEHIND.match(text, house.end())
        if street and house and (sure or not _DE_NO_STREET.search(street.group().strip())):
            return [(low + street.start(), house.end())]
    return []


def _postcode(text: str, start: int, end: int, last: int) -> list[_Span]:
    """The postcode with its city that the number is, and the street before it where no number began it."""
    if end - start == 5 and (found := _zip(text, start, end)):
        return found
    if end - start in (4, 5) and (found := _continental(text, start, end, last)):
        return found
    return _british(text, start, last) if start and text[start - 1].isalpha() else []


def _zip(text: str, start: int, end: int) -> list[_Span]:
    """City, state and ZIP code, with the house before them."""
    found = _US_STATE.search(text[max(0, start - 44) : start]) if text[start - 1 : start] == " " else None
    if found is None or (len(found[1]) == 2 and found[1] not in STATES):
        return []
    tail = _ZIP_TAIL.match(text, end)
    low = start - len(found.group())
    block = _EN_BLOCK.search(text[max(0, low - _BACK) : low])
    return [(low - len(block.group()) if block else low, tail.end() if tail else end)]


def _continental(text: str, start: int, end: int, last: int) -> list[_Span]:
    """Postcode and city as in Germany, Austria, Switzerland and France."""
    if text[end : end + 1] != " " or not text[end + 1 : end + 2].isupper():
        return []
    city = _CITY.match(text, end + 1)
    if city is None or fold(city.group()) in _AMOUNTS:
        return []
    back = text[max(0, start - _BACK) : start]
    country = _COUNTRY.search(back)
    words = [fold(word) for word in re.split(r"[ -]", city.group())]
    known = words[0] in _CITY_WORDS or any(word in CITIES for word in words)
    beside = bool(last) and 0 <= start - last <= _NEAR
    street = None if beside else _DE_PHRASE.search(back) or _FR_BEFORE_CODE.search(back)
    if not (known or beside or country or street or before(text, start, _SAYS_POSTCODE)):
        return []
    low = start - len(back)
    code = (start - len(country.group()) if country else start, city.end())
    return [(low + street.start(), low + street.end()), code] if street else [code]


def _british(text: str, start: int, last: int) -> list[_Span]:
    """A British postcode, with the city before it where that is a known one, or the house and city."""
    low = start
    while low and text[low - 1].isalpha() and start - low < 2:
        low -= 1
    code = _UK_CODE.match(text, low)
    if code is None:
        return []
    back = text[max(0, low - _BACK) : low]
    city, block = _CITY_BEFORE.search(back), _EN_BLOCK.search(back)
    known = city is not None and fold(city[1]) in CITIES
    beside = bool(last) and 0 <= low - last <= 24
    plain = bool(code[1]) and code.group().isupper()
    if not (plain or known or beside or block or before(text, low, _SAYS_POSTCODE)):
        return []
    if block:
        return [(low - len(block.group()), code.end())]
    if city is not None and (known or beside):
        return [(low - len(city.group()), code.end())]
    return [(low, code.end())]
