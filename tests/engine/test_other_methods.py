"""What transformers' own modules take of the methods: rsLoRA and targets; what needs the compact block is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metier.core.errors import ModelError
from metier.engine import AdapterSpec, close, export_adapter, load
from tests.engine.family_builders import SMALL, write_model

GEMMA = {"model_type": "gemma", "head_dim": 8, "tie_word_embeddings": True}


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert SMALL["num_hidden_layers"] == 3
    return write_model(tmp_path_factory.mktemp("gemma") / "base", GEMMA)


def test_rslora_on_named_layers_is_exported_as_such_and_read_again(base_dir: Path, tmp_path: Path) -> None:
    spec = AdapterSpec(rank=4, alpha=6.0, method="rslora", targets=("q_proj", "v_proj"), first_layer=1)
    handle = load(base_dir, adapter=spec, dtype="fp32")
    assert handle.backend.name == "transformers"
    adapter = handle.require_adapter("test")
    assert (adapter.scale, adapter.targets, len(adapter.layers)) == (3.0, ("q_proj", "v_proj"), 2)
    adapter_dir = export_adapter(handle, tmp_path / "adapter")
    config = json.loads((adapter_dir / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["lora_alpha"]) == (True, 6.0)
    again = load(base_dir, adapter=adapter_dir, dtype="fp32")
    assert again.require_adapter("test").form == adapter.form
    assert again.fingerprint == handle.fingerprint
    close(handle)


@pytest.mark.parametrize("spec", [AdapterSpec(rank=4, alpha=6.0, method="dora"), AdapterSpec(method="full")])
def test_dora_and_full_are_refused_where_transformers_computes(base_dir: Path, spec: AdapterSpec) -> None:
    with pytest.raises(ModelError, match=f"method '{spec.method}' needs the compact block.*model_type is 'gemma'"):
        load(base_dir, adapter=spec)
