"""Planted private data in three languages: how much is found, what else is hit, and that nothing of it is left."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
from scipy.stats import beta

from metier.curate.private import Hit, find_private
from metier.curate.surrogates import canonical, replace_private, surrogate
from tests.curate.planting import CHECKSUMMED, KINDS_OF, LOCALES, Planted, innocents, plant

SEED = 20261126
ROWS = 200
EVERY = [(locale, kind) for locale in LOCALES for kind in KINDS_OF[locale]]


def is_found(row: Planted) -> bool:
    covered = {
        place
        for hit in find_private(row.text, row.subjects)
        if hit.kind == row.kind
        for place in range(hit.start, hit.end)
    }
    return all(place in covered for place in range(row.start, row.end) if row.text[place].isalnum())


@pytest.mark.parametrize(("locale", "kind"), EVERY)
def test_planted_values_are_found(locale: str, kind: str) -> None:
    rows = list(plant(locale, kind, rows=ROWS, seed=SEED))
    num_found = sum(map(is_found, rows))
    low = float(beta.ppf(0.025, num_found, ROWS - num_found + 1))  # Clopper-Pearson, 95 %
    assert low >= (0.95 if kind in CHECKSUMMED else 0.90)


@pytest.mark.parametrize("locale", LOCALES)
def test_innocent_numbers_are_left(locale: str) -> None:
    texts = list(innocents(locale, rows=3 * ROWS, seed=SEED))
    hit = [(text, hits) for text in texts if (hits := find_private(text, ("Will Brown",)))]
    assert len(hit) <= 0.01 * len(texts), hit[:5]


@pytest.mark.parametrize(("locale", "kind"), EVERY)
def test_nothing_of_a_planted_value_is_left_when_it_is_replaced(locale: str, kind: str) -> None:
    rows = [row for row in plant(locale, kind, rows=60, seed=SEED) if is_found(row)]
    left = [row for row in rows if row.value in replace_private(row.text, find_private(row.text, row.subjects), b"key")]
    assert len(rows) > 50
    assert left == []


def test_one_person_is_one_other_person_in_every_row_and_nobody_is_two() -> None:
    made_by_person: dict[str, set[str]] = {}
    mentions: Counter[str] = Counter()
    for row in chain.from_iterable(plant(locale, "name", rows=300, seed=SEED) for locale in LOCALES):
        for hit in find_private(row.text, row.subjects):
            if hit.kind == "name":
                whole = surrogate(b"key", Hit("name", 0, len(hit.of), hit.of, hit.of))
                words = set(whole.replace(",", "").casefold().split())
                made_by_person.setdefault(canonical(hit), set()).add(" ".join(sorted(words)))
                mentions[canonical(hit)] += 1
                # A mention is made of the words of the whole, or of their initials.
                said = surrogate(b"key", hit).casefold().replace(",", " ").replace(".", " ").replace("_", " ").split()
                assert all(word in words or any(other.startswith(word) for other in words) for word in said)
    assert mentions.most_common(1)[0][1] > 1
    assert all(len(made) == 1 for made in made_by_person.values())
