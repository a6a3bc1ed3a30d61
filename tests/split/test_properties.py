"""Any graph of groups, copies and times: a split keeps its promises, recomputed by brute force, or is refused."""

from __future__ import annotations

from itertools import combinations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.core.errors import DataError
from metier.core.rows import Row
from metier.core.settings import SplitConfig
from metier.core.similarity import conversation_text, prompt_key, words
from metier.split import SplitResult, split_rows, verify_certificate
from tests.split.build import make

NEAR = 0.5


def shingles(row: Row) -> set[tuple[str, ...]]:
    found = words(conversation_text(row))
    return {tuple(found[i : i + 3]) for i in range(len(found) - 2)}


def similar(a: Row, b: Row) -> float:
    left, right = shingles(a), shingles(b)
    return len(left & right) / len(left | right)


@st.composite
def some_rows(draw: st.DrawFn) -> list[Row]:
    num = draw(st.integers(36, 60))
    copies = draw(st.lists(st.tuples(st.integers(0, num - 1), st.integers(0, num - 1)), max_size=6))
    root = dict(copies)
    num_groups = draw(st.integers(1, num))
    rows = []
    for i in range(num):
        like = root.get(i, i)
        prompt = f"ask{like} about{like} thing{like} or{like} other{like}" + (
            f" and{i}" if i != like and draw(st.booleans()) else ""
        )
        groups = {"customer": str(draw(st.integers(0, num_groups - 1)))}
        if draw(st.integers(0, 9)) == 0:
            groups = {}
        elif draw(st.integers(0, 4)) == 0:
            groups["house"] = str(draw(st.integers(0, 30)))
        day = draw(st.integers(0, 40))
        rows.append(make(i, prompt=prompt, reply=f"say{like} of{like} it{like}", day=day, groups=groups))
    return rows


def check(rows: list[Row], result: SplitResult, config: SplitConfig) -> None:
    train, dev, holdout = result.train, result.dev, result.holdout
    everywhere = [row.origin_id for part in (train, dev, holdout) for row in part] + [
        p.row.origin_id for p in result.purged
    ]
    assert sorted(everywhere) == sorted(row.origin_id for row in rows)
    for part, wanted in ((holdout, config.holdout_rows), (dev, config.dev_rows)):
        exact = config.generalise_to == "later"
        assert len(part) == wanted if exact else wanted <= len(part) <= 2 * wanted
    closest = 0.0
    for first, second in combinations((train, dev, holdout), 2):
        for a in first:
            for b in second:
                closest = max(closest, similar(a, b))
                assert prompt_key(a) != prompt_key(b)
                if config.generalise_to != "later":
                    assert not set(a.meta.groups.items()) & set(b.meta.groups.items())
    assert closest < NEAR
    assert abs(result.certificate.max_similarity - closest) < 1e-9
    times = {name: [row.meta.collected_at for row in part] for name, part in result.parts.items()}
    if config.generalise_to != "new_groups":
        assert max(times["train"]) <= min(times["holdout"])
        assert max(times["dev"]) <= min(times["holdout"])
    if config.generalise_to == "later":
        assert max(times["train"]) <= min(times["dev"])
    # Nobody is purged without a direct reason.
    by_origin = {row.origin_id: row for row in rows}
    for row, reason, other in result.purged:
        near = by_origin[other]
        if reason in ("near_holdout", "near_dev"):
            assert similar(row, near) >= NEAR or prompt_key(row) == prompt_key(near)
            assert other in {r.origin_id for r in (holdout if reason == "near_holdout" else dev)}
        elif reason == "shared_group":
            assert set(row.meta.groups.items()) & set(near.meta.groups.items())
        else:
            assert reason == "not_older"
            assert row.meta.collected_at > near.meta.collected_at
    close = [p for p in result.purged if p.reason != "not_older"]
    assert len(close) <= config.max_purge * (len(close) + len(train)) + 1e-9
    assert verify_certificate(result.parts, result.certificate) == []


def asked(mode: str, max_purge: float = 0.1) -> SplitConfig:
    """Small parts; `later` claims nothing about groups and takes no number of them."""
    groups = {} if mode == "later" else {"min_holdout_groups": 2}
    return SplitConfig(generalise_to=mode, holdout_rows=10, dev_rows=10, max_purge=max_purge, **groups)  # type: ignore[arg-type]  # a sampled str for a Literal


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    rows=some_rows(),
    mode=st.sampled_from(["later", "new_groups", "later_and_new_groups"]),
    max_purge=st.sampled_from([0.1, 0.5]),
    seed=st.integers(0, 3),
)
def test_any_split_keeps_its_promises_or_is_refused(rows: list[Row], mode: str, max_purge: float, seed: int) -> None:
    config = asked(mode, max_purge)
    try:
        result = split_rows(rows, config, seed=seed, near_dup=NEAR)
    except DataError as err:
        assert "defect" not in str(err)
        return
    check(rows, result, config)


def test_most_random_graphs_are_split_and_not_refused() -> None:
    # Guards the property above against passing by refusal.
    done = 0
    for seed in range(12):
        rows = [make(i, day=i, groups={"customer": str(i % (20 + seed))}) for i in range(60)]
        mode = ("later", "new_groups")[seed % 2]
        config = asked(mode)
        check(rows, split_rows(rows, config, seed=seed, near_dup=NEAR), config)
        done += 1
    assert done == 12
