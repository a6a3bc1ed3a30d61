"""Any graph of groups, copies and times: a split keeps its promises, recomputed by brute force, or is refused."""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.core.errors import DataError
from metier.core.rows import Row, TargetKind
from metier.core.settings import SplitConfig
from metier.core.similarity import conversation_text, fold
from metier.split import verify_certificate
from tests.split.build import Parts, make, split, tables

NEAR = 0.5
MODES = ["later", "new_groups", "later_and_new_groups"]


# Brute force: from the rows' texts alone, pair by pair.


def shingles(row: Row) -> frozenset[tuple[str, ...]]:
    found = re.findall(r"\w+", conversation_text(row).casefold())
    return frozenset(tuple(found[i : i + 3]) for i in range(len(found) - 2))


def similar(left: frozenset[Any], right: frozenset[Any]) -> float:
    return len(left & right) / len(left | right)


def asks(row: Row) -> str:
    return fold(row.messages[0].content)


def groups_of(rows: list[Row]) -> set[tuple[str, str]]:
    return {pair for row in rows for pair in row.meta.groups.items()}


def root(leaves: list[str]) -> str:
    """The Merkle root, from the top: the left half is the largest power of two below the number of leaves."""

    def node(part: list[bytes]) -> bytes:
        if len(part) == 1:
            return part[0]
        half = 1 << (len(part) - 1).bit_length() - 1
        return hashlib.sha256(b"\x01" + node(part[:half]) + node(part[half:])).digest()

    return node([hashlib.sha256(b"\x00" + leaf.encode()).digest() for leaf in sorted(set(leaves))]).hex()


def facts(parts: dict[str, list[Row]]) -> dict[str, Any]:
    """Every figure of a certificate, by brute force."""
    of = {name: [(shingles(row), asks(row)) for row in rows] for name, rows in parts.items()}
    pairs = list(combinations(("train", "dev", "holdout"), 2))
    similarity = {f"{a}-{b}": max(similar(x[0], y[0]) for x in of[a] for y in of[b]) for a, b in pairs}
    before = {"dev": of["train"], "holdout": of["train"] + of["dev"]}
    times = {name: [row.meta.collected_at for row in rows] for name, rows in parts.items()}
    known = {name: [time for time in found if time is not None] for name, found in times.items()}
    complete = {name: len(known[name]) == len(found) for name, found in times.items()}
    return {
        "similarity": pytest.approx(similarity, abs=1e-9),
        "max_similarity": pytest.approx(max(similarity.values()), abs=1e-9),
        "exact": sum(any(ask == other for _, other in before[name]) for name in before for _, ask in of[name]),
        "shared_groups": len(set().union(*(groups_of(parts[a]) & groups_of(parts[b]) for a, b in pairs))),
        "newest_train": max(known["train"]).isoformat() if complete["train"] else None,
        "oldest_holdout": min(known["holdout"]).isoformat() if complete["holdout"] else None,
        "counts": {name: len(rows) for name, rows in parts.items()},
        "groups": {name: len(groups_of(rows)) for name, rows in parts.items()},
        "roots": {name: root([row.row_id for row in rows]) for name, rows in parts.items()},
    }


def check(rows: list[Row], result: Parts, config: SplitConfig) -> None:
    """Everything a split promises, of this split."""
    train, dev, holdout = result.train, result.dev, result.holdout
    everywhere = [row.origin_id for part in (train, dev, holdout) for row in part]
    everywhere += [item.row.origin_id for item in result.purged]
    assert sorted(everywhere) == sorted(row.origin_id for row in rows)
    for part in result.parts.values():
        assert part == sorted(part, key=lambda row: (row.meta.source, row.meta.source_row))
    check_sizes(result, config)
    found = facts(result.parts)
    told = result.certificate.as_json()
    assert {name: told[name] for name in found} == found
    assert told["max_similarity"] < NEAR
    assert found["exact"] == 0
    if config.generalise_to != "later":
        assert found["shared_groups"] == 0
    check_times(result, config)
    check_purged(rows, result, config)
    assert verify_certificate(tables(result.parts), result.certificate) == []


