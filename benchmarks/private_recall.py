"""How much planted private data is found, and what else is taken for it: recall and precision by kind and language.

    python benchmarks/private_recall.py --json              a fresh seed, 400 rows a kind and language
    python benchmarks/private_recall.py --rows 200 --seed 7
    python benchmarks/private_recall.py --faker             values of another project's generator: pip install faker

Values and texts come from `tests/curate/planting.py`, which the recognisers never see. A value counts as found when all
its letters and digits lie in hits of its kind. Precision is taken over the planted rows and as many rows of innocent
numbers: a hit that touches no planted value is wrong. Intervals are Clopper-Pearson, 95 %.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy.stats import beta

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.curate.planting import CHECKSUMMED, KINDS_OF, LOCALES, Planted, around, innocents, plant

from metier.curate.private import Hit, find_private
from metier.curate.surrogates import canonical, surrogate

KEY = b"benchmark"
MIN_RECALL = 0.95
"""What the lower end of the recall interval of a kind with a checksum must reach."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found of one kind in one language."""

    locale: str
    kind: str
    num_rows: int
    num_found: int
    recall: float
    recall_low: float
    recall_high: float
    num_hits: int
    """Hits of the kind in all texts of the language."""
    num_right: int
    precision: float | None
    precision_low: float | None
    same_type: float
    """Share of surrogates that are found as the same kind in their place."""
    kept: int
    """Surrogates that equal or contain the value they stand for."""


def interval(num_yes: int, num: int) -> tuple[float, float]:
    """Clopper-Pearson, 95 %."""
    low = 0.0 if num_yes == 0 else float(beta.ppf(0.025, num_yes, num - num_yes + 1))
    high = 1.0 if num_yes == num else float(beta.ppf(0.975, num_yes + 1, num - num_yes))
    return low, high


def is_found(row: Planted, hits: Sequence[Hit]) -> bool:
    """Whether every letter and digit of the planted value lies in a hit of its kind."""
    covered = {place for hit in hits if hit.kind == row.kind for place in range(hit.start, hit.end)}
    return all(place in covered for place in range(row.start, row.end) if row.text[place].isalnum())


def touches(row: Planted, hit: Hit) -> bool:
    return hit.start < row.end and row.start < hit.end


FAKER_LOCALES = {"en": ("en_US", "en_GB"), "de": ("de_DE", "de_AT", "de_CH"), "fr": ("fr_FR", "fr_CH")}
FAKER_CALLS = {
    "email": "email", "phone": "phone_number", "card": "credit_card_number", "iban": "iban", "ip": "ipv4",
    "address": "address",
}  # fmt: skip
FAKER_IDS = {"us_ssn": ("en_US", "ssn"), "de_social": ("de_DE", "rvnr"), "fr_nir": ("fr_FR", "ssn")}


def faked(locale: str, num_rows: int, seed: int) -> dict[str, list[Planted]]:
    """Rows with values of Faker in our sentences; its British insurance numbers are never issued, so left out."""
    from faker import Faker

    rng, made = random.Random(seed), {}
    for kind in KINDS_OF[locale]:
        if kind not in FAKER_CALLS and kind not in FAKER_IDS:
            continue
        named = (
            [(FAKER_IDS[kind])] if kind in FAKER_IDS else [(name, FAKER_CALLS[kind]) for name in FAKER_LOCALES[locale]]
        )
        makers: list[Callable[[], str]] = []
        for name, call in named:
            source = Faker(name)
            source.seed_instance(seed)
            makers.append(getattr(source, call))
        made[kind] = [around(rng, locale, kind, makers[i % len(makers)]().replace("\n", ", ")) for i in range(num_rows)]
    return made


def planted(locale: str, num_rows: int, seed: int) -> dict[str, list[Planted]]:
    return {kind: list(plant(locale, kind, rows=num_rows, seed=seed)) for kind in KINDS_OF[locale]}


Source = Callable[[str, int, int], dict[str, list[Planted]]]


