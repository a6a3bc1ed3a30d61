"""What moves the masters, and that a checkpoint brings back its state whatever the names and kinds of its parts are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metier.core.errors import MissingExtra, ModelError
from metier.engine import (
    AdapterSpec,
    Handle,
    Linear,
    close,
    forward_backward,
    load,
    load_state,
    loop,
    make_batch,
    optim_step,
    save_state,
)
from metier.engine.optimizer import Moments, give_back, make_optimizer, moments_of
from tests.engine.builders import random_rows, tiny_base

BATCH = make_batch(random_rows([20, 30, 8]))
OTHERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "rmsprop": lambda masters: torch.optim.RMSprop(masters, lr=1.0, momentum=0.9, centered=True),
    "adagrad": lambda masters: torch.optim.Adagrad(masters, lr=1.0),
    "sgd": lambda masters: torch.optim.SGD(masters, lr=1.0, momentum=0.9),
    "bytes": lambda masters: SignBytes(masters, {"lr": 1.0}),
}
"""Optimizers with other states: tensors of other names, of bytes, and plain numbers."""


class SignBytes(torch.optim.Optimizer):
    """Moves by a running vote of gradient signs held in bytes, and counts its steps in a plain number."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        (masters_P,) = self.param_groups[0]["params"]
        state, lr = self.state[masters_P], self.param_groups[0]["lr"]
        if not state:
            state["count"], state["vote"] = 0, torch.full_like(masters_P, 128, dtype=torch.uint8)
        state["count"] += 1
        vote = (state["vote"].float() + 3 * masters_P.grad.sign()).clamp(0, 255)
        state["vote"] = vote.to(torch.uint8)
        masters_P.sub_((vote - 128) * lr / state["count"])


def loaded(base_dir: Path, *, seed: int = 0) -> Handle:
    return load(base_dir, adapter=AdapterSpec(rank=4, alpha=8.0), dtype="fp32", threads=1, seed=seed)


def steps(handle: Handle, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(forward_backward(handle, BATCH, Linear()).result().loss_nats)
        optim_step(handle, lr=1e-3).result()
    return found


@pytest.mark.parametrize("kind", ["adamw", *OTHERS])
@pytest.mark.parametrize("before", [0, 3])
def test_a_run_goes_on_to_the_same_bits_whatever_its_optimizer_remembers(
    kind: str, before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind != "adamw":
        monkeypatch.setattr(loop, "make_optimizer", lambda _, masters_P: OTHERS[kind]([masters_P]))
    base_dir = tiny_base(tmp_path / "base")
    first, again = loaded(base_dir), loaded(base_dir, seed=1)
    steps(first, before)
    save_state(first, tmp_path / "state")
    load_state(again, tmp_path / "state")
    assert steps(again, 3) == steps(first, 3)
    assert again.fingerprint == first.fingerprint
    for handle in (first, again):
        close(handle)


def test_every_part_of_a_state_comes_back_in_its_own_precision() -> None:
    masters_P = torch.ones(6)
    optimizer = SignBytes([masters_P], {"lr": 1.0})
    assert moments_of(optimizer) == Moments({}, {})
    masters_P.grad = torch.arange(6.0) - 2
    optimizer.step()
    found = moments_of(optimizer)
    assert (found.numbers, found.tensors["vote"].tolist()) == ({"count": 1}, [125, 125, 128, 131, 131, 131])
    other = SignBytes([torch.ones(6)], {"lr": 1.0})
    give_back(other, found)
    assert moments_of(other).tensors["vote"].dtype == torch.uint8
    optimizer.state[masters_P]["history"] = []
    with pytest.raises(TypeError, match="SignBytes: history is list; expected tensor or number"):
        moments_of(optimizer)


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path / "base")
    first, again = loaded(base_dir), loaded(base_dir)
    steps(first, 1)
    save_state(first, tmp_path / "state")
    again.optimizer = "adamw8bit"
    with pytest.raises(ModelError, match=r"made with optimizer = 'adamw', this run has 'adamw8bit'"):
        load_state(again, tmp_path / "state")
    for handle in (first, again):
        close(handle)


def test_moments_in_8_bits_are_refused_on_a_cpu_and_name_their_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"optimizer is 'adamw8bit' on cpu: moments in 8 bits need CUDA; load with"):
        load(tiny_base(tmp_path), optimizer="adamw8bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match=r"moments in 8 bits needs 'bitsandbytes': pip install 'metier\[cuda\]'"):
        make_optimizer("adamw8bit", torch.zeros(4))
