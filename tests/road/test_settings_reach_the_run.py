"""Settings whose effect shows only in a run, where no other test asks for it."""

from __future__ import annotations

from pathlib import Path

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


def test_a_run_that_needs_more_memory_than_its_budget_is_refused(fresh: Path) -> None:
    refused = metier("plan", "-C", fresh, "--set", "budget.memory_gib=0.01")
    assert refused.code == 3
    assert "[budget] memory_gib is 0.01." in refused.err
    assert metier("plan", "-C", fresh, "--set", "budget.memory_gib=100").code == 0
