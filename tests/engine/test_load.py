"""Loading: what is refused, and that new adapters and fingerprints are what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from metier.core.errors import ModelError, StoreError
from metier.engine import (
    AdapterSpec,
    close,
    export_adapter,
    export_model,
    families,
    load,
    load_state,
    load_tuned,
    read_shape,
    save_state,
)
from metier.engine.families import read_config, why_not_compact
from metier.engine.handle import Handle
from tests.engine.builders import change_config, tiny_base

SPEC = AdapterSpec(rank=2, alpha=4.0)


def with_config(model_dir: Path, **changes: object) -> Path:
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps({**config, **changes}))
    return model_dir


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"model_type": "gemma2"}, "model_type is 'gemma2'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"model_type": "mistral", "sliding_window": 1023}, "sliding_window is 1023"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 64}, "sliding_window is 64"),
        ({"model_type": "qwen3", "layer_types": ["chunked_attention"]}, "layer_types is"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}}, "rope_parameters is"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ],
)
def test_what_the_block_does_not_compute_goes_to_transformers_with_the_reason(
    tmp_path: Path, changes: dict[str, object], found: str
) -> None:
    base_dir = with_config(tiny_base(tmp_path), **changes)
    assert why_not_compact(read_config(base_dir)).startswith(found)


def test_the_forward_and_its_reason_stand_on_the_handle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base_dir = tiny_base(tmp_path)
    assert load(base_dir).forward.startswith("compact: it differs from transformers' own forward by ")
    assert not caplog.records
    handle = load(with_config(base_dir, hidden_act="gelu"))
    assert handle.forward == "transformers: hidden_act is 'gelu'"
    assert "computed by transformers' own modules, several times slower: hidden_act is 'gelu'" in caplog.text
    with pytest.raises(ModelError, match=r"hidden_act is 'gelu'.*needs the compact block"):
        _ = handle.weights


def test_a_block_that_differs_from_transformers_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = families.compact_shape
    # The mutant: the norm's epsilon is read wrongly, a difference no shape and no loss curve would show.
    monkeypatch.setattr(families, "compact_shape", lambda config: replace(real(config), norm_eps=1e-2))
    monkeypatch.setenv("METIER_CACHE", str(tmp_path / "cache"))
    handle = load(tiny_base(tmp_path / "base"))
    assert handle.forward.startswith("transformers: the compact block differs from transformers' own forward by ")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"model_type": "no_such_model"}, "transformers knows no causal language model"),
        ({"model_type": "qwen3", "layer_types": ["full_attention"], "hidden_act": "gelu"}, "transformers knows no"),
    ],
)
def test_bases_neither_forward_computes_are_refused(tmp_path: Path, changes: dict[str, object], found: str) -> None:
    with pytest.raises(ModelError, match=rf"config\.json: {found}.*Choose"):
        load(with_config(tiny_base(tmp_path), **changes))


def test_folders_without_config_or_safetensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: not readable .*expected a model folder"):
        load(tmp_path)
    base_dir = tiny_base(tmp_path / "base")
    (base_dir / "model.safetensors").rename(base_dir / "pytorch_model.bin")
    with pytest.raises(ModelError, match="expected model.safetensors, found none; only safetensors are read"):
        load(base_dir)


def test_a_missing_or_misshapen_weight_is_named(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path)
    path = base_dir / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name][:-1].clone()}, path)
    with pytest.raises(ModelError, match=rf"weight {name} has shape \(79, 48\); config.json says \(80, 48\)"):
        load(base_dir)
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    with pytest.raises(ModelError, match=f"weight {name} is missing"):
        load(base_dir)


def test_old_and_new_spellings_of_rotary_settings_are_read(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path)
    with_config(base_dir, rope_parameters={"rope_type": "default", "rope_theta": 5000.0})
    assert read_shape(base_dir).rope_theta == 5000.0
    with_config(base_dir, rope_parameters=None, rope_theta=7000.0)
    assert read_shape(base_dir).rope_theta == 7000.0


def test_fused_matrices_hold_the_parts_in_order(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path)
    tensors = load_file(base_dir / "model.safetensors")
    layer = load(base_dir, dtype="fp32").weights.layers[2]
    assert torch.equal(layer.qkv[48:64], tensors["model.layers.2.self_attn.k_proj.weight"])
    assert torch.equal(layer.gate_up[80:], tensors["model.layers.2.mlp.up_proj.weight"])


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"model_type": "qwen2"}, r"self_attn\.q_proj\.bias"),
        ({"attention_bias": True}, r"self_attn\.q_proj\.bias"),
        ({"mlp_bias": True}, r"mlp\.gate_proj\.bias"),
        ({"model_type": "qwen3"}, r"self_attn\.q_norm\.weight"),
    ],
)
def test_what_a_family_brings_must_be_in_the_file(tmp_path: Path, changes: dict[str, object], name: str) -> None:
    with pytest.raises(ModelError, match=rf"weight model\.layers\.0\.{name} is missing"):
        load(with_config(tiny_base(tmp_path), **changes))


def test_a_window_as_long_as_the_context_and_one_switched_off_are_no_windows(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path)
    plain = read_shape(base_dir)
    assert read_shape(with_config(base_dir, model_type="mistral", sliding_window=1024)) == plain
    wide = with_config(base_dir, model_type="qwen2", sliding_window=64, use_sliding_window=False)
    assert read_shape(wide).has_qkv_bias
    assert not read_shape(wide).has_out_bias


def adapted(tmp_path: Path, seed: int = 0) -> Handle:
    return load(tiny_base(tmp_path / "base"), adapter=SPEC, seed=seed, dtype="fp32")


def test_the_fingerprint_moves_with_every_weight_and_not_with_anything_else(tmp_path: Path) -> None:
    handle = adapted(tmp_path)
    assert handle.fingerprint == adapted(tmp_path).fingerprint
    assert handle.fingerprint != adapted(tmp_path, seed=1).fingerprint
    assert handle.fingerprint != load(tmp_path / "base", dtype="fp32").fingerprint
    before = handle.fingerprint
    handle.require_adapter("test").layers[2]["down_proj"].b[0, 0] = 1e-30
    assert handle.fingerprint != before


def test_equal_masters_in_another_layer_are_another_model(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path / "base")
    specs = [AdapterSpec(rank=2, alpha=4.0, targets=(name,)) for name in ("q_proj", "o_proj")]
    q, o = (load(base_dir, adapter=spec, dtype="fp32") for spec in specs)
    assert torch.equal(q.require_adapter("test").masters_P, o.require_adapter("test").masters_P)
    assert q.fingerprint != o.fingerprint


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern is"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    ],
)
def test_adapter_forms_that_are_not_computed_are_refused(
    tmp_path: Path, changes: dict[str, object], found: str
) -> None:
    adapter_dir = export_adapter(adapted(tmp_path), tmp_path / "adapter")
    path = adapter_dir / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=f"{found}.*computes plain LoRA"):
        load(tmp_path / "base", adapter=adapter_dir)


def test_dora_scaled_by_the_root_of_the_rank_is_refused(tmp_path: Path) -> None:
    adapter_dir = export_adapter(adapted(tmp_path), tmp_path / "adapter")
    path = adapter_dir / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dora": True, "use_rslora": True}))
    with pytest.raises(ModelError, match="use_dora and use_rslora are both true"):
        load(tmp_path / "base", adapter=adapter_dir)


def unsigned(adapter_dir: Path) -> Path:
    """The adapter as PEFT would have written it: its file names no base."""
    path = adapter_dir / "adapter_model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt"})
    return adapter_dir


def test_an_adapter_of_other_shapes_and_a_partial_one_are_refused(tmp_path: Path) -> None:
    adapter_dir = unsigned(export_adapter(adapted(tmp_path), tmp_path / "adapter"))
    deeper = tiny_base(tmp_path / "deeper", num_layers=4)
    with pytest.raises(ModelError, match=r"layers\.3\.self_attn\.q_proj\.lora_A\.weight is missing.*adapted alike"):
        load(deeper, adapter=adapter_dir)
    shallower = tiny_base(tmp_path / "shallower", num_layers=2)
    with pytest.raises(ModelError, match=r"layers\.2\..*has no place in this base"):
        load(shallower, adapter=adapter_dir)
    with pytest.raises(ModelError, match="not readable as an adapter"):
        load(deeper, adapter=tmp_path / "nowhere")


@pytest.mark.parametrize("spec", [SPEC, AdapterSpec(rank=2, alpha=4.0, method="dora")], ids=lambda spec: spec.method)
def test_an_adapter_of_another_base_of_the_same_shapes_is_refused(tmp_path: Path, spec: AdapterSpec) -> None:
    handle = load(tiny_base(tmp_path / "base"), adapter=spec, dtype="fp32")
    adapter_dir = export_adapter(handle, tmp_path / "adapter")
    other = tiny_base(tmp_path / "other", seed=1)
    theirs = load(other, dtype="fp32").base_sha256[:12]
    with pytest.raises(
        ModelError, match=f"tuned on base {handle.base_sha256[:12]}, but this base is {theirs}.*own base"
    ):
        load(other, adapter=adapter_dir)
    assert (
        load(other, adapter=unsigned(adapter_dir)).adapter is not None
    )  # a file that names no base fits by its shapes


def test_the_same_weights_under_another_config_are_another_base(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path / "base")
    handle = load(base_dir, adapter=SPEC, dtype="fp32", threads=1)
    whole = load(base_dir, adapter=AdapterSpec(method="full"), dtype="fp32", threads=1)
    adapter_dir = export_adapter(handle, tmp_path / "adapter")
    save_state(handle, tmp_path / "state")
    for changes in ({"dtype": "bfloat16", "transformers_version": "9"}, {"rms_norm_eps": 1e-3}):
        change_config(base_dir, **changes)
        is_other = "rms_norm_eps" in changes
        other = load(base_dir, adapter=SPEC, dtype="fp32", threads=1)
        full = load(base_dir, adapter=AdapterSpec(method="full"), dtype="fp32", threads=1)
        assert (other.fingerprint != handle.fingerprint, full.fingerprint != whole.fingerprint) == (is_other, is_other)
        assert other.base_sha256 == handle.base_sha256
        if not is_other:
            load(base_dir, adapter=adapter_dir)
            load_state(other, tmp_path / "state")
    with pytest.raises(ModelError, match=r"tuned on config\.json [0-9a-f]{12}, but this config\.json is .*tune again"):
        load(base_dir, adapter=adapter_dir)
    with pytest.raises(ModelError, match="the checkpoint was made with base = "):
        load_state(other, tmp_path / "state")


def test_an_adapter_without_magnitudes_is_no_dora(tmp_path: Path) -> None:
    adapter_dir = export_adapter(adapted(tmp_path), tmp_path / "adapter")
    path = adapter_dir / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dora": True}))
    with pytest.raises(ModelError, match=r"q_proj\.lora_magnitude_vector is missing; expected \(48,\)"):
        load(tmp_path / "base", adapter=adapter_dir)


def cut(path: Path) -> None:
    """Lose the last byte."""
    path.write_bytes(path.read_bytes()[:-1])


def test_files_cut_by_one_byte_are_refused_and_nothing_of_them_is_used(tmp_path: Path) -> None:
    handle = adapted(tmp_path)
    adapter_dir = export_adapter(handle, tmp_path / "adapter")
    cut(adapter_dir / "adapter_model.safetensors")
    with pytest.raises(
        ModelError, match="not readable as an adapter .*both whole. Restore them from a copy, or delete"
    ):
        load(tmp_path / "base", adapter=adapter_dir)
    save_state(handle, tmp_path / "state")
    before = handle.fingerprint
    handle.require_adapter("test").masters_P.add_(1.0)
    moved = handle.fingerprint
    for name in ("state.safetensors", "state.json"):
        whole = (tmp_path / "state" / name).read_bytes()
        cut(tmp_path / "state" / name)
        with pytest.raises(StoreError, match="not readable as a checkpoint .*delete it to start again"):
            load_state(handle, tmp_path / "state")
        assert handle.fingerprint == moved
        (tmp_path / "state" / name).write_bytes(whole)
    load_state(handle, tmp_path / "state")
    assert handle.fingerprint == before
    close(handle)


def test_a_tuned_model_that_is_cut_or_of_another_base_is_refused(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path / "base")
    handle = load(base_dir, adapter=AdapterSpec(method="full"), dtype="fp32")
    model_dir = export_model(handle, tmp_path / "model")
    assert load_tuned(base_dir, model_dir, base_sha256=handle.base_sha256).shape == handle.shape
    with pytest.raises(ModelError, match=f"tuned from base {handle.base_sha256[:12]}, but this base is 000"):
        load_tuned(base_dir, model_dir, base_sha256="0" * 64)
    cut(model_dir / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors: not a whole safetensors file .*tune again"):
        load_tuned(base_dir, model_dir, base_sha256=handle.base_sha256)
    with pytest.raises(ModelError, match="the weights of this model do not train; load it with method='full'"):
        export_model(load(base_dir), tmp_path / "other")


def test_the_same_adapter_is_the_same_file(tmp_path: Path) -> None:
    handle = adapted(tmp_path)
    files = [export_adapter(handle, tmp_path / name) / "adapter_model.safetensors" for name in ("a", "b", "c")]
    assert len({path.read_bytes() for path in files}) == 1


def test_a_scale_by_the_root_of_the_rank_is_read_as_such(tmp_path: Path) -> None:
    adapter_dir = export_adapter(adapted(tmp_path), tmp_path / "adapter")
    path = adapter_dir / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_rslora": True}))
    adapter = load(tmp_path / "base", adapter=adapter_dir).require_adapter("test")
    assert adapter.scale == pytest.approx(4 / 2**0.5)  # alpha / sqrt(rank)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (AdapterSpec(alpha=1.0), "rank 0, first_layer 0; expected a rank of 1 or more"),
        (AdapterSpec(rank=1, alpha=1.0, first_layer=3), "first_layer 3; expected a rank of 1 or more and a layer below 3"),
        (AdapterSpec(method="full", first_layer=3), "first_layer 3; expected .* a layer below 3"),
        (AdapterSpec(rank=17, alpha=1.0), "rank 17 is larger than k_proj can use: its matrix is 16 x 48, so 16 is full rank"),
        (AdapterSpec(rank=49, alpha=1.0, targets=("q_proj", "down_proj")), "rank 49 is larger than q_proj .* 48 x 48"),
        (AdapterSpec(rank=1, alpha=1.0, targets=("q_porj",)), "called 'q_porj'; did you mean 'q_proj'"),
        (AdapterSpec(rank=1, method="full"), "rank 1, alpha 0, .* method 'full' trains the weights"),
    ],
)  # fmt: skip
def test_what_the_base_cannot_carry_is_refused_before_weights_are_read(
    tmp_path: Path, spec: AdapterSpec, said: str
) -> None:
    base_dir = tiny_base(tmp_path)
    (base_dir / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=said):
        load(base_dir, adapter=spec)


def test_a_rank_as_large_as_every_target_can_use_is_taken(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path)
    assert load(base_dir, adapter=AdapterSpec(rank=16, alpha=1.0)).adapter is not None
    assert load(base_dir, adapter=AdapterSpec(rank=48, alpha=1.0, targets=("up_proj",))).adapter is not None


def test_dora_refuses_a_row_without_length(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path)
    path = base_dir / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][[3, 5]] = 0
    save_file(tensors, path)
    with pytest.raises(ModelError, match="layer 1, up_proj: 2 of 80 rows of the base are all zero.*tune.targets"):
        load(base_dir, adapter=AdapterSpec(rank=2, alpha=4.0, method="dora"))
    spec = AdapterSpec(rank=2, alpha=4.0, method="dora", targets=("gate_proj", "down_proj"))
    assert load(base_dir, adapter=spec).adapter is not None


def test_a_checkpoint_of_other_settings_or_none_is_refused(tmp_path: Path) -> None:
    handle = adapted(tmp_path)
    save_state(handle, tmp_path / "state")
    other = load(tmp_path / "base", adapter=AdapterSpec(rank=3, alpha=4.0), dtype="fp32")
    with pytest.raises(
        ModelError, match=r"made with adapter = \['lora', 2, 2\.0, 0, .*this run has \['lora', 3, 1\.33.*same settings"
    ):
        load_state(other, tmp_path / "state")
    with pytest.raises(StoreError, match="expected a checkpoint, found none"):
        load_state(handle, tmp_path / "nowhere")
    (tmp_path / "state" / "state.safetensors").write_bytes(b"cut")
    with pytest.raises(StoreError, match="not readable as a checkpoint"):
        load_state(handle, tmp_path / "state")
    close(other)
    close(handle)
