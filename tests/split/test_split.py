"""The three modes, the given test set, the purge and every refusal."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from metier.core.errors import DataError
from metier.core.rows import Row, TargetKind
from metier.core.settings import SplitConfig
from metier.core.table import table_of
from metier.split import from_files, purge, split_report, split_rows
from tests.split.build import KEY, LATER, make, split
from tests.split.crowd import CONFIGS, NEAR, crowd

GROUPS = SplitConfig(generalise_to="new_groups", holdout_rows=20, dev_rows=10, min_holdout_groups=5)
BOTH = SplitConfig(generalise_to="later_and_new_groups", holdout_rows=20, dev_rows=10, min_holdout_groups=5)
TEXT = "the lamp came with a broken foot and the box was open so I want to send it back and get my money soon"


def numbers(rows: list[Row]) -> list[int]:
    return sorted(row.meta.source_row for row in rows)


def dated(num: int) -> list[Row]:
    return [make(i, day=i) for i in range(num)]


def grouped(num: int, size: int) -> list[Row]:
    return [make(i, day=i, groups={"customer": f"c{i // size}"}) for i in range(num)]


def test_later_holds_out_the_newest_then_dev_then_train() -> None:
    rows = dated(100)
    random.Random(1).shuffle(rows)
    result = split(rows)
    assert numbers(result.holdout) == list(range(80, 100))
    assert numbers(result.dev) == list(range(70, 80))
    assert numbers(result.train) == list(range(70))
    assert result.purged == []
    assert (result.certificate.newest_train, result.certificate.oldest_holdout) == (
        "2026-03-11T00:00:00+00:00",
        "2026-03-22T00:00:00+00:00",
    )


def test_later_lets_groups_return() -> None:
    rows = [make(i, day=i, groups={"customer": str(i % 4)}) for i in range(60)]
    assert split(rows).certificate.shared_groups == 4


@pytest.mark.parametrize("config", [LATER, GROUPS, BOTH])
def test_the_same_rows_in_any_order_give_the_same_split(config: SplitConfig) -> None:
    rows = grouped(120, 3)
    first = split(rows, config)
    for seed in range(3):
        shuffled = rows.copy()
        random.Random(seed).shuffle(shuffled)
        assert split(shuffled, config) == first


def test_another_seed_draws_other_groups() -> None:
    rows = grouped(120, 3)
    assert numbers(split(rows, GROUPS, seed=0).holdout) != numbers(split(rows, GROUPS, seed=1).holdout)


def test_new_groups_keeps_each_group_on_one_side_and_draws_them_at_random() -> None:
    rows = grouped(300, 4)
    result = split(rows, GROUPS)
    sides = {(row.meta.groups["customer"], name) for name, part in result.parts.items() for row in part}
    assert len(sides) == 75  # each group once
    assert (len(result.holdout), len(result.dev)) == (20, 12)  # 10 rows do not fit in groups of 4
    held = {int(row.meta.groups["customer"][1:]) for row in result.holdout}
    assert max(held) - min(held) > 20  # not the newest, not the first of the file


def test_new_groups_passes_over_a_giant_group() -> None:
    rows = [make(i, groups={"customer": "giant" if i < 200 else f"c{i}"}) for i in range(300)]
    for seed in range(5):
        result = split(rows, GROUPS, seed=seed)
        assert (len(result.holdout), len(result.dev), len(result.train)) == (20, 10, 270)


def test_rows_without_groups_are_drawn_one_by_one_even_from_a_file_sorted_by_class() -> None:
    rows = [make(i, label="a" if i < 150 else "b") for i in range(300)]
    result = split(rows, replace(GROUPS, stratify="label"))
    assert Counter(row.target.label for row in result.holdout) == {"a": 10, "b": 10}
    assert Counter(row.target.label for row in result.dev) == {"a": 5, "b": 5}


def test_stratify_by_attribute_keeps_shares_by_largest_remainder() -> None:
    rows = [make(i, attributes={"region": "north" if i < 210 else "south"}) for i in range(300)]
    result = split(rows, replace(GROUPS, stratify="region"))
    assert Counter(row.meta.attributes["region"] for row in result.holdout) == {"north": 14, "south": 6}


def test_groups_too_large_for_any_one_share_fill_the_part_together() -> None:
    # Five regions, two rows wanted of each, groups of three rows: no group fits a share.
    rows = [make(i, groups={"customer": f"c{i // 3}"}, attributes={"region": f"r{i // 3 % 5}"}) for i in range(150)]
    result = split(rows, replace(GROUPS, holdout_rows=10, min_holdout_groups=4, stratify="region"))
    assert (len(result.holdout), len(result.dev)) == (12, 12)


def test_later_and_new_groups_takes_the_newest_groups_whole() -> None:
    rows = grouped(120, 4)  # groups follow one another in time
    result = split(rows, BOTH)
    assert numbers(result.holdout) == list(range(100, 120))
    assert numbers(result.dev) == list(range(88, 100))
    assert result.certificate.shared_groups == 0


def test_later_and_new_groups_sets_newer_rows_of_old_groups_aside() -> None:
    returning = [make(1000 + i, day=119.5, groups={"customer": "c0"}) for i in range(3)]
    result = split([*grouped(120, 4), *returning], BOTH)
    assert {(p.row.meta.source_row, p.reason) for p in result.purged} == {(n, "not_older") for n in (1000, 1001, 1002)}


def test_newer_rows_of_old_groups_are_not_counted_against_the_cap() -> None:
    returning = [make(1000 + i, day=119.5, groups={"customer": "c0"}) for i in range(60)]
    result = split([*grouped(120, 4), *returning], replace(BOTH, max_purge=0.0))
    assert Counter(p.reason for p in result.purged) == {"not_older": 60}


def test_second_group_key_purges_directly_without_closure() -> None:
    # Customers are whole by draw. One address joins a held-out customer with customer x, and another joins x with y:
    # x leaves train, y stays.
    rows = [make(i, groups={"customer": f"c{i // 4}", "house": f"h{i}"}) for i in range(200)]
    first = split(rows, GROUPS)
    held, x, y = first.holdout[0], first.train[0], first.train[-1]
    assert x.meta.groups["customer"] != y.meta.groups["customer"]

    def moved(row: Row) -> Row:
        houses = {x.origin_id: held.meta.groups["house"], y.origin_id: "shared"}
        house = houses.get(row.origin_id, row.meta.groups["house"])
        return row.model_copy(
            update={"meta": row.meta.model_copy(update={"groups": {**row.meta.groups, "house": house}})}
        )

    result = split([moved(row) for row in rows], GROUPS)
    assert [(p.row.origin_id, p.reason, p.other) for p in result.purged] == [
        (x.origin_id, "shared_group", held.origin_id)
    ]
    assert y.origin_id in {row.origin_id for row in result.train}


def test_train_row_close_to_the_holdout_is_quarantined_and_its_neighbour_is_not() -> None:
    rows = dated(100)
    rows[95] = make(95, day=95, prompt=TEXT)
    rows[10] = make(10, day=10, prompt=TEXT + " thanks", reply=rows[95].gold)
    rows[11] = make(11, day=11, prompt=TEXT + " thanks a lot for all your help in this matter", reply=rows[95].gold)
    result = split(rows, near_dup=0.75)
    assert [(p.row.meta.source_row, p.reason, p.other) for p in result.purged] == [
        (10, "near_holdout", rows[95].origin_id)
    ]
    assert 11 in numbers(result.train)
    assert 0 < result.certificate.max_similarity < 0.75


def test_equal_prompts_count_as_near_whatever_the_replies() -> None:
    rows = dated(100)
    rows[95] = make(95, day=95, prompt="Where is it?", reply="a quite long reply that shares no words")
    rows[10] = make(10, day=10, prompt="where  IS it?", reply="and here is another one for the same thing")
    rows[75] = make(75, day=75, prompt="where is it? ", reply="third")
    result = split(rows)
    assert [(p.row.meta.source_row, p.reason) for p in result.purged] == [(10, "near_holdout"), (75, "near_holdout")]
    assert numbers(result.dev) == [69, *range(70, 75), *range(76, 80)]  # dev still has the rows asked for
    assert result.certificate.exact == 0


def test_of_several_near_copies_the_nearest_is_named_and_of_equally_near_ones_the_last_by_id() -> None:
    rows = dated(100)
    said = {95: "", 96: " thanks a", 97: " thanks a lot", 10: " thanks"}  # row 10: .880, .885 and .852 to the others
    for i, more in said.items():
        rows[i] = make(i, day=i, prompt=TEXT + more, reply="so")
    for i in (98, 99, 11):
        rows[i] = make(i, day=i, prompt=f"{TEXT[::-1]} and then {i}", reply="yes")
    result = split(rows, near_dup=0.7)
    last = max(rows[98].origin_id, rows[99].origin_id)
    assert {p.row.meta.source_row: p.other for p in result.purged} == {10: rows[96].origin_id, 11: last}


def test_a_near_copy_is_named_before_an_equal_prompt() -> None:
    rows = dated(100)
    rows[95] = make(95, day=95, prompt="Where is it?")
    rows[96] = make(96, day=96, prompt="Where is it now?", reply=TEXT)
    rows[10] = make(10, day=10, prompt="Where is it?", reply=TEXT)  # 21 of 26 shingles shared with row 96
    result = split(rows)
    assert [(p.row.meta.source_row, p.other) for p in result.purged] == [(10, rows[96].origin_id)]
    assert result.certificate.max_similarity == 0.0


def test_rows_are_purged_the_same_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = crowd()
    whole = split(rows, CONFIGS["new_groups"], near_dup=NEAR)
    assert {item.reason for item in whole.purged} == {"near_holdout", "near_dev", "shared_group"}
    monkeypatch.setattr(purge, "CHUNK_ROWS", 7)
    assert split(rows, CONFIGS["new_groups"], near_dup=NEAR) == whole


def test_train_row_close_to_dev_is_quarantined_too() -> None:
    rows = dated(100)
    rows[75], rows[5] = make(75, day=75, prompt="Where is it?"), make(5, day=5, prompt="Where is it?")
    result = split(rows)
    assert [(p.row.meta.source_row, p.reason, p.other) for p in result.purged] == [(5, "near_dev", rows[75].origin_id)]


def test_given_test_files_are_the_holdout() -> None:
    rows = [*[make(i) for i in range(60)], *[make(100 + i, source="data/test/a.csv") for i in range(25)]]
    result = split(rows, replace(GROUPS, holdout_files=("data/test",)))
    assert {row.meta.source for row in result.holdout} == {"data/test/a.csv"}
    assert (len(result.holdout), len(result.dev), len(result.train)) == (20, 10, 50)
    assert Counter(p.reason for p in result.purged) == {"holdout_unused": 5}


def test_given_test_set_must_be_later_where_that_is_claimed() -> None:
    rows = [*dated(60), *[make(100 + i, day=58, source="test.csv") for i in range(20)]]
    result = split(rows, replace(LATER, holdout_files=("test.csv",)))
    assert [(p.row.meta.source_row, p.reason) for p in result.purged] == [(59, "not_older")]
    early = [*dated(60), *[make(100 + i, day=30, source="test.csv") for i in range(20)]]
    with pytest.raises(DataError, match="not_older 29"):
        split(early, replace(LATER, holdout_files=("test.csv",)))


def test_a_given_test_set_of_too_few_groups_is_refused_where_new_groups_are_claimed() -> None:
    rows = [make(i, groups={"customer": f"c{i}"}) for i in range(60)]
    rows += [make(100 + i, source="test.csv", groups={"customer": f"t{i % 4}"}) for i in range(25)]
    given = replace(GROUPS, holdout_files=("test.csv",))
    with pytest.raises(DataError, match=r"hold-out: 4 groups of 4; expected at least 5 to claim anything about new"):
        split(rows, given)
    assert len(split(rows, replace(given, min_holdout_groups=4)).holdout) == 20


def sorted_by_label(num: int) -> list[Row]:
    return [make(i, day=i, label="late" if i < num - 30 else "lost", kind=TargetKind.LABEL) for i in range(num)]


def test_a_hold_out_of_one_label_is_refused_with_advice_for_its_mode() -> None:
    rows = sorted_by_label(100)
    with pytest.raises(DataError) as caught:
        split(rows)
    assert str(caught.value) == (
        "hold-out: all 20 rows have the label 'lost', the 80 others have 2 labels; expected more than one label. Is the "
        "file sorted by label? Use generalise_to = 'new_groups', which draws at random, or raise holdout_rows."
    )
    assert len(split(rows, GROUPS).holdout) == 20, "drawn at random, both labels are in it"
    test_set = [make(100 + i, day=200, source="test.csv", label="lost", kind=TargetKind.LABEL) for i in range(20)]
    with pytest.raises(DataError, match=r"Name \[split\] holdout_files with rows of every label\."):
        split([*rows, *test_set], replace(LATER, holdout_files=("test.csv",)))


def test_one_label_in_all_rows_is_no_matter_of_the_split() -> None:
    assert len(split([make(i, day=i, label="late", kind=TargetKind.LABEL) for i in range(100)]).holdout) == 20


def test_sources_are_matched_by_file_folder_and_glob() -> None:
    assert from_files("../data/test1.csv", ["./../data/test1.csv"])
    assert from_files("data/test/a.csv", ["data/test/"])
    assert from_files("data/test1.csv", ["data/test*.csv"])
    assert not from_files("data/test1.csv.old", ["data/test1.csv"])


def test_report_tells_counts_and_certificate() -> None:
    result = split_rows(table_of(grouped(120, 3), key=KEY), GROUPS, seed=0, near_dup=0.8)
    report = split_report(result)
    assert (report.mode, report.train + report.dev + report.holdout, report.purged) == ("new_groups", 120, 0)
    assert report.certificate == result.certificate.as_json()
    assert report.groups == {"train": 29, "dev": 4, "holdout": 7}


def one_group(num: int) -> list[Row]:
    return [make(i, day=i, groups={"customer": "only"}) for i in range(num)]


REFUSALS: list[tuple[list[Row], SplitConfig, str]] = [
    ([], LATER, "hold-out: 20 rows asked for, but 0 rows are left, and train needs rows too. Collect more rows, or ask for fewer: [split] holdout_rows."),
    (dated(1), LATER, "hold-out: 20 rows asked for, but 1 row is left, and train needs rows too."),
    (dated(25), LATER, "dev: 10 rows asked for, but 5 rows are left"),
    (dated(35), LATER, "train: 5 of 35 rows are left after 20 for the hold-out, 10 for dev and 0 too close to them; expected at least 10."),
    ([*dated(100), make(500)], LATER, "generalise_to = 'later': 1 of 101 rows have no time (rows.jsonl:500); expected one each. Name the column in [data] time"),
    ([make(i, day=1) for i in range(100)], LATER, "every row of the hold-out (20) and the newest of 80 rows before it carry the same time, 2026-01-02T00:00:00+00:00"),
    (one_group(100), GROUPS, "hold-out: 20 rows asked for, but 100 rows in 1 group are left, the largest of 100 rows"),
    (one_group(100), BOTH, "hold-out: 20 rows asked for, but 100 rows in 1 group are left, and the newest groups hold 100"),
    (grouped(120, 10), GROUPS, "hold-out: 2 groups of 12; expected at least 5 to claim anything about new groups. Raise holdout_rows"),
    (grouped(120, 10), BOTH, "hold-out: 2 groups of 12; expected at least 5"),
    (dated(100), BOTH, "generalise_to = 'later_and_new_groups': none of 100 rows has a group; expected one each."),
    ([make(i) for i in range(100)], BOTH, "100 of 100 rows have no time"),
    ([make(i) for i in range(100)], replace(GROUPS, stratify="region"), "[split] stratify = 'region': none of 100 rows has it."),
    ([make(i, day=i, prompt="same words") for i in range(100)], LATER, "dev: 10 rows asked for, but 0 rows are left"),
    ([make(i, day=i, prompt=f"one of {i % 50}") for i in range(100)], LATER, "split: 30 of 70 train rows (43%) are too close to the hold-out or dev (near_dev 10, near_holdout 20; for example"),
    ([make(i) for i in range(60)], replace(GROUPS, holdout_files=("test.csv",)), "hold-out: 20 rows asked for, but test.csv gives 0 after cleaning. Add files."),
    ([make(i, source="test.csv" if i < 15 else "a.csv") for i in range(60)], replace(GROUPS, holdout_files=("test.csv",)), "but test.csv gives 15 after cleaning. Set [split] holdout_rows = 15, or add files."),
    ([*dated(60), make(3, day=3)], LATER, "rows.jsonl:3: 1 record more than once among the rows to split; expected each once."),
    ([*dated(60), *[make(100 + i, day=58 if i else None, source="test.csv") for i in range(20)]], replace(LATER, holdout_files=("test.csv",)), "generalise_to = 'later': 1 of 80 rows have no time (test.csv:100); expected one each."),
    ([*dated(60), *[make(i, day=i) for i in (31, 20, 3, 11, 7)]], LATER, "rows.jsonl:3: 5 records more than once among the rows"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "config", "message"), REFUSALS)
def test_impossible_splits_are_refused_with_counts(rows: list[Row], config: SplitConfig, message: str) -> None:
    with pytest.raises(DataError) as caught:
        split(rows, config)
    assert message in str(caught.value)