def check_sizes(result: Parts, config: SplitConfig) -> None:
    """Rows by number: as many as asked for; by group: at least as many, and no more than twice as many."""
    exact_dev = config.generalise_to == "later"
    for part, wanted, exact in (
        (result.holdout, config.holdout_rows, exact_dev or bool(config.holdout_files)),
        (result.dev, config.dev_rows, exact_dev),
    ):
        assert len(part) == wanted if exact else wanted <= len(part) <= 2 * wanted
    assert len(result.train) >= 10


def check_times(result: Parts, config: SplitConfig) -> None:
    times = {name: [row.meta.collected_at for row in part] for name, part in result.parts.items()}
    if config.generalise_to != "new_groups":
        assert max(times["train"]) <= min(times["holdout"])  # type: ignore[type-var]  # rows without time were refused
        assert max(times["dev"]) <= min(times["holdout"])  # type: ignore[type-var]  # rows without time were refused
    if config.generalise_to == "later":
        assert max(times["train"]) <= min(times["dev"])  # type: ignore[type-var]  # rows without time were refused


def check_purged(rows: list[Row], result: Parts, config: SplitConfig) -> None:
    """Nobody is purged without a direct reason, and no more than the cap."""
    by_origin = {row.origin_id: row for row in rows}
    members = {name: {row.origin_id for row in part} for name, part in result.parts.items()}
    for row, reason, other in result.purged:
        if reason == "holdout_unused":
            assert other == ""
            assert row.meta.source in config.holdout_files
            continue
        near = by_origin[other]
        if reason in ("near_holdout", "near_dev"):
            assert similar(shingles(row), shingles(near)) >= NEAR or asks(row) == asks(near)
            assert other in members[reason.removeprefix("near_")]
        elif reason == "shared_group":
            assert set(row.meta.groups.items()) & set(near.meta.groups.items())
            assert other in members["holdout"] | members["dev"]
        else:
            assert reason == "not_older"
            assert row.meta.collected_at > near.meta.collected_at  # type: ignore[operator]  # rows without time were refused
            assert other in members["holdout"]
    free = {"holdout_unused", "not_older"} if config.generalise_to == "later_and_new_groups" else {"holdout_unused"}
    close = [item for item in result.purged if item.reason not in free]
    assert len(close) <= config.max_purge * (len(close) + len(result.train)) + 1e-9


# Random graphs.


@dataclass(frozen=True, kw_only=True)
class World:
    """How rows hang together; most are made so that a split exists, and each part is sometimes made so that none does."""

    num: int
    num_groups: int
    giant: int
    houses: int
    last_day: int
    spread: float
    timeless: float
    given: int
    labelled: bool
    copies: dict[int, int]
    seed: int

    def rows(self) -> list[Row]:
        rng = random.Random(self.seed)
        return [self.row(i, rng) for i in range(self.num)]

    def row(self, i: int, rng: random.Random) -> Row:
        like = self.copies.get(i, i)
        prompt = f"ask{like} about{like} thing{like} or{like} other{like}"
        if i != like and rng.random() < 0.5:
            prompt += f" and{i}"
        group = rng.randrange(self.num_groups)
        groups = {"customer": "giant" if i < self.giant else str(group)} if rng.random() < 0.9 else {}
        if self.houses and rng.random() < 0.2:
            groups["house"] = str(rng.randrange(self.houses))
        is_given = i >= self.num - self.given
        # With a small spread a group's rows lie close together in time, and groups come one after the other.
        day = int(self.last_day * ((1 - self.spread) * group / self.num_groups + self.spread * rng.random()))
        labelled = self.labelled and rng.random() < 0.5
        return make(
            i,
            prompt=prompt,
            reply=f"say{like} of{like} it{like}",
            day=None if rng.random() < self.timeless else day + (self.last_day if is_given else 0),
            source="test.jsonl" if is_given else rng.choice(["b.jsonl", "a.jsonl"]),
            label=rng.choice(["late", "lost", None]) if labelled else None,
            kind=TargetKind.LABEL if labelled else TargetKind.REPLY,
            attributes={"region": rng.choice("nns")} if rng.random() < 0.8 else {},
            groups=groups,
        )


