"""E-mail addresses, URLs that carry a secret, API keys, tokens and passwords.

    >>> [(hit.kind, hit.text) for hit in find_secrets("https://x.example/a?token=Zm9vYmFyMTIz")]
    [('url', 'Zm9vYmFyMTIz')]

Of a URL only the secret part is a hit: the rest says what the text is about. A password is found after its word and a
colon or equals sign, or where it holds a digit; "password: expired" is none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from math import log2

from metier.curate.private_hit import Hit, holds_word
from metier.curate.private_lists import MAYBE_SECRET_NAMES, SECRET_NAMES

__all__ = ["KEY_FORMS", "find_emails", "find_secrets"]

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9_][\w.+%'-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}(?![\w-])", re.ASCII
)
_LETTERED_EMAIL = re.compile(r"(?<![\w.+-])\w[\w.+%'-]{0,63}@(?:[\w-]{1,63}\.){1,6}[^\W\d_]{2,24}(?![\w-])")
_AT = r" ?[\[({] ?(?:at|@|\xe4t) ?[\])}] ?"
_DOT = r"(?:\.| ?[\[({] ?(?:dot|punkt|point) ?[\])}] ?)"
_SPELT_EMAIL = re.compile(
    rf"(?<![\w.+-])[A-Za-z0-9][\w.+'-]{{0,63}}{_AT}[A-Za-z0-9-]{{1,63}}(?:{_DOT}[A-Za-z0-9-]{{2,24}}){{1,4}}(?![\w-])",
    re.IGNORECASE,
)

# Prefix that stays, then what is secret. The prefixes are those the issuers document.
KEY_FORMS = {
    "AKIA": r"[A-Z0-9]{16}", "ASIA": r"[A-Z0-9]{16}", "ghp_": r"[A-Za-z0-9]{30,}", "gho_": r"[A-Za-z0-9]{30,}",
    "ghu_": r"[A-Za-z0-9]{30,}", "ghs_": r"[A-Za-z0-9]{30,}", "ghr_": r"[A-Za-z0-9]{30,}", "github_pat_": r"\w{22,}",
    "glpat-": r"[\w-]{20,}", "xoxa-": r"[\w-]{10,}", "xoxb-": r"[\w-]{10,}", "xoxe-": r"[\w-]{10,}",
    "xoxp-": r"[\w-]{10,}", "xoxr-": r"[\w-]{10,}", "xoxs-": r"[\w-]{10,}", "xapp-": r"[\w-]{10,}",
    "sk_live_": r"\w{16,}", "sk_test_": r"\w{16,}", "rk_live_": r"\w{16,}", "whsec_": r"[\w+/=]{16,}",
    "AIza": r"[\w-]{35}", "ya29.": r"[\w.-]{20,}", "GOCSPX-": r"[\w-]{20,}", "sk-ant-": r"[\w-]{20,}",
    "sk-proj-": r"[\w-]{20,}", "sk-": r"[A-Za-z0-9]{32,}", "hf_": r"[A-Za-z0-9]{30,}", "npm_": r"[A-Za-z0-9]{30,}",
    "pypi-": r"[\w-]{40,}", "SG.": r"[\w-]{16,}\.[\w-]{16,}", "dop_v1_": r"[0-9a-f]{40,}", "shpat_": r"[0-9a-fA-F]{32}",
    "AccountKey=": r"[\w+/=]{40,}", "eyJ": r"[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]{8,})?",
}  # fmt: skip
_KEY = re.compile(
    r"(?<![A-Za-z0-9_])(?:" + "|".join(re.escape(p) + form for p, form in KEY_FORMS.items()) + ")", re.ASCII
)
_PREFIXES = tuple(KEY_FORMS)
_PEM = re.compile(
    r"-----BEGIN ([A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?)-----.{0,20000}?(?:-----END \1-----|\Z)", re.ASCII | re.DOTALL
)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s<>\"'`]+")
_USERINFO = re.compile(r"://([^\s/@:?#]{1,64}:[^\s/@]{1,128})@")
_QUERY = re.compile(r"[?&;#]([A-Za-z0-9_.~%\[\]-]{1,40})=([^\s&#<>\"'`]+)")
_PATH_SECRET = re.compile(r"(?<=/)(?:[A-Fa-f0-9]{32,}|[A-Za-z0-9_-]{24,})(?=/|\?|#|\Z|[.,;:!)]*\Z)")
_WEBHOOK = re.compile(r"(?<=hooks\.slack\.com/services/)[\w/]{20,}")

_PASSWORD = re.compile(
    r"\b(?:pass(?:word|wort|wd|code|phrase)?|pwd|pw|kennwort|zugangscode|mot de passe|mdp|cvv2?|cvc2?|"
    r"pin(?:[ -]?(?:code|nummer|number))?)(?:\s?\([^)\n]{1,24}\))?"
    r"(?P<how>\s*[:=]+>?\s*|\s+(?:is|ist|lautet|est|was|war)(?:\s*:)?\s+|\s+)(?P<quote>[\"'`\xab\u201e\u201c]?)"
    r"(?P<value>[^\s\"'`\xbb\u201c\u201d<>]{3,64})",
    re.IGNORECASE,
)
_NAMED_KEY = re.compile(
    r"\b(?:api[ _-]?(?:key|token|secret)|(?:access|auth|secret|private|client|encryption|license|account|shared|"
    r"signing)[ _-]?(?:access[ _-]?)?(?:key|token|secret)|token|secret|bearer|basic|apikey|schl(?:\xfc|ue)ssel|jeton|"
    r"cl[e\xe9](?: (?:api|secr[e\xe8]te))?|webhook[ _-]secret|aws_secret_access_key|aws_session_token)\b[\"']?"
    r"(?:\s*[:=]+>?\s*|\s+(?:(?:is|ist|lautet|est)\s+)?)[\"'`\xab\u201e\u201c]?(?P<value>[\w+/=.~-]{12,400})",
    re.IGNORECASE,
)
_PASSWORD_WORDS = ("passw", "passc", "passp", "de passe", "pwd", "kennwort", "zugangscode", "mdp", "cvv", "cvc")
_SHORT_WORDS = ("pass", "pin", "pw")
_KEY_WORDS = ("key", "token", "secret", "bearer", "basic", "schl\xfcssel", "schluessel", "cl\xe9", "cle", "jeton")
_TRAILING = ".,;:)]}\xbb\u201d'\""
MIN_KEY_CHARS, MIN_VALUE_CHARS = 15, 12
"""Characters of the shortest key with a prefix, and of a value after "key" or "token"."""
MIN_BITS = 2.8
"""Shannon entropy a character, in bits, below which a value after "key" or "token" is a word and no secret."""


def find_emails(text: str) -> Iterator[Hit]:
    """E-mail addresses of a flat text that holds an @, or one spelt `(at)`."""
    for match in (_EMAIL if text.isascii() else _LETTERED_EMAIL).finditer(text):
        yield Hit("email", match.start(), match.end(), match.group())
    for match in _SPELT_EMAIL.finditer(text):
        yield Hit("email", match.start(), match.end(), match.group())


def find_secrets(text: str, low: str) -> list[Hit]:
    """URL secrets, keys and passwords of a flat text; `low` is the text in lower case."""
    hits: list[Hit] = []
    longest = max(map(len, text.split()), default=0)
    if "://" in text:
        for url in _URL.finditer(text):
            hits += _url_secrets(url)
    if longest >= MIN_KEY_CHARS and any(prefix in text for prefix in _PREFIXES):
        hits += [Hit("secret", m.start(), m.end(), m.group()) for m in _KEY.finditer(text)]
    if "PRIVATE KEY" in text:
        hits += [Hit("secret", m.start(), m.end(), m.group()) for m in _PEM.finditer(text)]
    if any(word in low for word in _PASSWORD_WORDS) or any(holds_word(low, word) for word in _SHORT_WORDS):
        hits += _passwords(text)
    if longest >= MIN_VALUE_CHARS and any(word in low for word in _KEY_WORDS):
        hits += _named_keys(text)
    return hits


def _url_secrets(url: re.Match[str]) -> Iterator[Hit]:
    text, start = url.group().rstrip(_TRAILING), url.start()

    def hit(low: int, high: int) -> Hit:
        return Hit("url", start + low, start + high, text[low:high])

    if user := _USERINFO.search(text):
        yield hit(*user.span(1))
    for pair in _QUERY.finditer(text):
        name, value = pair.group(1).casefold(), pair.group(2)
        if (name in SECRET_NAMES and len(value) >= 4) or (name in MAYBE_SECRET_NAMES and _is_random(value, 16)):
            yield hit(*pair.span(2))
    path = text.partition("?")[0].partition("#")[0]
    for match in (*_WEBHOOK.finditer(path), *_PATH_SECRET.finditer(path)):
        if _is_random(match.group(), 24):
            yield hit(*match.span())


def _passwords(text: str) -> Iterator[Hit]:
    for match in _PASSWORD.finditer(text):
        value = match.group("value")
        if not match.group("quote"):
            value = value.rstrip(_TRAILING) if len(value) > 4 else value.rstrip(".,;:")
        word = match.group()[: match.start("how") - match.start()].lower()
        number = word.startswith(("pin", "cv"))
        if number and not (value.isdigit() and 3 <= len(value) <= 8):
            continue
        if word == "pass" and not match.group("how").strip().startswith((":", "=")):
            continue  # the verb
        if number or _is_password(value, match.group("how"), quoted=bool(match.group("quote"))):
            start = match.start("value")
            yield Hit("secret", start, start + len(value), value)


def _is_password(value: str, how: str, *, quoted: bool) -> bool:
    """Whether what follows "password" is one, and no word of the sentence."""
    if len(value) < 4 or len({char for char in value if char.isalnum()} - {"x", "X"}) < 2 or "://" in value:
        return False  # too short, a mask of stars, an address
    if "@" in value[1:-1] and "." in value.rpartition("@")[2]:
        return False
    digit = any(char.isdigit() for char in value)
    letter = any(char.isalpha() for char in value)
    symbol = any(not char.isalnum() and char not in "-./,_'{}[]()" for char in value)
    inner_case = value[1:] != value[1:].lower() and not value.isupper() and letter
    if ":" in how or "=" in how or quoted:
        return quoted or (digit and len(value) >= 4) or symbol or inner_case
    return len(value) >= 6 and letter and digit and (symbol or inner_case or len(value) >= 8)


def _named_keys(text: str) -> Iterator[Hit]:
    for match in _NAMED_KEY.finditer(text):
        value = match.group("value").rstrip(".~-")
        if _is_random(value, MIN_VALUE_CHARS):
            yield Hit("secret", match.start("value"), match.start("value") + len(value), value)


def _is_random(value: str, least: int) -> bool:
    """Whether a value is long enough, mixes letters and digits (or cases), and is no word, date or path."""
    if len(value) < least or not any(char.isalpha() for char in value):
        return False
    if not any(char.isdigit() for char in value):
        return sum(a.islower() and b.isupper() for a, b in pairwise(value)) >= 4 and value.isalpha()
    counts = Counter(value).values()
    bits = -sum(count / len(value) * log2(count / len(value)) for count in counts)
    # Words joined by hyphens with a number, such as a page's address, have few changes between letters and digits.
    changes = sum(a.isdigit() != b.isdigit() for a, b in pairwise(value))
    return bits >= MIN_BITS and (changes >= 3 or value.lower() != value != value.upper())
