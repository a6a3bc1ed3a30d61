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
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.models.resolve import resolve_sentences

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["embed_sentences"]

_MAX_TOKENS = 256  # what the model was trained with; longer texts count by their start
_BATCH_TOKENS = 8192


def embed_sentences(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors (N, E) of the texts, E = 384; the product of two is their cosine similarity.

    A text longer than 256 tokens counts by its first 256.

    Raises:
        ModelError: the model cannot be fetched.

    Source: Reimers & Gurevych 2019 (mean of token vectors over real tokens, then unit length).
    """
    import numpy as np
    import torch

    tokenizer, model = _load(resolve_sentences().dir)
    vectors_NE = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    encodings = tokenizer.encode_batch(list(texts))
    order = sorted(range(len(texts)), key=lambda index: len(encodings[index].ids))
    start = 0
    while start < len(order):
        size = 1
        while start + size < len(order) and len(encodings[order[start + size]].ids) * (size + 1) <= _BATCH_TOKENS:
            size += 1
        places = order[start : start + size]
        width = len(encodings[places[-1]].ids)
        ids_BT = torch.zeros(size, width, dtype=torch.long)
        real_BT = torch.zeros(size, width, dtype=torch.long)
        for line, place in enumerate(places):
            ids = encodings[place].ids
            ids_BT[line, : len(ids)] = torch.tensor(ids)
            real_BT[line, : len(ids)] = 1
        with torch.inference_mode():
            hidden_BTE = model(input_ids=ids_BT, attention_mask=real_BT).last_hidden_state
            mean_BE = (hidden_BTE * real_BT[:, :, None]).sum(1) / real_BT.sum(1, keepdim=True)
            vectors_NE[places] = torch.nn.functional.normalize(mean_BE, dim=1).numpy()
        start += size
    return vectors_NE


@lru_cache(maxsize=1)
def _load(model_dir: Path) -> tuple[Any, Any]:  # Any: neither the Rust tokenizer nor transformers is typed
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokenizer.enable_truncation(_MAX_TOKENS)
    tokenizer.no_padding()
    with redirect_stderr(io.StringIO()):  # transformers draws a progress bar there; a library stays silent
        model = BertModel.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)
    return tokenizer, model.eval()
