"""Links between rows of similar meaning."""

from __future__ import annotations

import numpy as np
import pytest

from metier.core.errors import ConfigError
from metier.curate import paraphrases
from metier.curate.paraphrases import Links, paraphrase_links


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def listed(links: Links) -> list[tuple[int, int]]:
    return list(zip(links.first.tolist(), links.second.tolist(), strict=True))


def test_links_by_hand_most_similar_first() -> None:
    # Cosines: 0-1 .6, 0-2 .8, 1-2 .96, 3 is at right angles to all.
    vectors = np.array([[1, 0, 0], [0.6, 0.8, 0], [0.8, 0.6, 0], [0, 0, 1]], dtype=np.float32)
    links = paraphrase_links(vectors, min_cosine=0.7)
    assert listed(links) == [(1, 2), (0, 2)]
    assert links.cosine.tolist() == pytest.approx([0.96, 0.8])


def test_links_equal_those_of_all_pairs_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paraphrases, "CHUNK_ROWS", 7)
    rng = np.random.default_rng(2)
    vectors = unit(rng.normal(size=(60, 5)))
    cosine = vectors @ vectors.T
    expected = {(i, j) for i in range(60) for j in range(i + 1, 60) if cosine[i, j] >= 0.8}
    found = listed(paraphrase_links(vectors, min_cosine=0.8, max_links=60))
    assert (set(found), len(found)) == (expected, len(expected))
    assert len(expected) > 20


def test_a_row_asks_for_its_nearest_rows_only() -> None:
    angles = np.array([0, 0.1, 0.25, 0.45])
    vectors = unit(np.column_stack([np.cos(angles), np.sin(angles)]))
    assert listed(paraphrase_links(vectors, min_cosine=0.5, max_links=1)) == [(0, 1), (1, 2), (2, 3)]


def test_equal_texts_are_linked_at_a_cosine_of_one_and_empty_ones_never() -> None:
    vectors = np.concatenate([unit(np.ones((2, 3))), np.zeros((2, 3), dtype=np.float32)])
    assert listed(paraphrase_links(vectors, min_cosine=1.0)) == [(0, 1)]
    assert listed(paraphrase_links(np.zeros((0, 3), dtype=np.float32))) == []
    assert listed(paraphrase_links(unit(np.ones((1, 3))))) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_cosine": 0.0}, "min_cosine is 0.0; expected 0 < min_cosine <= 1."),
        ({"min_cosine": 1.5}, "min_cosine is 1.5; expected 0 < min_cosine <= 1."),
        ({"max_links": 0}, "max_links is 0; expected at least 1."),
    ],
)
def test_settings_that_cannot_mean_anything_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        paraphrase_links(np.zeros((2, 3), dtype=np.float32), **settings)
    assert str(caught.value) == message
