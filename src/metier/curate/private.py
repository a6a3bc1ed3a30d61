"""Private data and secrets, found by form, checksum and the row's declared subjects.

    >>> [(hit.kind, hit.text) for hit in find_private("Mail ana@example.org about ORD-12345")]
    [('email', 'ana@example.org')]
    >>> [hit.text for hit in find_private("Dear Ms Silva, order 4411 left.", ("Ana Silva",))]
    ['Silva']

Built not to take order numbers, ticket references, amounts, dates and versions for private data: they are what the
text is about. Names are looked for only where the row declares them as its subjects (`private_names`); a name that no
column holds stays. `docs/curate.md` lists what is found in which language, and the measured recall.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from operator import attrgetter

from metier.curate.checksums import card_is_valid, iban_is_valid
from metier.curate.private_addresses import find_addresses
from metier.curate.private_hit import Hit, flat_text
from metier.curate.private_names import find_subjects
from metier.curate.private_numbers import find_numbers
from metier.curate.private_secrets import find_emails, find_secrets

__all__ = ["KINDS", "Hit", "card_is_valid", "find_private", "iban_is_valid"]

KINDS = (
    "url", "secret", "email", "iban", "card", "fr_nir", "de_social", "de_tax_id", "uk_nhs", "us_ssn", "uk_nino",
    "es_dni", "ip", "phone", "record", "address", "name",
)  # fmt: skip
"""Kinds, the surest first: where two lie over each other the earlier one holds."""
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}
_DIGIT = re.compile(r"[0-9]")


def find_private(text: str, subjects: Sequence[str] = ()) -> list[Hit]:
    """Every piece of private data in a text, in order, none overlapping another.

    `subjects` are the people the row declares: their names, e-mail addresses and ids are found as they stand in text.
    """
    flat = flat_text(text)
    low = flat.lower()
    hits = find_secrets(flat, low)
    if "@" in flat or "at)" in flat or "at]" in flat or "AT)" in flat or "AT]" in flat:
        hits += find_emails(flat)
    if _DIGIT.search(flat):
        hits += find_numbers(flat, low)
        hits += find_addresses(flat)
    if subjects:
        hits += find_subjects(flat, subjects)
    if not hits:
        return hits
    kept = _settled(hits)
    return kept if flat is text else [hit._replace(text=text[hit.start : hit.end]) for hit in kept]


def _settled(hits: Iterable[Hit]) -> list[Hit]:
    """Hits of which none lies over another: the surer kind, then the longer one, then the first."""
    kept: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (_RANK[hit.kind], hit.start - hit.end, hit.start)):
        at = bisect_left(kept, hit.start, key=attrgetter("start"))
        if (at == 0 or kept[at - 1].end <= hit.start) and (at == len(kept) or hit.end <= kept[at].start):
            kept.insert(at, hit)
    return kept
