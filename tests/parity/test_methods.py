"""Every method beside PEFT and transformers, in fp32: losses, gradients, files in and out, replies.

Tolerance 1e-5 relative: both sides sum some hundred fp32 products in another order.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from metier.engine import (
    AdapterSpec,
    Handle,
    Linear,
    SamplingParams,
    close,
    export_adapter,
    export_model,
    forward_backward,
    load,
    logprobs,
    make_batch,
    optim_step,
    sample,
)
from metier.engine.full import FullGradients
from metier.engine.load import DtypeName
from metier.engine.loop import trainer_of
from metier.engine.model_bytes import named_tensors
from metier.engine.weights import LINEAR_NAMES
from metier.render import RenderedRow
from tests.engine.builders import VOCAB, random_rows, tiny_base
from tests.engine.family_builders import COMPACT, write_model
from tests.parity.test_compact_block import reference_loss

# PEFT reads a property that transformers renamed; it works, with a warning.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

LENGTHS = [5, 9, 300, 31, 30, 5, 2]
SUBSETS = [(), ("q_proj", "v_proj"), ("o_proj", "up_proj"), ("down_proj",), ("k_proj", "gate_proj")]
FAMILIES = ("llama with biases", "qwen2", "qwen3", "qwen3 untied with biases")
"""Those whose blocks hold more than matrices and two norms."""
PROMPTS = [[5, 9, 11], [30, 2, 7, 7, 60], [1], list(range(3, 40))]


def drawn(handle: Handle, seed: int = 1) -> Handle:
    """The handle with every master moved: low-rank parts drawn, DoRA's magnitudes changed by up to a half."""
    assert handle.adapter is not None
    draw = torch.Generator().manual_seed(seed)
    num = handle.adapter.num_decayed
    handle.adapter.masters_P[:num].normal_(0, 0.2, generator=draw)
    lengths = handle.adapter.masters_P[num:]
    lengths.mul_(1 + torch.rand(lengths.shape, generator=draw) - 0.5)
    return handle


def adapted(base_dir: Path, **form: Any) -> Handle:  # Any: fields of AdapterSpec
    return drawn(load(base_dir, adapter=AdapterSpec(rank=4, alpha=6.0, **form), dtype="fp32", threads=2))


def peft_of(base_dir: Path, adapter_dir: Path, *, trainable: bool = False) -> Any:  # Any: PEFT's class
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(adapter_dir), is_trainable=trainable)


def peer_logprobs(peer: Any, row: RenderedRow) -> torch.Tensor:  # Any: as above
    """Log-probabilities of every token after the first."""
    ids = torch.tensor([row.tokens])
    with torch.no_grad():
        return torch.log_softmax(peer(ids).logits[0, :-1].float(), -1).gather(1, ids[0, 1:, None])[:, 0]


def assert_same_logprobs(handle: Handle, peer: Any) -> None:  # Any: as above
    row = random_rows([40])[0]
    mine = logprobs(handle, make_batch([row])).result()[1:]
    trained = torch.tensor(row.weight[1:]) > 0
    torch.testing.assert_close(mine[trained], peer_logprobs(peer, row)[trained], rtol=1e-5, atol=1e-5)


def assert_same_replies(handle: Handle, peer: Any) -> None:  # Any: as above
    found = dict(sample(handle, PROMPTS, SamplingParams(max_tokens=12, stop_ids=frozenset())))
    for i, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = peer.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
                eos_token_id=VOCAB, pad_token_id=0,
            )  # fmt: skip
        assert list(found[i].tokens) == out[0, len(prompt) :].tolist()


