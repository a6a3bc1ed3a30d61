"""Train rows nearest to a prompt, by TF-IDF or by meaning: the one index of the retrieval and the small arm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metier.core.errors import DataError
from metier.core.rows import Row

__all__ = ["MEANING", "Near", "NearestRows", "reader_of"]

MEANING = "meaning"
"""The analyzer that compares sentence embeddings (all-MiniLM-L6-v2) instead of words."""


def reader_of(analyzer: str) -> tuple[str, ...]:
    """Hash of the sentence model that an index reads prompts with; none where it counts words.

    Part of an arm's fingerprint: under another sentence model other rows are near.
    """
    from metier.models import sentence_model_sha256

    return (sentence_model_sha256(),) if analyzer == MEANING else ()


class _Embeddings:
    """Sentence embeddings in the form of a vectorizer."""

    @staticmethod
    def transform(texts: Sequence[str]) -> Any:  # Any: an array (texts, E), as the sparse matrices beside it
        from metier.models import embed_sentences

        return embed_sentences(texts)


class Near(NamedTuple):
    """One row that was found."""

    row: Row
    similarity: float
    """Cosine of its vector and that of the prompt: 0-1 by TF-IDF, -1 to 1 by meaning."""


@dataclass(frozen=True, slots=True)
class NearestRows:
    """Vectors of the train prompts."""

    rows: Sequence[Row]
    vectorizer: Any  # Any: scikit-learn is untyped
    matrix: Any  # Any: a SciPy sparse matrix (rows, terms), or an array (rows, E) by meaning; rows of unit length
    read: Callable[[str], str] = str
    """What is read of a prompt: all of it, or its form without names and numbers."""

    @classmethod
    def build(cls, rows: Sequence[Row], *, analyzer: str = "word", read: Callable[[str], str] = str) -> NearestRows:
        """Index the prompts of rows by words and word pairs, by character 3- to 5-grams inside words, or by meaning.

        Raises:
            DataError: no rows.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        if not rows:
            raise DataError("NearestRows.build: 0 rows; expected at least one train row to find.")
        if analyzer == MEANING:
            embeddings = _Embeddings()
            return cls(rows, embeddings, embeddings.transform([read(row.prompt_text) or " " for row in rows]), read)
        ngram = (1, 2) if analyzer == "word" else (3, 5)
        # One-letter words and digits count: in short tickets they tell cases apart.
        pattern = r"(?u)\b\w+\b"
        vectorizer = TfidfVectorizer(analyzer=analyzer, ngram_range=ngram, sublinear_tf=True, token_pattern=pattern)
        if analyzer != "word":
            vectorizer.set_params(token_pattern=None)
        texts = [read(row.prompt_text) or " " for row in rows]
        try:
            matrix = vectorizer.fit_transform(texts)
        except ValueError:  # no term at all: prompts of punctuation only
            vectorizer = TfidfVectorizer(analyzer="char", token_pattern=None)
            matrix = vectorizer.fit_transform(texts)
        return cls(rows, vectorizer, matrix, read)

    def only(self, places: NDArray[np.int_]) -> NearestRows:
        """The index of some of its rows, their vectors as they are."""
        return replace(self, rows=[self.rows[place] for place in places.tolist()], matrix=self.matrix[places])

    def terms(self, rows: Sequence[Row]) -> Any:  # Any: as `matrix`
        """The vectors of the prompts of rows."""
        return self.vectorizer.transform([self.read(row.prompt_text) or " " for row in rows])

    def nearest(self, rows: Sequence[Row], k: int) -> list[list[Row]]:
        """For every row the k nearest indexed rows, nearest first; equal distances in the order of the index."""
        return [[near.row for near in line] for line in self.ranked(rows, k)]

    def ranked(self, rows: Sequence[Row], k: int) -> list[list[Near]]:
        """What `nearest` finds, with the cosine similarities."""
        if not rows:
            return []
        found = self.terms(rows) @ self.matrix.T
        similarity = found if isinstance(found, np.ndarray) else found.toarray()
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        return [
            [Near(self.rows[int(i)], float(alike[i])) for i in line]
            for line, alike in zip(order, similarity, strict=True)
        ]