def measure(source: Source, locale: str, num_rows: int, seed: int) -> tuple[list[Found], Counter[str]]:
    """Every kind of a language, and the kinds of the hits in its innocent texts."""
    rows_by_kind = source(locale, num_rows, seed)
    hits_by_kind = {kind: [find_private(row.text, row.subjects) for row in rows] for kind, rows in rows_by_kind.items()}
    wrong = Counter(hit.kind for text in innocents(locale, rows=num_rows, seed=seed) for hit in find_private(text))
    right: Counter[str] = Counter()
    in_planted: Counter[str] = Counter()
    for kind, rows in rows_by_kind.items():
        for row, hits in zip(rows, hits_by_kind[kind], strict=True):
            for hit in hits:
                (right if touches(row, hit) else in_planted)[hit.kind] += 1
    out = []
    for kind, rows in rows_by_kind.items():
        num_found = sum(is_found(row, hits) for row, hits in zip(rows, hits_by_kind[kind], strict=True))
        low, high = interval(num_found, num_rows)
        num_hits = right[kind] + in_planted[kind] + wrong[kind]
        same, kept = stand_ins(rows, hits_by_kind[kind], kind)
        out.append(
            Found(
                locale=locale,
                kind=kind,
                num_rows=num_rows,
                num_found=num_found,
                recall=num_found / num_rows,
                recall_low=low,
                recall_high=high,
                num_hits=num_hits,
                num_right=right[kind],
                precision=right[kind] / num_hits if num_hits else None,
                precision_low=interval(right[kind], num_hits)[0] if num_hits else None,
                same_type=same,
                kept=kept,
            )
        )
    return out, wrong


def stand_ins(rows: Sequence[Planted], hits_of: Sequence[Sequence[Hit]], kind: str) -> tuple[float, int]:
    """The share of surrogates found again as the kind they stand for, and the number that kept the value."""
    num = same = kept = 0
    for row, hits in zip(rows, hits_of, strict=True):
        for hit in hits:
            if hit.kind != kind or not touches(row, hit):
                continue
            made = surrogate(KEY, hit)
            subjects = (surrogate(KEY, Hit("name", 0, 0, hit.of, hit.of)),) if kind == "name" else ()
            again = find_private(row.text[: hit.start] + made + row.text[hit.end :], subjects)
            num += 1
            same += any(other.kind == kind and other.start <= hit.start < other.end for other in again)
            kept += hit.text in made
    return same / max(num, 1), kept


def people(num_rows: int, seed: int) -> dict[str, int]:
    """Whether all mentions of one person become one person, over all rows that declare somebody."""
    surname_of: dict[str, set[str]] = {}
    for locale in LOCALES:
        for row in plant(locale, "name", rows=num_rows, seed=seed + 1):
            for hit in find_private(row.text, row.subjects):
                if hit.kind == "name":
                    made = surrogate(KEY, Hit("name", 0, 0, hit.of, hit.of))
                    surname_of.setdefault(canonical(hit), set()).add(" ".join(sorted(made.replace(",", "").split())))
    return {"people": len(surname_of), "with_one_surrogate": sum(len(made) == 1 for made in surname_of.values())}


def speed(seed: int) -> float:
    """Microseconds a row of about 40 words, most of whose sentences hold a number."""
    texts = [text for locale in LOCALES for text in innocents(locale, rows=1700, seed=seed)]
    texts = [f"{text} {' '.join(['please look at this again when there is time'] * 2)}" for text in texts]
    start = time.process_time()
    for text in texts:
        find_private(text, ("Ana Silva",))
    return 1e6 * (time.process_time() - start) / len(texts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400, help="planted rows a kind and language")
    parser.add_argument("--seed", type=int, default=None, help="a fresh one without it")
    parser.add_argument("--faker", action="store_true", help="values from Faker instead of our generator")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    found: list[Found] = []
    wrong: dict[str, dict[str, int]] = {}
    for locale in LOCALES:
        rows, hits = measure(faked if args.faker else planted, locale, args.rows, seed)
        found += rows
        wrong[locale] = dict(hits)
    short = [f"{row.locale} {row.kind}" for row in found if row.kind in CHECKSUMMED and row.recall_low < MIN_RECALL]
    result = {
        "values": "Faker" if args.faker else "tests/curate/planting.py",
        "seed": seed,
        "rows": args.rows,
        "found": [asdict(row) for row in found],
        "hits_in_innocent_rows": wrong,
        "people": people(args.rows, seed),
        "microseconds_a_row": speed(seed),
        "checksummed_below": short,
    }
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"seed {seed}, {args.rows} rows a kind and language; {result['people']}")
        print(f"{'kind':18}{'recall':>8}{'95 % interval':>18}{'hits':>7}{'precision':>11}{'same type':>11}{'kept':>6}")
        for row in found:
            name, low_high = f"{row.locale} {row.kind}", f"{row.recall_low:.4f}-{row.recall_high:.4f}"
            precision = "-" if row.precision is None else f"{row.precision:.4f}"
            print(
                f"{name:18}{row.recall:8.4f}{low_high:>18}{row.num_hits:7}{precision:>11}{row.same_type:11.4f}{row.kept:6}"
            )
        print(f"hits in {args.rows} innocent rows a language: {wrong}; {result['microseconds_a_row']:.0f} us a row")
    return int(bool(short))


if __name__ == "__main__":
    sys.exit(main())
