"""Every method in every form of a step: shared prefix, padded layout and checkpointing change no gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metier.engine import AdapterSpec, Handle, load
from metier.engine.form import Form
from metier.engine.loop import Trainer
from tests.engine.builders import tiny_base
from tests.engine.family_builders import COMPACT, write_model
from tests.equivalence.test_forms import LONG, SHORT, after_prefix, assert_same, step

METHODS = [
    AdapterSpec(rank=4, alpha=8.0, targets=("q_proj", "down_proj")),
    AdapterSpec(rank=4, alpha=8.0, method="rslora", targets=("gate_proj",)),
    AdapterSpec(rank=4, alpha=8.0, method="dora"),
    AdapterSpec(rank=4, alpha=8.0, method="dora", targets=("v_proj", "o_proj")),
    AdapterSpec(method="full"),
]


def loaded(base_dir: Path, spec: AdapterSpec, form: Form) -> Handle:
    handle = load(base_dir, adapter=spec, seed=3, dtype="fp32", threads=2)
    trained = handle.require_trained("test")
    if spec.method != "full":
        trained.masters_P[: trained.num_decayed].normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    handle.trainer = Trainer(handle, micro_tokens=600)
    handle.trainer.take_form(form)
    return handle


@pytest.mark.parametrize("first_layer", [0, 2, 3])
@pytest.mark.parametrize("spec", METHODS, ids=lambda spec: "+".join((spec.method, *spec.targets)))
def test_a_step_of_any_method_is_the_same_in_every_form(tmp_path: Path, spec: AdapterSpec, first_layer: int) -> None:
    base_dir = tiny_base(tmp_path / "base", num_layers=4)
    spec = replace(spec, first_layer=first_layer)
    rows = after_prefix(45, [*SHORT, *LONG])
    prefix = tuple(rows[0].tokens[:45])
    expected = step(loaded(base_dir, spec, Form()), [rows])
    for form in (Form(prefix=prefix), Form(layout="padded"), Form(prefix=prefix, layout="padded", checkpointing=True)):
        assert_same(step(loaded(base_dir, spec, form), [rows]), expected)
    again = step(loaded(base_dir, spec, Form(checkpointing=True)), [rows])
    assert again[0] == expected[0] and torch.equal(again[1], expected[1]), "checkpointing changes no bit"


@pytest.mark.parametrize("spec", METHODS[2:], ids=lambda spec: "+".join((spec.method, *spec.targets)))
def test_biases_and_norms_of_heads_are_trained_in_every_form(tmp_path: Path, spec: AdapterSpec) -> None:
    base_dir = write_model(tmp_path / "base", COMPACT["qwen3 untied with biases"])
    rows = after_prefix(45, SHORT)
    expected = step(loaded(base_dir, spec, Form()), [rows])
    form = Form(prefix=tuple(rows[0].tokens[:45]), checkpointing=True)
    assert_same(step(loaded(base_dir, spec, form), [rows]), expected)
