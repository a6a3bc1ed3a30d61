"""Losses, rewards and adapter gradients beside TRL's own trainers, in fp32, on rows drawn anew at every run.

TRL computes its side: real `SFTTrainer` and `DPOTrainer` over a PEFT model, their collators and `compute_loss`. The
seed of the rows is drawn at test time and printed. Tolerance 1e-5 relative: both sides sum some hundred fp32 products
in another order.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from metier.core.tune_config import DpoConfig
from metier.engine import AdapterSpec, Handle, Linear, close, export_adapter, forward_backward, load, make_batch
from metier.engine.loop import trainer_of
from metier.engine.peft_files import tensor_name
from metier.engine.weights import LINEAR_NAMES
from metier.models.tiny import TINY_TEXTS, make_tiny_model
from metier.render import RenderedPair, RenderedRow
from metier.tune.dpo import Preference, reply_sums

# TRL and accelerate warn of their own futures; what is compared here is numbers.
pytestmark = pytest.mark.filterwarnings("ignore")

RANK, ALPHA, NUM_PAIRS = 4, 6.0, 5
TOLERANCE = 1e-5
Forms = dict[str, Any]


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model; both sides read its weights in fp32."""
    return make_tiny_model(tmp_path_factory.mktemp("base"), texts=TINY_TEXTS, num_layers=3)


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    os.environ.pop("ACCELERATE_USE_CPU", None)


def fresh_rng() -> np.random.Generator:
    """A generator whose seed is printed, so that a failure can be repeated."""
    seed = secrets.randbelow(2**31)
    print(f"rows of seed {seed}")
    return np.random.default_rng(seed)


def random_tokens(rng: np.random.Generator, low: int, high: int) -> list[int]:
    return rng.integers(3, 250, int(rng.integers(low, high))).tolist()


def reply_row(row_id: str, prompt: list[int], reply: list[int]) -> RenderedRow:
    return RenderedRow(row_id, prompt + reply, [0.0] * len(prompt) + [1.0] * len(reply))


def random_pairs(rng: np.random.Generator, num: int) -> list[RenderedPair]:
    """Prompts of 3 to 60 tokens, replies of 1 to 19: a sum of more log-probabilities is rounded by more than is compared."""
    pairs = []
    for i in range(num):
        prompt, *replies = (random_tokens(rng, 3, 60), random_tokens(rng, 1, 20), random_tokens(rng, 1, 20))
        chosen, rejected = (reply_row(f"p{i}", prompt, reply) for reply in replies)
        pairs.append(RenderedPair(f"p{i}", chosen, rejected))
    return pairs


def draw_adapter(handle: Handle, rng: np.random.Generator, adapter_dir: Path) -> Path:
    """Weights that change the model, in the handle and as PEFT files."""
    masters_P = handle.require_adapter("test").masters_P
    masters_P.copy_(torch.from_numpy(rng.normal(0, 0.06, len(masters_P)).astype(np.float32)))
    trainer_of(handle).publish()
    return export_adapter(handle, adapter_dir)


def peer_model(base_dir: Path, adapter_dir: Path | None) -> Any:  # Any: peft is not typed
    """The base in fp32 with the adapter of a folder, or with a new one."""
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    if adapter_dir is not None:
        return PeftModel.from_pretrained(base, str(adapter_dir), is_trainable=True)
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=list(LINEAR_NAMES), task_type="CAUSAL_LM", lora_dropout=0.0
    )
    return get_peft_model(base, config)


def put_weights(model: Any, adapter_dir: Path) -> None:  # Any: peft is not typed
    """The weights of a folder in the place of the trained adapter's."""
    tensors = load_file(str(adapter_dir / "adapter_model.safetensors"))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name.replace(".weight", ".default.weight")].copy_(tensor)


def assert_same_gradients(model: Any, handle: Handle) -> None:  # Any: peft is not typed
    """Every adapter matrix; the peer trains nothing else."""
    grad_by_name = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    adapter = handle.require_adapter("test")
    for offset in range(len(adapter.layers)):
        for name in adapter.layers[0]:
            for side, index in (("A", 0), ("B", 1)):
                peer_name = tensor_name(adapter.first_layer + offset, name, side).replace(".weight", ".default.weight")
                mine = sum(grads.views[offset][name][index] for grads in trainer_of(handle).grads)
                error = (grad_by_name.pop(peer_name) - mine).norm() / mine.norm()
                assert error < TOLERANCE, (peer_name, float(error))
    assert not grad_by_name, "the peer trains something this engine does not"


def trainer_options(out_dir: Path, **options: Any) -> Forms:
    """What every trainer is told: no files, no devices, fp32, nothing dropped out."""
    return {
        "output_dir": str(out_dir), "report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "per_device_train_batch_size": 8, "max_length": None, "save_strategy": "no", **options,
    }  # fmt: skip


