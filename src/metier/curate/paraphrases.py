"""Rows that may say the same in other words: linked for review, never dropped.

    links = paraphrase_links(embed_sentences(prompts), min_cosine=0.9)
    list(zip(links.first, links.second, links.cosine))

No cosine threshold separates paraphrases from distinct rows (facts, section 10), so a link is a question to a person
and changes nothing by itself. Every pair is looked at, so time grows with the square of the rows; memory holds the
similarities of `CHUNK_ROWS` rows to all others.
"""

# Shapes: N rows, E embedding width, L links, B rows of one chunk.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from metier.core.errors import ConfigError

__all__ = ["Links", "paraphrase_links"]

CHUNK_ROWS = 512

Ints = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


class Links(NamedTuple):
    """Pairs of rows, first < second, the most similar first."""

    first: Ints
    second: Ints
    cosine: Vectors


def paraphrase_links(vectors_NE: Vectors, *, min_cosine: float = 0.9, max_links: int = 5) -> Links:
    """Each row's nearest rows of a cosine of at least `min_cosine`, at most `max_links` of them; a pair is given once.

    `vectors_NE` are unit vectors, such as those of `metier.models.sentences`; a row of zeros (no text) has no links.

    Raises:
        ConfigError: `min_cosine` is not above 0 and at most 1, or `max_links` is below 1.
    """
    if not 0 < min_cosine <= 1:
        raise ConfigError(f"min_cosine is {min_cosine}; expected 0 < min_cosine <= 1.")
    if max_links < 1:
        raise ConfigError(f"max_links is {max_links}; expected at least 1.")
    num = len(vectors_NE)
    pairs, cosines = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
    for low in range(0, num, CHUNK_ROWS):
        cosine_BN = vectors_NE[low : low + CHUNK_ROWS] @ vectors_NE.T
        here = np.arange(low, low + len(cosine_BN))
        cosine_BN[here - low, here] = -1  # a row is no paraphrase of itself
        most = min(max_links, num)
        nearest_BL = np.argpartition(-cosine_BN, most - 1, axis=1)[:, :most]
        cosine_BL = np.take_along_axis(cosine_BN, nearest_BL, axis=1)
        # 1e-6: two equal texts must not fall below a threshold of 1 by rounding.
        row, place = np.nonzero(cosine_BL >= min_cosine - 1e-6)
        mine, other = here[row], nearest_BL[row, place]
        pairs.append(np.minimum(mine, other) * num + np.maximum(mine, other))
        cosines.append(cosine_BL[row, place])
    pair, index = np.unique(np.concatenate(pairs), return_index=True)
    cosine = np.concatenate(cosines)[index]
    order = np.lexsort((pair, -cosine))
    pair = pair[order]
    return Links(pair // max(num, 1), pair % max(num, 1), cosine[order])
