"""Train rows nearest to a prompt by TF-IDF cosine: the one index of the retrieval and the small arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metier.core.rows import Row

__all__ = ["NearestRows"]


@dataclass(frozen=True, slots=True)
class NearestRows:
    """TF-IDF vectors of the train prompts."""

    rows: Sequence[Row]
    vectorizer: Any  # Any: scikit-learn is untyped
    matrix: Any  # Any: a SciPy sparse matrix (rows, terms), rows of unit length

    @classmethod
    def build(cls, rows: Sequence[Row], *, analyzer: str = "word") -> NearestRows:
        """Index the prompts of rows by words and word pairs, or by character 3- to 5-grams inside words."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        ngram = (1, 2) if analyzer == "word" else (3, 5)
        # One-letter words and digits count: in short tickets they tell cases apart.
        pattern = r"(?u)\b\w+\b"
        vectorizer = TfidfVectorizer(analyzer=analyzer, ngram_range=ngram, sublinear_tf=True, token_pattern=pattern)
        if analyzer != "word":
            vectorizer.set_params(token_pattern=None)
        texts = [row.prompt_text or " " for row in rows]
        try:
            matrix = vectorizer.fit_transform(texts)
        except ValueError:  # no term at all: prompts of punctuation only
            vectorizer = TfidfVectorizer(analyzer="char", token_pattern=None)
            matrix = vectorizer.fit_transform(texts)
        return cls(rows, vectorizer, matrix)

    def nearest(self, rows: Sequence[Row], k: int) -> list[list[Row]]:
        """For every row the k nearest indexed rows, nearest first; equal distances in the order of the index."""
        if not rows:
            return []
        similarity = (self.vectorizer.transform([row.prompt_text for row in rows]) @ self.matrix.T).toarray()
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        return [[self.rows[int(i)] for i in line] for line in order]
