"""Settings whose effect shows only in a run, where no other test asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.road.running import metier


def test_an_arm_tries_the_numbers_of_examples_it_was_given(finished_project: Path) -> None:
    by_name = {arm["name"]: arm for arm in metier("report", "-C", finished_project, "--json").json["arms"]}
    for name in ("few_shot", "retrieval"):
        tried = [choice["name"].split(", ")[-1] for choice in by_name[name]["chosen_from"]]
        assert set(tried) == {"k=1"}, "the project file says k = [1]; the default is 1, 3 and 5"


def test_the_report_carries_the_name_of_the_project(finished_project: Path) -> None:
    said = metier("report", "-C", finished_project, "--json").json["project"]
    assert said == "small", "the project file says name = 'small'"


def test_more_adapted_layers_than_the_base_has_are_refused(fresh: Path) -> None:
    refused = metier("plan", "-C", fresh, "--set", "tune.depth=99")
    assert refused.code == 2
    assert "tune.depth is 99; " in refused.err and " layers. Set it to at most that, or to 0" in refused.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: tests/gpu")
def test_a_device_that_is_not_there_is_refused_by_the_plan(fresh: Path) -> None:
    refused = metier("plan", "-C", fresh, "--set", "tune.device=cuda", "--set", "tune.base_bits=4")
    assert refused.code == 1
    assert "device is 'cuda', but torch" in refused.err and "finds no CUDA GPU here. Use device='cpu'" in refused.err
    unmet = metier("plan", "-C", fresh, "--set", "tune.optimizer=adamw8bit")
    assert unmet.code == 2
    assert "optimizer is 'adamw8bit', but device = 'cpu' does not compute it; set device = 'cuda'" in unmet.err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.gpu
def test_the_device_is_where_a_plan_measures_and_its_memory_is_what_is_predicted(fresh: Path) -> None:
    planned = metier("plan", "-C", fresh, "--set", "tune.device=cuda", "--json")
    assert planned.code == 0, planned.err
    assert torch.cuda.max_memory_reserved() > 0


def test_a_run_that_needs_more_memory_than_its_budget_is_refused(fresh: Path) -> None:
    refused = metier("plan", "-C", fresh, "--set", "budget.memory_gib=0.01")
    assert refused.code == 3
    assert "[budget] memory_gib is 0.01." in refused.err
    assert metier("plan", "-C", fresh, "--set", "budget.memory_gib=100").code == 0
