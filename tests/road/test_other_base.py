"""The whole road on a base the compact block does not compute: a small random Gemma 3, tuned, decoded and judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.road.running import metier, one_core
from tests.road.small_project import LEAN, write_project


def write_gemma(model_dir: Path) -> Path:
    """The tokenizer and template of the tiny model, and random Gemma 3 weights with a window of 16 tokens."""
    from transformers import AutoModelForCausalLM, Gemma3TextConfig

    from metier.models import make_tiny_model
    from metier.models.tiny import TINY_TEXTS

    make_tiny_model(model_dir, texts=TINY_TEXTS, num_layers=1)
    vocab = json.loads((model_dir / "config.json").read_text())["vocab_size"]
    config = Gemma3TextConfig(
        vocab_size=vocab, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, max_position_embeddings=2048, sliding_window=16, query_pre_attn_scalar=12,
        layer_types=["sliding_attention", "full_attention"], pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(model_dir)
    return model_dir


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_a_gemma_reaches_a_verdict_and_the_run_says_which_forward_computed_it(tmp_path: Path) -> None:
    base_dir = write_gemma(tmp_path / "gemma")
    text = LEAN.replace('name = "tiny"', f'name = "path:{base_dir}"')
    project = write_project(tmp_path / "project", text=text)
    with one_core():
        ran = metier("run", "-C", project, "--json")
    assert ran.code in (0, 3), ran.err
    assert "transformers' own modules" in ran.err
    report = json.loads((project / ".metier/report/report.json").read_text())
    assert report["verdict"]["outcome"]
    (path,) = project.glob(".metier/**/execution.json")
    execution = json.loads(path.read_text())
    assert execution["block"] == {**execution["block"], "name": "transformers", "reason": "model_type is 'gemma3_text'"}
    (adapter,) = {p.parent for p in project.glob(".metier/**/adapter_model.safetensors")}
    names = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    assert names == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    # The same weights under another config compute another function: what was judged is not what would answer now.
    assert metier("verify", "-C", project, "--json").json["problems"] == []
    settings = json.loads((base_dir / "config.json").read_text())
    (base_dir / "config.json").write_text(json.dumps({**settings, "sliding_window": 32}))
    (problem,) = metier("verify", "-C", project, "--json").json["problems"]
    assert problem.startswith("model: function_sha256 is ") and report["model"]["function_sha256"][:12] in problem
