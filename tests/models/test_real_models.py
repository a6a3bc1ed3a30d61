"""The two models that need nothing but pip: converted right, and sensible."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from metier.models import embed_sentences, resolve

pytestmark = pytest.mark.real_base


def test_default_base_is_bf16_tied_and_carries_no_quantisation() -> None:
    base = resolve("smollm2-135m-instruct")
    config = json.loads((base.dir / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["dtype"], config["tie_word_embeddings"]) == ("bfloat16", True)
    assert config["rope_parameters"]["rope_theta"] == 100_000.0
    assert base.num_params == 134_515_008
    with safe_open(base.dir / "model.safetensors", "pt") as tensors:
        assert "lm_head.weight" not in tensors.keys()  # noqa: SIM118  # safe_open is no mapping
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118  # safe_open is no mapping


def test_default_base_keeps_its_template_and_default_system_prompt() -> None:
    template = (resolve("smollm2-135m-instruct").dir / "chat_template.jinja").read_text()
    assert "You are a helpful AI assistant named SmolLM, trained by Hugging Face" in template


def test_default_base_splits_digits_before_anything_else() -> None:
    tokenizer = Tokenizer.from_file(str(resolve("smollm2-135m-instruct").dir / "tokenizer.json"))
    # A plain byte-level tokenizer gives two newlines here, tokens the model never saw before a digit.
    assert tokenizer.encode("a\n\n1. b 23").tokens == ["a", "\u010a\u010a", "1", ".", "\u0120b", "\u0120", "2", "3"]


def test_sentences_of_one_meaning_are_nearer_than_others() -> None:
    texts = ["Where is my parcel?", "My package has not arrived yet.", "How do I bake bread?", ""]
    vectors_NE = embed_sentences(texts)
    assert vectors_NE.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors_NE, axis=1), 1.0, rtol=1e-5)
    similar_NN = vectors_NE @ vectors_NE.T
    assert similar_NN[0, 1] > 0.45 > 0.2 > similar_NN[0, 2]


def test_sentence_vector_does_not_depend_on_its_batch() -> None:
    texts = ["short", "a much longer sentence about a parcel that left our store on Monday " * 3]
    together = embed_sentences(texts)
    np.testing.assert_allclose(together[0], embed_sentences(texts[:1])[0], atol=1e-5)


def test_no_texts_give_no_vectors() -> None:
    assert embed_sentences([]).shape == (0, 384)
