"""Facts of an invented data set, one of everything that makes a page hard, and of no rows; numbers are made up."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from metier.core.data_counts import (
    age_of,
    attribute_of,
    drop_rule,
    grouping_of,
    histogram_of,
    label_counts,
)
from metier.core.data_facts import (
    Agreement,
    DataFacts,
    Drop,
    Example,
    Figure,
    Part,
    Pointer,
    PrivateFacts,
    Readiness,
    Review,
    Source,
    Split,
)
from metier.core.settings import CleanConfig

NOW = datetime(2026, 11, 26, tzinfo=UTC)
DAY = 86_400_000_000
HOSTILE = "<script>document.title = 'run'</script>\u202e\x00\""


def sample_facts() -> DataFacts:
    """800 records, 690 kept, dated, with labels, slices, groups, a split, suspects and votes."""
    start = int(datetime(2025, 11, 1, tzinfo=UTC).timestamp()) * 1_000_000
    time_N = start + np.arange(690, dtype=np.int64) * DAY // 2
    holdout = {"isles": 12, "hills": 60, "coast": 30}
    return DataFacts(
        project="support",
        written_at="2026-11-26T08:00:00Z",
        code="0.1.0",
        dataset_version="cd" * 32,
        readiness=Readiness(
            ready=True,
            sentence="690 of 800 rows can be used, and the 102 newest make a hold-out.",
            warnings=("The isles are too few to be judged alone.",),
        ),
        read=800,
        kept=690,
        failed=2,
        drops=(
            _drop(
                "near_duplicate", 22, Example.of("data/a.jsonl:7", "My Glimmer is broken", survivor="data/a.jsonl:90")
            ),
            _drop("retired_policy", 74, Example.of("data/a.jsonl:3", "Hello Viggo Sorrel, please call 0171 1234567")),
            _drop("too_few_words", 9),
            _drop("near_holdout", 3, Example(where="data/a.jsonl:5")),
        ),
        failures=("data/a.jsonl:118", "data/a.jsonl:700"),
        private=PrivateFacts(found={"email": 18, "phone": 1204, "card": 0}, action="replace", public={"email": 1}),
        repaired={"mojibake": 3},
        conflicting_labels=4,
        age=age_of(time_N, now=NOW),
        lengths=_lengths(np.arange(690) % 50 + 10, np.arange(690) % 20),
        attributes=(
            attribute_of("region", {"isles": 90, "hills": 400, "coast": 197, "x": 1}, num_kept=690, holdout=holdout),
        ),
        labels=label_counts({"refund": 500, "late": 190}),
        sources=(Source(file="data/a.jsonl", read=800, kept=690, failed=2),),
        groups=(grouping_of("customer", np.array([600, 80, 10]), effective_n=1.3),),
        split=Split(
            mode="later",
            parts=(
                Part(name="train", num=548, num_groups=3, oldest="2025-11-01", newest="2026-08-01"),
                Part(name="holdout", num=102, num_groups=2, oldest="2026-08-02", newest="2026-10-11"),
            ),
        ),
        review=_review(12, num_likely=5),
        agreement=Agreement(
            num_annotators=3,
            alpha=Figure(value=0.41, low=0.36, high=0.46, n=120),
            ceiling=Figure(value=0.873, low=0.841, high=0.902, n=120),
        ),
    )


def wide_facts() -> DataFacts:
    """Long names, long words, large numbers, HTML and control characters wherever a value of the data stands."""
    drops = (
        _drop(
            "near_duplicate", 1_000_003, Example.of(f"{'deep/' * 60}{HOSTILE}:1", HOSTILE + "y" * 400, survivor=HOSTILE)
        ),
        _drop("a_reason_of_tomorrow_" * 4, 77, Example(where=HOSTILE, text=HOSTILE)),
    )
    counts = {HOSTILE: 90_000, "w" * 400: 40, **{f"value {place}": 5 + place for place in range(60)}, "one": 1}
    rng = np.random.default_rng(0)
    times = rng.integers(1_230_000_000, 1_790_000_000, 500) * 1_000_000
    return DataFacts(
        project=HOSTILE + "p" * 90,
        written_at="2026-11-26T08:00:00Z",
        code="0.1.0",
        dataset_version="cd" * 32,
        readiness=Readiness(
            ready=False,
            sentence="The rows cannot be split: " + "z" * 200,
            problems=tuple(f"Problem {place}: {'q' * 150}" for place in range(6)),
            warnings=(HOSTILE,),
        ),
        read=2_000_080,
        kept=1_000_000,
        failed=0,
        drops=drops,
        failures=(f"{'deep/' * 60}x.jsonl:1",),
        private=PrivateFacts(found={"a_kind_of_tomorrow": 10**9, "phone": 7}, action="keep", public={"phone": 2}),
        age=age_of(np.array([*times, 0, 4_000_000_000_000_000, np.iinfo(np.int64).min]), now=NOW),
        lengths=_lengths(rng.lognormal(8, 1.5, 500).astype(np.int64), rng.lognormal(3, 1, 500).astype(np.int64)),
        attributes=(
            attribute_of("a" * 200, counts, num_kept=1_000_000, expected_holdout=200),
            attribute_of("plain", {"x": 6, "y": 40}, num_kept=1_000_000),
        ),
        labels=label_counts({f"{HOSTILE} {place} {'verylongword' * 9}": place for place in range(1, 201)}),
        sources=tuple(Source(file=f"{'deep/' * 60}{place}.jsonl", read=9, kept=9, failed=0) for place in range(20)),
        groups=(grouping_of("g" * 300, np.array([1])),),
        review=_review(500, num_likely=None),
    )


def bare_facts(*, read: int = 0) -> DataFacts:
    """No row was kept."""
    return DataFacts(
        project="bare",
        written_at="2026-11-26T08:00:00Z",
        code="0.1.0",
        dataset_version="",
        readiness=Readiness(ready=False, sentence="No row was kept.", problems=("At least two rows are needed.",)),
        read=read,
        kept=0,
        failed=read,
        drops=(),
    )


def one_row_facts() -> DataFacts:
    """One row, which has everything."""
    return DataFacts(
        project="one",
        written_at="2026-11-26T08:00:00Z",
        code="0.1.0",
        dataset_version="ef" * 32,
        readiness=Readiness(ready=True, sentence="One row."),
        read=1,
        kept=1,
        failed=0,
        drops=(),
        private=PrivateFacts(found={}, action="quarantine"),
        age=age_of(np.array([1_700_000_000_000_000]), now=NOW),
        lengths=_lengths(np.array([7]), np.array([0])),
        attributes=(attribute_of("region", {"isles": 1}, num_kept=1),),
        labels=label_counts({"refund": 1}),
        groups=(grouping_of("customer", np.array([1])),),
    )


def _drop(reason: str, num: int, *examples: Example) -> Drop:
    return Drop(reason=reason, num=num, rule=drop_rule(reason, CleanConfig()), examples=examples)


def _lengths(prompt_N: np.ndarray, reply_N: np.ndarray) -> tuple:
    return tuple(histogram_of(what, words_N) for what, words_N in (("prompt", prompt_N), ("reply", reply_N)))


def _review(num: int, *, num_likely: int | None) -> Review:
    suspects = tuple(Pointer(row_id=f"{place:032x}", where=f"data/a.jsonl:{place}") for place in range(num))
    return Review(num_judged=690, num_likely=num_likely, suspects=suspects)
