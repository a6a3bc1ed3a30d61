"""Similarity of texts: folded, exact, complete, and stars that equal those grown by hand."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
import pytest

from metier.core import candidates, shingles, similarity
from metier.core.similarity import (
    Compared,
    Pairs,
    Shingles,
    fold,
    max_between,
    near_between,
    near_pairs,
    shingles_of,
    stars,
    text_codes,
    words,
)

Set = set[tuple[str, ...]]


def shingle_set(text: str) -> Set:
    found = words(text)
    found += [""] * (3 - len(found)) if found else []
    return {tuple(found[i : i + 3]) for i in range(len(found) - 2)}


def jaccard(left: Set, right: Set) -> float:
    return len(left & right) / max(1, len(left | right))


def some_texts(num: int, seed: int = 4) -> list[str]:
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(25)]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(0, 14))) for _ in range(num)]
    return texts + [" ".join(text.split()[:-1]) for text in texts[: num // 2]] + texts[: num // 8]


def listed(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def found_pairs(texts: Sequence[str], threshold: float, **kwargs: object) -> list[tuple[int, int]]:
    return [pair for pairs in near_pairs(shingles_of(texts), threshold, **kwargs) for pair in listed(pairs)]


def brute_pairs(texts: Sequence[str], threshold: float) -> set[tuple[int, int]]:
    sets = [shingle_set(text) for text in texts]
    return {
        (j, i)
        for i, a in enumerate(sets)
        for j, b in enumerate(sets[:i])
        if a & b and len(a & b) >= threshold * len(a | b) - 1e-9
    }


BY_MINHASH = {"exact_texts": 0, "exact_entries": 0}


def test_fold_ignores_case_white_space_and_unicode_form() -> None:
    assert fold(" E\u0301te\u0301\u00a0 \n\uff21 ") == "\u00e9t\u00e9 a"


def test_words_count_characters_where_scripts_have_no_blanks() -> None:
    assert words("\u6211\u4eec go, 24/7") == ["\u6211", "\u4eec", "go", "24", "7"]
    assert words("?!") == ["?!"]
    assert words(" \n") == []


def test_words_of_plain_ascii_are_those_the_pattern_finds() -> None:
    every = "".join(map(chr, range(128)))
    text = f"{every} It's a_b-c 3.5%, {every[::-1]}"
    assert words(text) == words(text + " \u00e9")[:-1]  # the last word sends the whole text through the pattern


def test_shingles_by_hand_are_counted_once_and_sorted() -> None:
    # abc bca cab abc: three different ones.
    made = shingles_of(["a b c a b c", "", "a B, c!", "x"])
    assert made.size_N.tolist() == [3, 0, 1, 1]
    assert set(made.take(np.array([2])).code_S.tolist()) < set(made.take(np.array([0])).code_S.tolist())
    assert (np.diff(made.take(np.array([0])).code_S) > 0).all()


def test_shingles_depend_on_the_key_and_on_nothing_else() -> None:
    texts = some_texts(50)
    whole = shingles_of(texts, key=b"one")
    parts = Shingles.joined([shingles_of(texts[:20], key=b"one"), shingles_of(texts[20:], key=b"one")])
    assert np.array_equal(whole.code_S, parts.code_S)
    assert np.array_equal(whole.start_N, parts.start_N)
    assert not set(whole.code_S.tolist()) & set(shingles_of(texts, key=b"two").code_S.tolist())
    assert text_codes(["a", "b"], key=b"k").tolist() == [*text_codes(["a"], key=b"k"), *text_codes(["b"], key=b"k")]


def test_codes_that_agree_in_their_first_bits_are_still_sorted_and_once() -> None:
    owner = np.array([0, 0, 0, 1])
    code = np.array([7, 5, 7, 6], dtype=np.uint64)  # all equal without their last ten bits
    made = shingles._sorted_once(owner, code, 2)
    assert (made.start_N.tolist(), made.code_S.tolist()) == ([0, 2, 3], [5, 7, 6])


def test_forgetting_words_changes_no_shingle(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = some_texts(40)
    before = shingles_of(texts, key=b"forget").code_S
    monkeypatch.setattr(shingles, "MAX_WORDS", 3)
    monkeypatch.setattr(shingles, "CHUNK_TEXTS", 7)
    assert np.array_equal(shingles_of(texts, key=b"forget").code_S, before)


def test_similarity_by_hand() -> None:
    # Shingles of the first: abc bcd cde; of the second: abc bcd cdf. Two of four are shared.
    found = max_between(shingles_of(["a b c d e"]), shingles_of(["x y z", "a b c d f"]))
    assert found == (0.5, 0, 1)


def test_no_shingle_runs_across_two_texts() -> None:
    two = shingles_of(["a b", "c d"])
    assert two.size_N.tolist() == [1, 1]
    assert max_between(two, shingles_of(["b c d", "a b c"])) == (0.0, -1, -1)


def test_short_and_empty_texts() -> None:
    assert max_between(shingles_of(["Yes."]), shingles_of(["yes"])) == (1.0, 0, 0)
    assert max_between(shingles_of(["", "a"]), shingles_of(["", "b"])) == (0.0, -1, -1)
    assert max_between(shingles_of([]), shingles_of(["a"])) == (0.0, -1, -1)
    assert found_pairs([], 0.5) == []
    assert found_pairs([], 0.5, **BY_MINHASH) == []
    assert found_pairs(["", ""], 0.5) == []
    assert len(near_between(shingles_of(["a"]), shingles_of([]), 0.5).first) == 0
    assert stars([Compared(shingles_of([]))], 0.5, order=np.arange(0)).tolist() == []


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_exact_pairs_are_all_pairs_and_none_twice(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "CHUNK_PAIRS", 50)
    monkeypatch.setattr(candidates, "CHUNK_TEXTS", 60)
    monkeypatch.setattr(candidates, "CHUNK_CODES", 100)
    monkeypatch.setattr(similarity, "CHUNK_PAIRS", 9)
    texts = some_texts(160)
    found = found_pairs(texts, threshold)
    assert len(found) == len(set(found))
    assert set(found) == brute_pairs(texts, threshold)
    cut = 100
    left, right = shingles_of(texts[:cut]), shingles_of(texts[cut:])
    crossing = {(i, j - cut) for i, j in found if i < cut <= j}
    assert listed(near_between(left, right, threshold)) == sorted(crossing)
    assert listed(near_between(right, left, threshold)) == sorted((j, i) for i, j in crossing)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_minhash_proposes_nearly_all_pairs_and_lists_only_true_ones(threshold: float) -> None:
    texts = some_texts(600)
    found = found_pairs(texts, threshold, **BY_MINHASH)
    expected = brute_pairs(texts, threshold)
    assert len(found) == len(set(found))
    assert set(found) <= expected
    assert len(found) >= 0.99 * len(expected) > 50


def test_minhash_is_chosen_by_the_size_of_the_index_alone() -> None:
    texts = shingles_of([f"a{i} b{i} c{i} d{i} e{i}" for i in range(10)])  # 3 shingles, 1 of them in a prefix at .8
    order = np.arange(10)

    def groups(exact: tuple[int, int]) -> int:
        twice = Shingles.joined([texts, texts])
        return len(
            similarity._index(
                Compared(twice), np.append(order, order + 10), None, candidates.Nearness(0.8), exact
            ).group_E
        )

    assert groups((20, 0)) == groups((0, 20)) == 20  # one shingle each, shared by two
    assert groups((19, 19)) == 20 * (128 // 5)  # 25 bands of 5 values


@pytest.mark.parametrize("how", [{}, BY_MINHASH])
def test_only_texts_of_one_block_are_compared(how: dict[str, int]) -> None:
    texts = ["the same words here", "the same words here", "the same words here", "other words stand here"]
    block = text_codes(["x", "y", "x", "x"], key=b"")
    assert found_pairs(texts, 0.8, block=block, **how) == [(0, 2)]


def test_only_the_rows_asked_for_are_compared_and_keep_their_numbers() -> None:
    texts = ["the same words here"] * 5
    assert found_pairs(texts, 0.8, rows=np.array([1, 4])) == [(1, 4)]


def test_max_between_is_the_brute_force_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "CHUNK_PAIRS", 7)
    monkeypatch.setattr(candidates, "CHUNK_CODES", 20)
    for seed in range(12):  # from copies to texts that share next to nothing
        texts = [text for text in some_texts(60, seed) if text]
        left = texts[:30]
        right = [*texts[40:], "w1 w2 w3 w4 w5"] if seed % 2 else [" ".join(reversed(text.split())) for text in left]
        sets = [[shingle_set(text) for text in side] for side in (left, right)]
        every = [(jaccard(a, b), -i, -j) for i, a in enumerate(sets[0]) for j, b in enumerate(sets[1])]
        expected = max(every)
        assert max_between(shingles_of(left), shingles_of(right)) == pytest.approx(
            (expected[0], -expected[1], -expected[2]), abs=1e-12
        )


def by_hand(order: Sequence[int], near: set[tuple[int, int]]) -> list[int]:
    """Stars one text after the other, as the docstring says it."""
    survivors: list[int] = []
    for place, text in enumerate(order):
        better = [i for i in range(place) if survivors[i] == i and (min(order[i], text), max(order[i], text)) in near]
        survivors.append(min(better, default=place))
    return survivors


@pytest.mark.parametrize("how", [{}, BY_MINHASH])
@pytest.mark.parametrize("star_pairs", [10**9, 2])
@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.8])
def test_stars_are_those_grown_by_hand(
    threshold: float, star_pairs: int, how: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "STAR_PAIRS", star_pairs)
    long = random.Random(1).choices([f"v{i}" for i in range(40)], k=150)
    # Windows over one long text make chains: each is near the next, and the first is not near the last.
    texts = some_texts(100) + [" ".join(long[i : i + 12]) for i in range(0, 138, 2)]
    order = np.random.default_rng(3).permutation(len(texts))
    near = set(found_pairs(texts, threshold, **how))  # the same MinHash proposals on both sides
    found = stars([Compared(shingles_of(texts))], threshold, order=order, **how)
    assert found.tolist() == by_hand(order.tolist(), near)
    assert 20 < (found != np.arange(len(texts))).sum() < len(texts)


@pytest.mark.parametrize("star_pairs", [10**9, 0])
def test_a_text_near_two_that_stay_leaves_for_the_better(star_pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "STAR_PAIRS", star_pairs)
    texts = shingles_of(
        ["a b c d e", "d e f g h", "a b c d e f g h"]
    )  # half of the third is the first, half the second
    for order, expected in (([0, 1, 2], [0, 1, 0]), ([1, 0, 2], [0, 1, 0]), ([2, 0, 1], [0, 0, 0])):
        assert stars([Compared(texts)], 0.5, order=np.asarray(order)).tolist() == expected


def test_stars_need_every_column_near_and_take_two_empty_answers_as_alike() -> None:
    prompts = shingles_of(["where is my parcel"] * 5)
    answers = shingles_of(["it is on its way", "", "it is on its way", "", "we lost it"])
    found = stars([Compared(prompts), Compared(answers)], 0.8, order=np.arange(5))
    assert found.tolist() == [0, 1, 0, 1, 4]


@pytest.mark.parametrize("how", [{}, BY_MINHASH])
def test_splitting_groups_by_the_answer_changes_no_star(how: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(6)
    prompts = [rng.choice(["where is my parcel now", "where is my parcel now please", ""]) for _ in range(200)]
    answers = [rng.choice(["", *some_texts(30, 9)]) for _ in range(200)]
    columns = [Compared(shingles_of(prompts)), Compared(shingles_of(answers))]
    sizes: list[int] = []

    def grown(large: int) -> list[int]:
        monkeypatch.setattr(candidates, "LARGE_GROUP", large)
        order = np.random.default_rng(1).permutation(200)
        index = similarity._index(columns[0], order, None, candidates.Nearness(0.6), (1000, 0) if not how else (0, 0))
        sizes.append(candidates.refined(index, columns[1], order, candidates.Nearness(0.6)).num_pairs())
        return stars(columns, 0.6, order=order, **how).tolist()

    assert grown(5) == grown(10**9)
    assert sizes[0] < sizes[1] / 4


def test_20000_answers_to_one_question_cost_no_square() -> None:
    prompts = shingles_of(["please say in one line what this case is about"] * 20_000)
    answers = shingles_of([" ".join(f"w{(i * 7919 + k * k) % 50_021}" for k in range(12)) for i in range(20_000)])
    start = time.perf_counter()
    found = stars([Compared(prompts), Compared(answers)], 0.8, order=np.arange(20_000))
    assert (found == np.arange(20_000)).all()
    assert time.perf_counter() - start < 20  # below a second on an idle core; all pairs would take minutes


def test_texts_must_be_near_without_their_template_too() -> None:
    template = "dear team my parcel has not come yet please tell me where it is now the sort is"
    texts = [f"{template} red", f"{template} blue", f"{template} red", template, template]
    made = shingles_of(texts)
    own_S = ~np.isin(made.code_S, shingles_of([template]).code_S)
    assert found_pairs(texts, 0.8) == [(i, j) for j in range(5) for i in range(j)]  # 15 of at most 17 shingles
    assert stars([Compared(made, own_S)], 0.8, order=np.arange(5)).tolist() == [0, 1, 0, 3, 3]
    assert found_pairs(texts, 0.8, own_S=own_S) == [(0, 2), (3, 4)]


def test_a_text_that_stands_20000_times_costs_no_square() -> None:
    base = " ".join(f"w{i}" for i in range(40))
    texts = shingles_of([f"{base} end{i}" for i in range(20_000)])  # 200 million pairs, each of .95
    start = time.perf_counter()
    found = stars([Compared(texts)], 0.8, order=np.arange(20_000))
    assert (found == 0).all()
    assert time.perf_counter() - start < 20  # about a second on an idle core; the pairs would take minutes


def test_datasketch_finds_the_same_pairs_in_random_texts() -> None:
    from datasketch import MinHash, MinHashLSH

    texts = [text for text in some_texts(300, seed=8) if text]
    sets = [shingle_set(text) for text in texts]
    index = MinHashLSH(threshold=0.8, num_perm=128, params=(32, 4))  # misses a pair at .8 with a chance of 5e-8
    hashes = [MinHash(num_perm=128) for _ in texts]
    for i, shingles_i in enumerate(sets):
        hashes[i].update_batch(["\x1f".join(shingle).encode() for shingle in shingles_i])
        index.insert(i, hashes[i])
    proposed = {(j, i) for i, one in enumerate(hashes) for j in index.query(one) if j < i}
    theirs = {(i, j) for i, j in proposed if jaccard(sets[i], sets[j]) >= 0.8 - 1e-9}
    assert set(found_pairs(texts, 0.8)) == theirs
    assert len(theirs) > 50
