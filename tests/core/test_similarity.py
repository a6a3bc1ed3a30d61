"""Similarity of texts: folded, exact, complete."""

from __future__ import annotations

import random

import pytest

from metier.core.similarity import fold, max_between, near_between, near_pairs, shingle_matrix, words


def shingles(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    found += [""] * (3 - len(found)) if found else []
    return {tuple(found[i : i + 3]) for i in range(len(found) - 2)}


def jaccard(left: str, right: str) -> float:
    return len(shingles(left) & shingles(right)) / max(1, len(shingles(left) | shingles(right)))


def some_texts(num: int) -> list[str]:
    rng = random.Random(4)
    vocabulary = [f"w{i}" for i in range(25)]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(0, 14))) for _ in range(num)]
    return texts + [" ".join(text.split()[:-1]) for text in texts[: num // 2]] + texts[: num // 8]


def found_pairs(texts: list[str], threshold: float, **kwargs: object) -> list[tuple[int, int]]:
    return [
        pair
        for p in near_pairs(texts, threshold, **kwargs)
        for pair in zip(p.first.tolist(), p.second.tolist(), strict=True)
    ]


def brute_pairs(texts: list[str], threshold: float) -> set[tuple[int, int]]:
    sets = [shingles(text) for text in texts]
    return {
        (j, i)
        for i, a in enumerate(sets)
        for j, b in enumerate(sets[:i])
        if a & b and len(a & b) >= threshold * len(a | b) - 1e-9
    }


def test_fold_ignores_case_white_space_and_unicode_form() -> None:
    assert fold(" E\u0301te\u0301\u00a0 \n\uff21 ") == "\u00e9t\u00e9 a"


def test_words_count_characters_where_scripts_have_no_blanks() -> None:
    assert words("\u6211\u4eec go, 24/7") == ["\u6211", "\u4eec", "go", "24", "7"]
    assert words("?!") == ["?!"]
    assert words(" \n") == []


def test_similarity_by_hand() -> None:
    # Shingles of the first: abc bcd cde; of the second: abc bcd cdf. Two of four are shared.
    similarity, first, second = max_between(["a b c d e"], ["x y z", "a b c d f"])
    assert (similarity, first, second) == (0.5, 0, 1)


def test_no_shingle_runs_across_two_texts() -> None:
    assert shingle_matrix(["a b", "c d"]).sum() == 2
    assert max_between(["a b", "c d"], ["b c d", "a b c"]) == (0.0, -1, -1)


def test_short_and_empty_texts() -> None:
    assert max_between(["Yes."], ["yes"])[0] == 1.0
    assert max_between(["", "a"], ["", "b"]) == (0.0, -1, -1)
    assert max_between([], ["a"]) == (0.0, -1, -1)
    assert found_pairs([], 0.5) == []
    assert len(near_between(["a"], [], 0.5).first) == 0


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_exact_pairs_are_all_pairs_and_none_twice(threshold: float) -> None:
    texts = some_texts(160)
    found = found_pairs(texts, threshold)
    assert len(found) == len(set(found))
    assert set(found) == brute_pairs(texts, threshold)
    cut = 100
    between = near_between(texts[:cut], texts[cut:], threshold)
    crossing = {(i, j + cut) for i, j in zip(between.first.tolist(), between.second.tolist(), strict=True)}
    assert crossing == {(i, j) for i, j in set(found) if i < cut <= j}


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_minhash_proposes_nearly_all_pairs_and_lists_only_true_ones(threshold: float) -> None:
    texts = some_texts(600)
    found = found_pairs(texts, threshold, exact_rows=0)
    expected = brute_pairs(texts, threshold)
    assert len(found) == len(set(found))
    assert set(found) <= expected
    assert len(found) >= 0.99 * len(expected) > 50


@pytest.mark.parametrize("exact_rows", [0, 10_000])
def test_only_texts_of_one_block_are_compared(exact_rows: int) -> None:
    texts = ["the same words here", "the same words here", "the same words here", "other words stand here"]
    assert found_pairs(texts, 0.8, block=["x", "y", "x", "x"], exact_rows=exact_rows) == [(0, 2)]


def test_max_between_is_the_brute_force_maximum_of_thousands_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    import metier.core.similarity as similarity

    monkeypatch.setattr(similarity, "CHUNK_PRODUCTS", 7)
    texts = [text for text in some_texts(60) if text]
    left, right = texts[:30], [*texts[40:], "w1 w2 w3 w4 w5"]
    best, i, j = max_between(left, right)
    assert best == pytest.approx(max(jaccard(a, b) for a in left for b in right), abs=1e-12)
    assert jaccard(left[i], right[j]) == pytest.approx(best, abs=1e-12)
