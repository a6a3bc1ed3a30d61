"""The tuned model shown examples: scored in the same look, no comparator, and the verdict does not move."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metier.core.arm_config import ArmConfig
from metier.core.errors import ConfigError, DataError
from metier.core.project_file import ProjectConfig
from metier.road.look import frozen_comparators, scored_beside
from metier.road.verdict import paired_table
from tests.road.running import change, events_of, metier

BESIDE = '[[arm]]\nkind = "tuned"\n\n[[arm]]\nkind = "tuned_retrieval"\nk = [1, 2]\n'


def test_it_is_scored_beside_the_verdict_and_found_again(fresh: Path, lean_project: Path) -> None:
    change(fresh, '[[arm]]\nkind = "tuned"\n', BESIDE)
    first = metier("run", "-C", fresh, "--json")
    assert first.code == 0, first.err
    report, without = first.json, metier("report", "-C", lean_project, "--json").json
    assert [arm["name"] for arm in report["arms"]] == ["prompt", "small", "tuned", "tuned_retrieval"]
    arm, tuned = report["arms"][3], report["arms"][2]
    assert (arm["status"], arm["num_rows"], arm["carries_instruction"]) == ("ran", 24, "none")
    assert {choice["name"] for choice in arm["chosen_from"]} == {"k=1", "k=2"}
    assert arm["tokens_in"] > tuned["tokens_in"], "it pays for the examples"
    assert report["question"]["comparators"] == ["prompt", "small"]
    assert report["provenance"]["before_look"]["beside"] == ["tuned_retrieval"]
    assert (report["gain"], report["verdict"]) == (without["gain"], without["verdict"])
    assert [line["versus"] for line in report["comparisons"]] == ["prompt", "small"]
    assert "not part of the verdict" in (fresh / ".metier/report/index.html").read_text(encoding="utf-8")
    assert metier("verify", "-C", fresh).code == 0
    change(fresh, 'name = "small"', 'name = "renamed"')
    again = metier("run", "-C", fresh, "--json")
    assert again.code == 0, again.err
    assert again.json["arms"] == report["arms"]
    assert events_of(fresh).count("look_opened") == 1
    assessed = metier("assess", "-C", fresh, "--json")
    assert set(assessed.json["dev_scores"]) == {"prompt", "small"}, "before the tuning there is nothing to ask"


def trial(kind: str, *, ran: bool = True) -> Any:
    return SimpleNamespace(name=kind, kind=kind, arm=object() if ran else None)


def test_comparators_need_no_tuning_of_ours_and_what_was_skipped_is_scored_nowhere() -> None:
    kinds = ("prompt", "encoder", "tuned", "tuned_retrieval")
    trials = [*(trial(kind) for kind in kinds), trial("retrieval", ran=False)]
    assert (frozen_comparators(trials), scored_beside(trials)) == (("prompt", "encoder"), ("tuned_retrieval",))
    assert scored_beside([trial("tuned"), trial("tuned_retrieval", ran=False)]) == ()


def test_an_arm_in_the_scores_that_was_not_frozen_is_still_refused() -> None:
    table: Any = SimpleNamespace(arms=("small", "tuned", "tuned_retrieval"))
    facts = {"tuned": "tuned", "comparators": ["small"], "binary": True}
    with pytest.raises(DataError, match=r"\(tuned_retrieval differs\)"):
        paired_table(table, facts)


def test_it_alone_is_nothing_to_compare_with_and_carries_what_the_tuned_arm_does() -> None:
    arms = [{"kind": "tuned"}, {"kind": "tuned_retrieval"}]
    values = {"project": {"name": "p"}, "data": {"files": ["a"]}, "decision": {"margin": 0.1}, "arm": arms}
    with pytest.raises(ConfigError, match=r"names only arms that need the tuning; add one to compare with"):
        ProjectConfig.from_mapping(values, where="metier.toml")
    with pytest.raises(ConfigError, match="'tuned_retrieval' carries what the arm of kind 'tuned' carries; drop"):
        ArmConfig(kind="tuned_retrieval", instruction="full")
    assert ArmConfig(kind="tuned_retrieval", k=(2,), near=("meaning",)).k == (2,)
