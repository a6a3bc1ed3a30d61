"""Sentence embeddings with all-MiniLM-L6-v2: texts of similar meaning get vectors that point the same way.

    >>> vectors = embed_sentences(["Where is my parcel?", "My package has not arrived yet."])  # doctest: +SKIP
    >>> float(vectors[0] @ vectors[1])  # doctest: +SKIP
    0.51

Similarity groups rows and fills review queues; it never deletes a row, as no threshold separates
paraphrases from distinct rows.

Shapes: N texts, B texts of one batch, T tokens, E embedding width.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.core.hashing import value_hash
from metier.models.resolve import resolve_sentences

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = ["SentenceModel", "embed_sentences", "load_sentence_model", "sentence_model_sha256"]

_MAX_TOKENS = 256  # what the model was trained with; longer texts count by their start
_BATCH_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class SentenceModel:
    """Tokenizer and weights of all-MiniLM-L6-v2."""

    tokenizer: Any  # Any: the Rust tokenizer is not typed
    model: Any  # Any: transformers is not typed

    @property
    def width(self) -> int:
        """E, the numbers of a vector."""
        return int(self.model.config.hidden_size)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, at most 256: a longer text counts by its start."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]

    def means(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """The mean token vector (B, E) of each text of a batch, padding left out; gradients as the caller has them."""
        import torch

        width = max(len(ids) for ids in tokens)
        ids_BT = torch.zeros(len(tokens), width, dtype=torch.long)
        real_BT = torch.zeros(len(tokens), width, dtype=torch.long)
        for line, ids in enumerate(tokens):
            ids_BT[line, : len(ids)] = torch.tensor(ids)
            real_BT[line, : len(ids)] = 1
        hidden_BTE: torch.Tensor = self.model(input_ids=ids_BT, attention_mask=real_BT).last_hidden_state
        return (hidden_BTE * real_BT[:, :, None]).sum(1) / real_BT.sum(1, keepdim=True)

    def batches(self, tokens: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Places of the texts in batches of like length, the shortest first, each of at most 8,192 tokens."""
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
        start = 0
        while start < len(order):
            size = 1
            while start + size < len(order) and len(tokens[order[start + size]]) * (size + 1) <= _BATCH_TOKENS:
                size += 1
            yield order[start : start + size]
            start += size


def embed_sentences(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors (N, E) of the texts, E = 384; the product of two is their cosine similarity.

    A text longer than 256 tokens counts by its first 256.

    Raises:
        ModelError: the model cannot be fetched.

    Source: Reimers & Gurevych 2019 (mean of token vectors over real tokens, then unit length).
    """
    import numpy as np
    import torch

    sentences = _shared(resolve_sentences().dir)
    tokens = sentences.tokens(texts)
    vectors_NE = np.zeros((len(texts), sentences.width), dtype=np.float32)
    for places in sentences.batches(tokens):
        with torch.inference_mode():
            mean_BE = sentences.means([tokens[place] for place in places])
            vectors_NE[places] = torch.nn.functional.normalize(mean_BE, dim=1).numpy()
    return vectors_NE


def load_sentence_model() -> SentenceModel:
    """A copy of the sentence model whose weights the caller may change; dropout is off.

    Raises:
        ModelError: the model cannot be fetched.
    """
    return _load(resolve_sentences().dir)


def sentence_model_sha256() -> str:
    """Fingerprint of what `embed_sentences` computes: weights, config and tokenizer.

    Raises:
        ModelError: the model cannot be fetched.
    """
    found = resolve_sentences()
    return value_hash([found.base_sha256, found.config_sha256, found.tokenizer_sha256])


@lru_cache(maxsize=1)
def _shared(model_dir: Path) -> SentenceModel:
    """The model that all embeddings are computed with; its weights stay as they are."""
    return _load(model_dir)


def _load(model_dir: Path) -> SentenceModel:
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokenizer.enable_truncation(_MAX_TOKENS)
    tokenizer.no_padding()
    with redirect_stderr(io.StringIO()):  # transformers draws a progress bar there; a library stays silent
        model = BertModel.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)
    return SentenceModel(tokenizer, model.eval())
