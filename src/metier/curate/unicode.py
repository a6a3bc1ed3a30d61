r"""Text whose characters went wrong on the way, repaired where that is certain and left byte-identical elsewhere.

    >>> repaired("The caf\u00c3\u00a9 is open.")
    ('The caf\xe9 is open.', ('mojibake',))
    >>> repaired("\ufeffHello")
    ('Hello', ('invisible',))

Four kinds, in this order. `mojibake`: UTF-8 that was read in another encoding (ftfy decides, and only its decoding is
used: quotes, ligatures and widths stay). `control`: terminal colours and control characters; those that part text
become a line break or a blank. `invisible`: characters without width, where they carry nothing. `nfc`: one spelling of
composed letters.

A joiner stays in an emoji and in scripts whose letters it shapes, a direction mark where there is right-to-left text.
It cannot know a text that quotes mojibake on purpose.
"""

from __future__ import annotations

import json
import re
import unicodedata
from functools import cache
from typing import Any

__all__ = ["KINDS", "repaired", "repaired_values"]

KINDS = ("mojibake", "control", "invisible", "nfc")

# NUL is no business of ours: the reader refuses it.
_CONTROLS = bytes([*range(1, 9), 11, 12, *range(14, 32), 127])
_CONTROL = re.compile(f"[{re.escape(_CONTROLS.decode())}]")
_TO = dict.fromkeys(_CONTROLS) | {11: "\n", 12: "\n"} | dict.fromkeys(range(28, 32), " ")
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")

_TAGS = "\U000e0001\U000e0020-\U000e007f"
_INVISIBLE = re.compile(f"[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060\u2066-\u206f\ufeff{_TAGS}]")
_TAG = re.compile(f"[{_TAGS}]")
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_TURNED = re.compile("[\u202b\u202d\u202e\u2067]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
# Hebrew to Myanmar, Khmer, Mongolian and their neighbours, Indic additions, Arabic forms, Brahmi's descendants.
_SHAPED = re.compile(
    "[\u0590-\u109f\u1700-\u1aff\u1b00-\u1bff\u1cd0-\u1cff\ua800-\ua82f\ua840-\uaaff\uabc0-\uabff\ufb1d-\ufdff"
    "\ufe70-\ufefc\U00010a00-\U00010aff\U00010f30-\U00010fff\U00011000-\U00011fff\U0001e900-\U0001e95f]"
)
_BLACK_FLAG = "\U0001f3f4"
_EMOJI_TAIL = frozenset("\ufe0f\u20e3") | {chr(code) for code in range(0x1F3FB, 0x1F400)}


def repaired(text: str) -> tuple[str, tuple[str, ...]]:
    """The text and the kinds of repair that changed it; the very same text and none where nothing was wrong."""
    if text.isascii():
        if len(text.encode().translate(None, _CONTROLS)) == len(text):
            return text, ()
        return _TERMINAL.sub("", text).translate(_TO), ("control",)
    kinds = []
    steps = (_without_mojibake, _without_controls, _without_invisible, _composed)
    for kind, step in zip(KINDS, steps, strict=True):
        changed = step(text)
        if changed != text:
            text = changed
            kinds.append(kind)
    return text, tuple(kinds)


def repaired_values(value: Any, found: set[str], opened: frozenset[str] = frozenset()) -> Any:  # Any: a JSON value
    """A JSON value with every text in it repaired (names of fields are not), the very same one where none was.

    The kinds of repair are added to `found`. Fields named in `opened` hold JSON as text: it is repaired inside.
    """
    if value.__class__ is str:
        text, kinds = repaired(value)
        if kinds:
            found.update(kinds)
        return text
    if isinstance(value, dict):
        changed = {}
        for key, item in value.items():
            new = repaired_values(item, found, opened)
            if key in opened and new.__class__ is str and new[:1] in ("[", "{") and "\\u" in new:
                new = _repaired_inside(new, found, opened)
            if new is not item:
                changed[key] = new
        return {**value, **changed} if changed else value
    if isinstance(value, list):
        items = [repaired_values(item, found, opened) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value


def _repaired_inside(text: str, found: set[str], opened: frozenset[str]) -> str:
    """JSON text whose escaped characters are repaired."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text  # no JSON: whoever reads the field says so
    new = repaired_values(value, found, opened)
    return text if new is value else json.dumps(new)


def _without_mojibake(text: str) -> str:
    if not _perhaps_mojibake().search(text):
        return text
    import ftfy  # takes a quarter of a second to load: only where something looks wrong

    # No lossy sequences: where bytes are gone, a replacement character would only hide which text was damaged.
    return ftfy.fix_encoding(text, replace_lossy_sequences=False)


@cache
def _perhaps_mojibake() -> re.Pattern[str]:
    """What every text that ftfy can decode holds: a first byte of UTF-8 and a further one, read in an old encoding.

    ftfy's own test takes a microsecond for each five characters, too long for text that is only not ASCII.
    """
    names = ("latin-1", "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "iso8859-2", "mac_roman", "cp437")
    first = "".join({bytes([byte]).decode(name, "ignore") for name in names for byte in range(0xC2, 0xF5)})
    further = "".join({bytes([byte]).decode(name, "ignore") for name in names for byte in range(0x80, 0xC0)})
    # The further byte 0xA0 is often a plain blank by now; only behind these letters is that no common text.
    blank = "[\u00c2\u00c3\u00c5\u00ce\u00d0\u00d9] "
    return re.compile(f"[\x80-\x9f]|[{re.escape(first)}][{re.escape(further)}]|{blank}")


def _without_controls(text: str) -> str:
    return _TERMINAL.sub("", text).translate(_TO) if _CONTROL.search(text) else text


def _without_invisible(text: str) -> str:
    if not _INVISIBLE.search(text):
        return text
    has_direction = bool(_RIGHT_TO_LEFT.search(text) or _TURNED.search(text))
    return _INVISIBLE.sub(lambda match: match[0] if _carries(text, match.start(), has_direction) else "", text)


def _carries(text: str, place: int, has_direction: bool) -> bool:
    """Whether an invisible character changes what a reader sees."""
    mark = text[place]
    if mark in _DIRECTION:
        return has_direction
    if mark in "\u200b\u200c\u200d\u180e":
        before, behind = text[place - 1 : place], text[place + 1 : place + 2]
        if _SHAPED.match(before) or _SHAPED.match(behind):
            return True
        return mark == "\u200d" and _is_emoji(before) and _is_emoji(behind)
    if _TAG.match(mark):  # the flags of England, Scotland and Wales; elsewhere a way to hide text
        while place and _TAG.match(text[place]):
            place -= 1
        return text[place] == _BLACK_FLAG
    return False


def _is_emoji(char: str) -> bool:
    return bool(char) and (char in _EMOJI_TAIL or unicodedata.category(char) == "So")


def _composed(text: str) -> str:
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)
