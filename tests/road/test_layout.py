"""The layout of a plan: its rehearsal measures both, later runs take the faster one, and a run that began keeps its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metier.engine.form import Choice
from tests.road.running import Ran, copy_of, metier

MEASURED = Choice(name="padded", reason="padded steps took 0.80 of the time of packed ones")


def layout_told(project: Path) -> dict[str, Any]:
    """What the one tuning run of a project computed its rows in."""
    (path,) = (project / ".metier/stages/tune").glob("*/facts.json")
    return json.loads(path.read_text(encoding="utf-8"))["execution"]["layout"]


def rehearsed(project: Path) -> Ran:
    ran = metier("plan", "-C", project, "--rehearse", "--json")
    assert ran.code == 0, ran.err
    return ran


def tuned(project: Path) -> dict[str, Any]:
    ran = metier("tune", "-C", project, "--json")
    assert ran.code == 0, ran.err
    return ran.json


def measure(monkeypatch: pytest.MonkeyPatch, choice: Choice | None) -> None:
    def found(*_: object) -> Choice:
        assert choice is not None, "nothing is to be measured"
        return choice

    monkeypatch.setattr("metier.tune.arrange.choose_layout", found)


def test_a_run_takes_what_the_rehearsal_of_its_plan_measured(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(monkeypatch, MEASURED)
    found = rehearsed(fresh).json["rehearsed"]
    assert found["layout"]["name"] == "padded"
    assert f"layout: padded ({MEASURED.reason})" in found["chosen"]
    measure(monkeypatch, None)
    tuned(copy_of(fresh, tmp_path / "p"))
    assert layout_told(tmp_path / "p") == {"name": "padded", "reason": MEASURED.reason, "seconds": {}}
    (fixed,) = fresh.glob(".metier/layout-*.json")
    fixed.unlink()
    tuned(fresh)
    assert layout_told(fresh)["name"] == "padded", "the stored rehearsal says so too"


def test_a_plan_that_ran_without_a_rehearsal_is_packed_and_stays_so(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(monkeypatch, None)
    first = tuned(fresh)
    assert layout_told(fresh) == {"name": "packed", "reason": "no rehearsal measured the layouts", "seconds": {}}
    chosen = rehearsed(fresh).json["rehearsed"]["chosen"]
    assert "layout: packed (no rehearsal measured the layouts)" in chosen
    assert tuned(fresh) == first


def test_a_layout_that_is_set_is_not_measured(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(monkeypatch, None)
    ran = metier("plan", "-C", fresh, "--rehearse", "--set", "tune.layout=padded", "--json")
    assert ran.code == 0, ran.err
    assert "layout: padded (tune.layout)" in ran.json["rehearsed"]["chosen"]
    assert not list(fresh.glob(".metier/layout-*.json"))