def assert_same_adapter_gradients(handle: Handle, peer: Any) -> None:  # Any: as above
    """Loss and the gradient of every tensor of the adapter, and nothing else trained in PEFT."""
    rows = random_rows(LENGTHS)
    expected = reference_loss(peer, rows)
    expected.backward()
    stats = forward_backward(handle, make_batch(rows), Linear()).result()
    assert stats.loss_nats == pytest.approx(float(expected.detach()), rel=1e-5)
    grad_by_name = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    adapter, grads = handle.require_adapter("test"), trainer_of(handle).grads
    sides = ("lora_A", "lora_B") + (("lora_magnitude_vector",) if adapter.method == "dora" else ())
    assert len(grad_by_name) == len(adapter.layers) * len(adapter.targets) * len(sides)
    for at, layer in enumerate(adapter.layers, start=adapter.first_layer):
        for name, low_rank in layer.items():
            for side, master in zip(sides, (low_rank.a, low_rank.b, low_rank.magnitude), strict=False):
                assert master is not None
                mine = sum(each.view(master) for each in grads)
                (peer_name,) = [n for n in grad_by_name if f"layers.{at}." in n and f".{name}.{side}." in n]
                error = (grad_by_name.pop(peer_name) - mine).norm() / mine.norm()
                assert error < 1e-5, (peer_name, float(error))
    assert not grad_by_name, "PEFT trains something this engine does not"


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
@pytest.mark.parametrize(("first_layer", "tied"), [(0, True), (2, False)])
@pytest.mark.parametrize("targets", SUBSETS, ids="+".join)
def test_loss_and_every_gradient_equal_peft(
    tmp_path: Path, method: str, targets: tuple[str, ...], first_layer: int, tied: bool
) -> None:
    base_dir = tiny_base(tmp_path / "base", tied=tied)
    handle = adapted(base_dir, method=method, targets=targets, first_layer=first_layer)
    peer = peft_of(base_dir, export_adapter(handle, tmp_path / "adapter"), trainable=True)
    assert_same_adapter_gradients(handle, peer)
    close(handle)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", [(), ("k_proj", "down_proj")], ids="+".join)
def test_dora_of_every_family_equals_peft(tmp_path: Path, family: str, targets: tuple[str, ...]) -> None:
    base_dir = write_model(tmp_path / "base", COMPACT[family])
    handle = adapted(base_dir, method="dora", targets=targets)
    peer = peft_of(base_dir, export_adapter(handle, tmp_path / "adapter"), trainable=True)
    assert_same_adapter_gradients(handle, peer)
    assert_same_replies(handle, peer)
    close(handle)


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj", "up_proj")], ids="+".join)
def test_an_exported_adapter_is_in_peft_the_same_bits_scaling_logprobs_and_replies(
    tmp_path: Path, method: str, targets: tuple[str, ...]
) -> None:
    base_dir = tiny_base(tmp_path / "base")
    handle = adapted(base_dir, method=method, targets=targets, first_layer=1)
    adapter_dir = export_adapter(handle, tmp_path / "adapter")
    peer = peft_of(base_dir, adapter_dir)
    assert handle.adapter is not None
    num_seen = 0
    for at, layer in enumerate(handle.adapter.layers, start=1):
        for name, low_rank in layer.items():
            block = peer.base_model.model.model.layers[at]
            module = getattr(block.self_attn if hasattr(block.self_attn, name) else block.mlp, name)
            assert module.scaling["default"] == handle.adapter.scale
            assert torch.equal(module.lora_A["default"].weight, low_rank.a)
            assert torch.equal(module.lora_B["default"].weight, low_rank.b)
            if method == "dora":
                assert torch.equal(module.lora_magnitude_vector["default"].weight, low_rank.magnitude)
            num_seen += 1
    assert num_seen == 2 * len(targets or LINEAR_NAMES)
    assert len(load_file(adapter_dir / "adapter_model.safetensors")) == num_seen * (3 if method == "dora" else 2)
    assert_same_logprobs(handle, peer)
    assert_same_replies(handle, peer)
    reloaded = load(base_dir, adapter=adapter_dir, dtype="fp32")
    assert reloaded.fingerprint == handle.fingerprint
    close(handle)


