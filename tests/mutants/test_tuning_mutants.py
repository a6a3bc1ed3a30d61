"""Silent failures put into the tuning loop, one at a time; each must be caught by its own error or by the named test."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metier.core.errors import ModelError
from metier.engine import batch, close, load, loop, ranks, state
from metier.render import Renderer, check_invariants
from metier.tune import Options, running, tune
from tests.engine import test_loop, test_trunk
from tests.engine.builders import pattern_rows, random_rows, tiny_base
from tests.equivalence import test_training_equivalence as equivalence
from tests.render.builders import row
from tests.render.families import family_dir
from tests.tune import test_recipe, test_settings

PatchIt = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@contextmanager
def caught_by(test: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """The named test passes before the change made inside, and fails by its own assertion after."""
    test(*arguments)
    yield
    with pytest.raises(AssertionError):
        test(*arguments)


# 1, 2: rendering and mask


def test_replies_that_are_trained_where_they_are_never_prompted(tmp_path: Path, monkeypatch: PatchIt) -> None:
    renderer = Renderer(family_dir("qwen3", tmp_path / "model"))
    example = row(("user", "q"), ("assistant", "one"), ("user", "r"), ("assistant", "two"))
    assert check_invariants(renderer, [example]) == 1
    real = Renderer.train_rows

    def last_rendering_only(self: Renderer, given: Any, instruction: str | None = None) -> Any:
        return real(self, given, instruction)[-1:]

    monkeypatch.setattr(Renderer, "train_rows", last_rendering_only)
    with pytest.raises(ModelError, match=f"row {example.row_id}: its tokens are not the template's own"):
        check_invariants(renderer, [example])


def test_a_thought_that_is_trained_though_prompts_hold_it(tmp_path: Path, monkeypatch: PatchIt) -> None:
    renderer = Renderer(family_dir("qwen3", tmp_path / "model"))
    example = row(("user", "q"), ("assistant", "one"))
    real = Renderer.train_rows

    def with_the_prompt(self: Renderer, given: Any, instruction: str | None = None) -> Any:
        (rendered,) = real(self, given, instruction)
        first = rendered.weight.index(1.0)
        return [replace(rendered, weight=[0.0] * (first - 4) + [1.0] * 4 + rendered.weight[first:])]

    monkeypatch.setattr(Renderer, "train_rows", with_the_prompt)
    with pytest.raises(ModelError, match="its mask does not cover exactly the trained replies"):
        check_invariants(renderer, [example])


# 3: loss arithmetic


def test_a_window_that_is_divided_by_its_own_weight(base_dir: Path, monkeypatch: PatchIt) -> None:
    with caught_by(equivalence.test_one_batch_of_eight_equals_eight_of_one_with_weights_that_differ, base_dir):
        monkeypatch.setattr(loop, "divisor", lambda _loss, whole: whole.total_weight)


def test_a_short_last_window_that_counts_as_a_whole_one(base_dir: Path, monkeypatch: PatchIt) -> None:
    with caught_by(equivalence.test_a_short_last_window_counts_by_its_tokens_not_as_a_whole_window, base_dir):
        monkeypatch.setattr(loop, "divisor", lambda _loss, whole: 2 * whole.total_weight)


def test_packed_rows_that_see_each_other(base_dir: Path, monkeypatch: PatchIt) -> None:
    def as_one(lengths: Any, device: Any, padded: bool, **_: Any) -> Any:
        return (batch._group(0, [sum(lengths)], device, padded),)

    with caught_by(equivalence.test_packed_and_padded_rows_equal_rows_alone, base_dir):
        monkeypatch.setattr(batch, "_groups", as_one)


def test_stored_states_that_see_the_rows_that_share_their_product(
    base_dir: Path, tmp_path: Path, monkeypatch: PatchIt
) -> None:
    def as_one(lengths: Any, device: Any, padded: bool, **_: Any) -> Any:
        return (batch._group(0, [sum(lengths)], device, padded),)

    def states_hang_on_tokens_alone() -> None:
        work_dir = tmp_path / str(len(list(tmp_path.iterdir())))
        work_dir.mkdir()
        test_trunk.test_a_rows_states_depend_on_its_tokens_alone_not_on_neighbours_place_or_threads(
            "narrow", "bf16", base_dir, work_dir
        )

    with caught_by(states_hang_on_tokens_alone):
        monkeypatch.setattr(batch, "_groups", as_one)


def test_workers_whose_gradient_is_left_out(base_dir: Path, monkeypatch: PatchIt) -> None:
    def loss_after_a_step() -> None:
        """One worker and two must go the same way."""
        results = []
        for threads in (1, 2):
            handle = equivalence.loaded(base_dir, threads=threads)
            whole = batch.make_batch(random_rows([200, 190, 180, 170]))
            loop.forward_backward(handle, whole, equivalence.Linear()).result()
            results.append(loop.optim_step(handle, lr=1e-2).result().grad_norm)
        assert results[1] == pytest.approx(results[0], rel=1e-4)

    real = loop._optim_step

    def first_worker_only(trainer: Any, **named: Any) -> Any:
        for grads in trainer.grads[1:]:
            grads.flat_P.zero_()
        return real(trainer, **named)

    with caught_by(loss_after_a_step):
        monkeypatch.setattr(loop, "_optim_step", first_worker_only)


def _one_rank(rank: int, base: Path, out_dir: Path, said: Any, is_mutant: bool) -> None:
    """Tune as one of two ranks; as a mutant every rank keeps its own gradient."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    torch.distributed.init_process_group("gloo", init_method=f"file://{out_dir}.rendezvous", rank=rank, world_size=2)
    if is_mutant:
        ranks.Ranks.sum_in_order = lambda _self, _sum_P: None  # type: ignore[method-assign]  # this process is the mutant
    config = replace(test_recipe.CONFIG, step_tokens=700, passes=1.0, processes=2)
    rows = random_rows([150, 90, 200, 160, 170, 110], seed=1)
    try:
        tune(rows, pattern_rows(4), config, base=base, out_dir=out_dir, seed=0, options=Options(threads=1))
        said.put("done")
    except ModelError as err:
        said.put(str(err))
    finally:
        ranks.close_ranks()