def asked(mode: str, max_purge: float = 0.1, **more: Any) -> SplitConfig:
    """Small parts; `later` claims nothing about groups and takes no number of them."""
    groups = {} if mode == "later" else {"min_holdout_groups": 2}
    values = {"holdout_rows": 10, "dev_rows": 10, "max_purge": max_purge} | groups | more
    return SplitConfig(generalise_to=mode, **values)  # type: ignore[arg-type]  # a sampled str for a Literal


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, SplitConfig]:
    def mostly(usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> Any:
        return draw(other if draw(st.integers(0, 7)) == 7 else usual)

    mode = draw(st.sampled_from(MODES))
    more: dict[str, Any] = {}
    if mode == "new_groups":
        more["stratify"] = mostly(st.sampled_from(["", "region", "label"]), st.just("absent"))
    if given_set := draw(st.integers(0, 3)) == 0:
        more["holdout_files"] = ("test.jsonl",)
    num = draw(st.integers(50, 80))
    near = st.integers(0, num - 1)
    world = World(
        num=num,
        num_groups=mostly(st.sampled_from([num // 2, num, 2 * num]), st.sampled_from([1, 3, 15])),
        giant=mostly(st.just(0), st.just(num // 2)),
        houses=mostly(st.sampled_from([0, 60]), st.just(5)),
        last_day=mostly(st.sampled_from([20, 400]), st.sampled_from([0, 2])),
        spread=draw(st.sampled_from([0.05, 1.0])) if mode == "later" else mostly(st.just(0.05), st.just(1.0)),
        timeless=mostly(st.just(0.0), st.just(0.05)),
        given=mostly(st.just(14 if given_set else 0), st.sampled_from([0, 5, 14])),
        labelled=more.get("stratify") == "label" or draw(st.booleans()),
        copies=dict(draw(st.lists(st.tuples(near, near), max_size=12))),
        seed=draw(st.integers(0, 10**6)),
    )
    return world, asked(mode, draw(st.sampled_from([0.1, 0.6])), **more)


def outcome(rows: list[Row], config: SplitConfig, seed: int) -> Parts | str:
    try:
        return split(rows, config, seed=seed, near_dup=NEAR)
    except DataError as err:
        return str(err)


REFUSAL = re.compile(
    r"^(hold-out|dev|train|split): .*\d.*(Collect|Raise|Set|Add|remove repeats|Use|Name)[ ,]|"
    r"^generalise_to = '\w+': .*(\d+ of \d+ rows have no time|rows before it carry the same time|none of \d+ rows)|"
    r"^\[split\] stratify = '\w+': none of \d+ rows has it\.",
    re.DOTALL,
)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(drawn=worlds(), seed=st.integers(0, 3), order=st.randoms(use_true_random=False))
def test_any_split_keeps_its_promises_or_is_refused(
    drawn: tuple[World, SplitConfig], seed: int, order: random.Random
) -> None:
    world, config = drawn
    rows = world.rows()
    result = outcome(rows, config, seed)
    if isinstance(result, str):
        assert REFUSAL.match(result), result
        assert "defect" not in result
    else:
        check(rows, result, config)
    order.shuffle(rows)
    assert outcome(rows, config, seed) == result


@pytest.mark.parametrize("mode", MODES)
def test_most_random_graphs_are_split_and_not_refused(mode: str) -> None:
    # Guards the property above against passing by refusal.
    for seed in range(12):
        rows = [make(i, day=i // 2, groups={"customer": str(i % (20 + seed))}) for i in range(60)]
        if mode == "later_and_new_groups":
            rows = [make(i, day=i, groups={"customer": str(i // (2 + seed % 3))}) for i in range(60)]
        config = asked(mode)
        result = split(rows, config, seed=seed, near_dup=NEAR)
        check(rows, result, config)


# Rows made to be hard.


def test_a_chain_of_near_copies_is_not_closed_transitively() -> None:
    # Link i says words 4 i to 4 i + 12 and a reply of its own: neighbours share 6 of 20 shingles, the next ones 2 of 24.
    links = [make(1000 + i, prompt=" ".join(f"w{k}" for k in range(4 * i, 4 * i + 12)), day=i + 0.5) for i in range(30)]
    between = [[similar(shingles(a), shingles(b)) for b in links] for a in links]
    assert [round(x, 3) for x in between[5][5:8]] == [1.0, 0.3, 0.083]
    rows = [*[make(i, day=100 + i / 10) for i in range(40)], *links[:29], replace_day(links[29], 200)]
    config = asked("later")
    result = split(rows, config, near_dup=0.2)
    assert [(item.row.meta.source_row, item.reason) for item in result.purged] == [(1028, "near_holdout")]
    assert 1027 in {row.meta.source_row for row in result.train}


def replace_day(row: Row, day: float) -> Row:
    return make(row.meta.source_row, prompt=row.messages[0].content, day=day)


@pytest.mark.parametrize(("mode", "left"), list(zip(MODES, ["", "", ", and the newest groups hold 0"], strict=True)))
def test_every_row_alike_is_refused_with_counts(mode: str, left: str) -> None:
    rows = [make(i, prompt="the same", reply="always the same", day=i, groups={"c": str(i)}) for i in range(60)]
    with pytest.raises(DataError) as caught:
        split(rows, asked(mode), near_dup=NEAR)
    assert str(caught.value) == (
        f"dev: 10 rows asked for, but 0 rows are left{left}, and train needs rows too. "
        "Collect more rows, or ask for fewer: [split] dev_rows."
    )


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("new_groups", "hold-out: 10 rows asked for, but 60 rows in 2 groups are left, the largest of 59 rows, and train"),
        ("later_and_new_groups", "hold-out: 10 rows asked for, but 60 rows in 2 groups are left, and the newest groups hold 59"),
    ],
)  # fmt: skip
def test_one_giant_group_is_refused_with_counts(mode: str, told: str) -> None:
    rows = [make(i, day=i, groups={"customer": "giant" if i else "small"}) for i in range(60)]
    with pytest.raises(DataError) as caught:
        split(rows, asked(mode), near_dup=NEAR)
    assert str(caught.value).startswith(told)


def test_groups_beside_a_giant_one_are_split_and_it_goes_to_train() -> None:
    rows = [make(i, day=i, groups={"customer": "giant" if i < 100 else f"c{i // 2}"}) for i in range(160)]
    for mode in MODES[1:]:
        result = split(rows, asked(mode), near_dup=NEAR)
        check(rows, result, asked(mode))
        assert {row.meta.groups["customer"] for row in result.holdout + result.dev}.isdisjoint({"giant"})


def test_equal_times_at_the_edge_are_drawn_by_seed_and_row_not_by_position() -> None:
    # Four rows of the last day and six of the sixteen of the day before.
    rows = [make(i, day=3 if i >= 56 else 2 if i >= 40 else i / 50) for i in range(60)]
    config = asked("later")
    held = [{row.meta.source_row for row in split(rows, config, seed=seed).holdout} for seed in range(6)]
    assert all({56, 57, 58, 59} < numbers < set(range(40, 60)) for numbers in held)
    assert len({frozenset(numbers) for numbers in held}) > 1
    # A row elsewhere that comes or goes does not change who is drawn among equals.
    assert {row.meta.source_row for row in split(rows[5:], config, seed=0).holdout} == held[0]


def test_several_keys_are_each_kept_apart_and_their_order_does_not_matter() -> None:
    rng = random.Random(3)
    rows = []
    for i in range(120):
        groups = {"customer": f"c{i // 2}", "house": f"h{rng.randrange(40)}", "agent": f"a{rng.randrange(60)}"}
        rows.append(make(i, groups={key: groups[key] for key in rng.sample(sorted(groups), rng.randint(1, 3))}))
    config = asked("new_groups", 0.9)
    result = split(rows, config, near_dup=NEAR)
    check(rows, result, config)
    assert {item.reason for item in result.purged} == {"shared_group"}
    for _ in range(8):  # whose row comes first decides in which order a table meets the keys
        rng.shuffle(rows)
        assert split(rows, config, near_dup=NEAR) == result


def test_shares_are_kept_in_both_parts_within_one_group() -> None:
    rows = [
        make(i, groups={"customer": f"c{i // 2}"}, attributes={"region": "n" if i // 2 % 3 else "s"})
        for i in range(240)
    ]
    config = replace(asked("new_groups"), holdout_rows=30, dev_rows=24, stratify="region")
    for seed in range(5):
        result = split(rows, config, seed=seed, near_dup=NEAR)
        check(rows, result, config)
        for part in (result.holdout, result.dev):
            south = sum(row.meta.attributes["region"] == "s" for row in part)
            assert abs(south - len(part) / 3) <= 2