@pytest.mark.parametrize("form", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_an_adapter_made_by_peft_loads_as_what_it_is(tmp_path: Path, form: dict[str, bool]) -> None:
    base_dir = tiny_base(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    config = LoraConfig(
        r=4, lora_alpha=10, target_modules=["q_proj", "o_proj", "gate_proj"], task_type="CAUSAL_LM", **form
    )
    peer = get_peft_model(base, config)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in peer.named_parameters():
            if "lora_" in name:
                p.mul_(1.3) if "magnitude" in name else p.normal_(0, 0.2, generator=draw)
    peer.save_pretrained(tmp_path / "adapter")
    handle = load(base_dir, adapter=tmp_path / "adapter", dtype="fp32")
    assert handle.adapter is not None
    assert (handle.adapter.targets, handle.adapter.scale) == (
        ("q_proj", "o_proj", "gate_proj"),
        10 / (2 if "use_rslora" in form else 4),
    )
    assert_same_logprobs(handle, peer.eval())
    assert_same_replies(handle, peer)
    close(handle)


def test_a_new_dora_adapter_changes_nothing_and_has_the_lengths_peft_starts_with(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path / "base")
    handle = load(base_dir, adapter=AdapterSpec(rank=4, alpha=6.0, method="dora"), dtype="fp32")
    rows = make_batch(random_rows([30]))
    assert torch.equal(logprobs(handle, rows).result(), logprobs(load(base_dir, dtype="fp32"), rows).result())
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    peer = get_peft_model(base, LoraConfig(r=4, use_dora=True, target_modules=["v_proj"], task_type="CAUSAL_LM"))
    expected = peer.base_model.model.model.layers[2].self_attn.v_proj.lora_magnitude_vector["default"].weight
    assert handle.adapter is not None
    torch.testing.assert_close(handle.adapter.layers[2]["v_proj"].magnitude, expected.data, rtol=1e-6, atol=0)
    close(handle)


def full_gradients(handle: Handle) -> dict[str, torch.Tensor]:
    """The gradient of everything that trains, by transformers' names: the gradients laid out as the weights are."""
    summed: dict[str, torch.Tensor] = {}
    for grads in trainer_of(handle).grads:
        assert isinstance(grads, FullGradients)
        for name, view in grads.views.items():
            summed[name] = summed[name] + view if name in summed else view
    laid = copy.deepcopy(handle.weights)
    for i, layer in enumerate(laid.layers):
        for name in ("norm1_D", "qkv", "out", "norm2_D", "gate_up", "down"):
            setattr(layer, name, summed.get(f"{i}.{name}", torch.full_like(getattr(layer, name), torch.nan)))
        layer.biases = {
            group: summed.get(f"{i}.{group}.bias", torch.full_like(bias, torch.nan))
            for group, bias in layer.biases.items()
        }
        if layer.head_norm_HE is not None:
            layer.head_norm_HE.fill_(torch.nan)
            if f"{i}.q_norm" in summed:
                layer.head_norm_HE[: handle.shape.num_heads] = summed[f"{i}.q_norm"]
                layer.head_norm_HE[handle.shape.num_heads :] = summed[f"{i}.k_norm"]
    for name in ("embed_VD", "norm_D", "head_VD"):
        setattr(laid, name, summed.get(name, torch.full_like(getattr(laid, name), torch.nan)))
    return {name: tensor for name, tensor in named_tensors(laid) if not tensor.isnan().any()}


def assert_same_full_gradients(base_dir: Path, first_layer: int) -> None:
    """Loss and the gradient of every weight that should train; no other has one."""
    spec = AdapterSpec(method="full", first_layer=first_layer)
    handle = load(base_dir, adapter=spec, dtype="fp32", threads=2)
    peer = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    rows = random_rows(LENGTHS)
    expected = reference_loss(peer, rows)
    expected.backward()
    stats = forward_backward(handle, make_batch(rows), Linear()).result()
    assert stats.loss_nats == pytest.approx(float(expected.detach()), rel=1e-5)
    mine, tied, num_layers = full_gradients(handle), handle.shape.tied_head, handle.shape.num_layers
    trained = {
        name for name, _ in peer.named_parameters()
        if any(f"layers.{i}." in name for i in range(first_layer, num_layers)) or name == "model.norm.weight"
        or (name == "lm_head.weight" and not tied) or (name == "model.embed_tokens.weight" and not first_layer)
    }  # fmt: skip
    assert mine.keys() == trained
    for name, p in peer.named_parameters():
        if name in mine:
            assert p.grad is not None
            error = (p.grad - mine[name]).norm() / mine[name].norm()
            # A key's bias moves all scores of a query alike, so its gradient is zero but for rounding.
            assert error < 1e-5 or (name.endswith("k_proj.bias") and mine[name].norm() < 1e-6), (name, float(error))
    close(handle)


@pytest.mark.parametrize(("first_layer", "tied"), [(0, True), (0, False), (2, True), (2, False)])
def test_loss_and_every_gradient_of_full_tuning_equal_transformers(
    tmp_path: Path, first_layer: int, tied: bool
) -> None:
    assert_same_full_gradients(tiny_base(tmp_path / "base", tied=tied), first_layer)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_tuning_of_every_family_equals_transformers(tmp_path: Path, family: str) -> None:
    assert_same_full_gradients(write_model(tmp_path / "base", COMPACT[family]), 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_tuned_model_of_every_family_is_read_by_transformers(tmp_path: Path, family: str, dtype: DtypeName) -> None:
    base_dir = write_model(tmp_path / "base", COMPACT[family])
    handle = load(base_dir, adapter=AdapterSpec(method="full"), dtype=dtype, threads=1)
    for _ in range(2):
        forward_backward(handle, make_batch(random_rows([40, 50])), Linear()).result()
        optim_step(handle, lr=3e-3).result()
    model_dir = export_model(handle, tmp_path / "model")
    assert load(model_dir, dtype=dtype, threads=1).fingerprint == handle.fingerprint
    stored = AutoModelForCausalLM.from_pretrained(model_dir).state_dict()
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=handle.dtype).state_dict()
    names = [name for name, _ in named_tensors(handle.weights)]
    assert sorted({*names, *(["lm_head.weight"] if handle.shape.tied_head else [])}) == sorted(stored)
    for name, tensor in named_tensors(handle.weights):
        assert torch.equal(stored[name], tensor), name
        assert not torch.equal(base[name], tensor) or name.endswith("k_proj.bias"), name
    close(handle)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("first_layer", "tied"), [(0, True), (0, False), (1, False)])
def test_a_tuned_model_is_read_by_transformers_and_by_load_as_the_model_that_was_measured(
    tmp_path: Path, dtype: str, first_layer: int, tied: bool
) -> None:
    base_dir = tiny_base(tmp_path / "base", tied=tied)
    (base_dir / "tokenizer.json").write_text("{}")
    (base_dir / "chat_template.jinja").write_text("x")
    spec = AdapterSpec(method="full", first_layer=first_layer)
    handle = load(base_dir, adapter=spec, dtype=dtype, threads=1)  # type: ignore[arg-type]  # from the parameters above
    before = {name: tensor.clone() for name, tensor in named_tensors(handle.weights)}
    rows = make_batch(random_rows([40, 50]))
    for _ in range(2):
        forward_backward(handle, rows, Linear()).result()
        optim_step(handle, lr=3e-3).result()
    model_dir = export_model(handle, tmp_path / "model")
    assert {path.name for path in model_dir.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja",
    }  # fmt: skip
    again = load(model_dir, dtype=dtype, threads=1)  # type: ignore[arg-type]  # as above
    assert again.fingerprint == handle.fingerprint
    assert torch.equal(logprobs(again, rows).result(), logprobs(handle, rows).result())
    peer = AutoModelForCausalLM.from_pretrained(model_dir)
    assert peer.dtype == handle.dtype
    stored = peer.state_dict()
    for name, tensor in named_tensors(handle.weights):
        assert torch.equal(stored[name], tensor), name
        trained = not (first_layer and ("embed_tokens" in name or "layers.0." in name))
        assert torch.equal(before[name], tensor) != trained, name
    if dtype == "fp32":
        assert_same_logprobs(handle, peer)
        assert_same_replies(handle, peer)
        assert_same_replies(again, peer)
    close(handle)


@pytest.mark.parametrize("form", [{"method": "dora"}, {"method": "rslora", "targets": ("v_proj",)}])
def test_bf16_products_follow_the_fp32_reference(tmp_path: Path, form: dict[str, Any]) -> None:  # Any: spec fields
    base_dir = tiny_base(tmp_path / "base")
    rows = make_batch(random_rows([60, 70, 80]))
    losses = []
    for dtype in ("fp32", "bf16"):
        spec = AdapterSpec(rank=4, alpha=6.0, **form)
        handle = drawn(load(base_dir, adapter=spec, dtype=dtype))  # type: ignore[arg-type]  # a name of the pair above
        losses.append(forward_backward(handle, rows, Linear()).result().loss_nats)
        optim_step(handle, lr=1e-3).result()
        close(handle)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[0] != losses[1]