@pytest.mark.parametrize("is_mutant", [False, True])
def test_processes_that_keep_their_own_gradients(base_dir: Path, tmp_path: Path, is_mutant: bool) -> None:
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    arguments = [(rank, base_dir, tmp_path / "tune", said, is_mutant) for rank in (0, 1)]
    processes = [context.Process(target=_one_rank, args=each) for each in arguments]
    for process in processes:
        process.start()
    heard = [said.get(timeout=200) for _ in processes]
    for process in processes:
        process.join(60)
    if is_mutant:
        assert all("what was tuned differs between the 2 processes of this run" in each for each in heard), heard
        assert not (tmp_path / "tune" / "adapter").exists()
    else:
        assert heard == ["done", "done"]


# 4: resume


def test_a_resume_that_forgets_the_moments(base_dir: Path, tmp_path: Path, monkeypatch: PatchIt) -> None:
    real = state._load

    def forgetful(trainer: Any, state_dir: Path) -> Any:
        facts = real(trainer, state_dir)
        for moments in trainer.optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                if name in moments:
                    moments[name].zero_()
        return facts

    test = equivalence.test_a_saved_and_loaded_run_goes_on_with_the_same_bits
    test(base_dir, tmp_path / "honest", equivalence.FORMS[0], "fp32")
    monkeypatch.setattr(state, "_load", forgetful)
    with pytest.raises(AssertionError):
        test(base_dir, tmp_path / "mutant", equivalence.FORMS[0], "fp32")


def test_a_resume_that_skips_a_step(base_dir: Path, tmp_path: Path) -> None:
    real, test = running.load_state, test_recipe.test_a_run_stopped_anywhere_ends_as_an_uninterrupted_one

    def one_further(handle: Any, state_dir: Path) -> Any:
        facts = real(handle, state_dir)
        return {**facts, "step": facts["step"] + 1}

    for name, change in (("honest", real), ("mutant", one_further)):
        folder = tmp_path / name
        folder.mkdir()
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(running, "load_state", change)
            if change is real:
                test(base_dir, folder, inner, 4, "lora")
                continue
            with pytest.raises(AssertionError):
                test(base_dir, folder, inner, 4, "lora")


# 5: settings


@pytest.mark.parametrize("name", ["weight_decay", "max_grad_norm", "warmup_ratio"])
def test_a_setting_that_nobody_reads(base_dir: Path, tmp_path: Path, monkeypatch: PatchIt, name: str) -> None:
    place = "lr_at" if name == "warmup_ratio" else "optim_step"
    real, default = getattr(running, place), getattr(test_settings.CONFIG, name)
    monkeypatch.setattr(running, place, lambda *given, **named: real(*given, **{**named, name: default}))
    first = test_settings.run(base_dir, tmp_path / "whole", test_settings.CONFIG)
    (case,) = [case for case in test_settings.WALK if case[1] == name]
    with pytest.raises(AssertionError):
        test_settings.test_another_value_is_another_run(*case, base_dir, first, tmp_path)


# 7: the tuned arm is the tuned model (tests/mutants/test_mutants.py has those of the road)


def test_an_adapter_that_never_moves(base_dir: Path, tmp_path: Path, monkeypatch: PatchIt) -> None:
    monkeypatch.setattr(loop.Trainer, "publish", lambda _self: None)
    monkeypatch.setattr(running, "lr_at", lambda *_, **__: 0.0)
    with pytest.raises(ModelError, match="the adapter changes nothing, all of its B are zero"):
        test_recipe.run(base_dir, tmp_path / "tune")


def assert_exported_is_scored(base_dir: Path, out_dir: Path) -> None:
    """The folder holds the weights whose fingerprint the result carries."""
    result = test_recipe.run(base_dir, out_dir)
    handle = load(base_dir, adapter=result.adapter_dir, dtype="fp32", threads=2)
    close(handle)
    assert handle.fingerprint == result.fingerprint


def test_an_adapter_that_is_exported_as_another(base_dir: Path, tmp_path: Path, monkeypatch: PatchIt) -> None:
    assert_exported_is_scored(base_dir, tmp_path / "honest")
    real = running.export_adapter

    def stale(handle: Any, adapter_dir: Path) -> Path:
        masters_P = handle.adapter.masters_P
        kept = masters_P.clone()
        masters_P.mul_(0.5)
        real(handle, adapter_dir)
        masters_P.copy_(kept)
        return adapter_dir

    monkeypatch.setattr(running, "export_adapter", stale)
    with pytest.raises(AssertionError):
        assert_exported_is_scored(base_dir, tmp_path / "mutant")


# 10: non-finite


def test_a_loss_that_is_not_finite_and_is_not_looked_at(base_dir: Path, monkeypatch: PatchIt) -> None:
    test = test_loop.test_a_loss_that_is_not_finite_stops_before_the_step_and_names_step_and_row
    test(base_dir)
    monkeypatch.setattr(loop, "_refuse_non_finite", lambda *_: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test(base_dir)
