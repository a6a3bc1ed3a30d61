"""The tiny model is the same bytes everywhere and a real Llama to transformers."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from metier.core.errors import ConfigError
from metier.core.hashing import file_sha256
from metier.models import make_tiny_model, resolve

TEXTS = ["Where is order 4411?", "It left on Monday."]
ELSEWHERE = (
    "import sys, pathlib; from metier.models import make_tiny_model as m; m(pathlib.Path(sys.argv[1]), texts={!r})"
)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir())}


def test_same_arguments_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    here = make_tiny_model(tmp_path / "here", texts=TEXTS)
    there = tmp_path / "there"
    env = {"PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "false", "PATH": ""}
    subprocess.run([sys.executable, "-c", ELSEWHERE.format(TEXTS), str(there)], check=True, env=env)
    assert hashes(here) == hashes(there)
    assert set(hashes(here)) == {
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    first = hashes(make_tiny_model(tmp_path / "a", texts=TEXTS))
    second = hashes(make_tiny_model(tmp_path / "b", texts=TEXTS, seed=1))
    assert {name for name in first if first[name] != second[name]} == {"model.safetensors"}


def test_transformers_loads_every_weight_and_no_other(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "a", texts=TEXTS, width=32, num_layers=2)
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert {name: list(found) for name, found in info.items() if found} == {}
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.eos_token_id) == (2, 32, 2)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert str(model.dtype) == "torch.bfloat16"


def test_short_name_resolves_with_counted_weights() -> None:
    base = resolve("tiny")
    # 4 layers of 64-wide q, o (64 x 64), k, v (32 x 64), three of 64 x 192, two norms; the last norm; the embedding.
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 192 + 2 * 64
    vocab = (base.num_params - 4 * layer - 64) / 64
    assert 259 < vocab <= 512 and vocab == int(vocab)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 30}, "even head width"),
        ({"num_kv_heads": 3}, "even head width"),
        ({"vocab_size": 258}, "at least 259"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_tiny_model(tmp_path / "a", texts=TEXTS, **sizes)