def test_sft_loss_and_adapter_gradients_equal_those_of_trl(base_dir: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rng = fresh_rng()
    handle = load(base_dir, adapter=AdapterSpec(rank=RANK, alpha=ALPHA), dtype="fp32", threads=2)
    adapter_dir = draw_adapter(handle, rng, tmp_path / "adapter")
    rows = [reply_row(f"r{i}", random_tokens(rng, 3, 200), random_tokens(rng, 1, 80)) for i in range(7)]
    examples = [{"input_ids": row.tokens, "completion_mask": [int(value) for value in row.weight]} for row in rows]
    trainer = SFTTrainer(
        model=peer_model(base_dir, adapter_dir),
        args=SFTConfig(**trainer_options(tmp_path / "trl", completion_only_loss=True)),
        train_dataset=Dataset.from_list(examples),
        processing_class=AutoTokenizer.from_pretrained(base_dir),
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(trainer.model, inputs)
    expected.backward()

    stats = forward_backward(handle, make_batch(rows), Linear()).result()

    assert stats.loss_nats == pytest.approx(float(expected.detach()), rel=TOLERANCE)
    assert_same_gradients(trainer.model, handle)
    close(handle)


FORMS = {
    "sigmoid": (DpoConfig(beta=0.3), {"loss_type": ["sigmoid"]}),
    "ipo": (DpoConfig(loss="ipo", beta=0.2), {"loss_type": ["ipo"]}),
    "length-normalised": (DpoConfig(length_normalised=True, beta=0.5), {"loss_type": ["sigmoid_norm"]}),
    # TRL smooths the labels of `aot`, which of one pair alone is the smoothed sigmoid.
    "label smoothing": (DpoConfig(label_smoothing=0.1, beta=0.3), {"loss_type": ["aot"], "label_smoothing": 0.1}),
}


@pytest.mark.parametrize("goes_on", [False, True], ids=["from the base", "from an adapter"])
@pytest.mark.parametrize("form", FORMS)
def test_dpo_loss_rewards_and_adapter_gradients_equal_those_of_trl(
    base_dir: Path, tmp_path: Path, form: str, goes_on: bool
) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rng, (settings, peer_settings) = fresh_rng(), FORMS[form]
    num_pairs = 1 if form == "label smoothing" else NUM_PAIRS
    pairs = random_pairs(rng, num_pairs)
    handle = load(base_dir, adapter=AdapterSpec(rank=RANK, alpha=ALPHA), dtype="fp32", threads=2)
    start_dir = draw_adapter(handle, rng, tmp_path / "start") if goes_on else None
    objective = Preference([pair.rows for pair in pairs], [pairs[0].rows], settings, method="lora")
    objective.prepare(handle, tmp_path, resumed=False)
    policy_dir = draw_adapter(handle, rng, tmp_path / "policy")

    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    trainer = DPOTrainer(
        model=peer_model(base_dir, start_dir),
        args=DPOConfig(**trainer_options(tmp_path / "trl", beta=settings.beta, **peer_settings)),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=tokenizer,
    )
    put_weights(trainer.model, policy_dir)
    inputs = trainer.data_collator(
        [
            {
                "prompt_ids": pair.chosen.tokens[: pair.chosen.weight.index(1.0)],
                "chosen_ids": pair.chosen.tokens[pair.chosen.weight.index(1.0) :],
                "rejected_ids": pair.rejected.tokens[pair.rejected.weight.index(1.0) :],
            }
            for pair in pairs
        ]
    )
    trainer.model.train()
    expected = trainer.compute_loss(trainer.model, inputs)
    expected.backward()
    said = {name: values[-1] for name, values in trainer._metrics["train"].items()}

    places = list(range(num_pairs))
    batch = make_batch([row for pair in pairs for row in pair.rows])
    stats = forward_backward(handle, batch, objective.loss(places)).result()
    assert stats.logp_T is not None
    rewards = objective.rewards(reply_sums(batch, stats.logp_T), objective.reference_R["train"])

    assert stats.loss_nats == pytest.approx(float(expected.detach()), rel=TOLERANCE)
    # Absolute as well: a reward is the small difference of two sums of some hundred nats.
    assert float(rewards.chosen_G.mean()) == pytest.approx(said["rewards/chosen"], rel=TOLERANCE, abs=1e-5)
    assert float(rewards.rejected_G.mean()) == pytest.approx(said["rewards/rejected"], rel=TOLERANCE, abs=1e-5)
    assert rewards.margin == pytest.approx(said["rewards/margins"], rel=TOLERANCE, abs=1e-5)
    assert float(rewards.chosen_G.abs().max()) > 1e-3, "the policy has left the reference"
    assert rewards.accuracy == pytest.approx(said["rewards/accuracies"], abs=1e-6)
    assert_same_gradients(trainer.model, handle)
    close(handle)
