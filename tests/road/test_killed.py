"""SIGKILL anywhere: the same command finishes the run, and its report is that of a run nobody touched."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from metier.core.folders import read_json
from tests.road.comparing import comparable, scores
from tests.road.killing import killed, run_for, run_until
from tests.road.running import copy_of, events_of, metier


def tuning_s(project: Path, name: str) -> float:
    """Seconds of the tuning stage, by one of its files."""
    (path,) = (project / ".metier/stages/tune").glob(f"*/{name}")
    return float(read_json(path)["seconds"])


def assert_same_end(project: Path, untouched: Path) -> None:
    """The rerun finishes, and everything but times is equal."""
    again = metier("run", "-C", project, "--json")
    assert again.code == 0, again.err
    assert tuning_s(project, "done.json") >= tuning_s(project, "facts.json"), "both over all attempts"
    assert again.json["costs"]["run_minutes"] >= again.json["costs"]["tune_minutes"]
    assert comparable(again.json) == comparable(metier("report", "-C", untouched, "--json").json)
    assert scores(project) == scores(untouched)
    found = metier("verify", "-C", project, "--json")
    assert found.json["problems"] == []
    events = events_of(project)
    assert events.count("look_finished") == events.count("question_frozen") == events.count("holdout_sealed") == 1


@pytest.mark.parametrize(
    ("module", "name", "call", "within"),
    [
        ("metier.engine.decode", "Decoder.step", 60, False),
        ("metier.road.look", "score_arm", 2, False),
        ("metier.tune.running", "save_state", 2, True),
        ("metier.tune.running", "export_adapter", 2, True),
        ("metier.road.tuning", "write_json", 1, False),
        ("metier.ledger.seal", "ObjectStore.put_encrypted", 1, True),
        ("metier.ledger.looks", "finish_look", 1, False),
        ("metier.road.run", "build_report", 1, False),
    ],
    ids=["decode", "hold-out", "checkpoint", "adapter", "tuned", "seal", "look", "report"],
)
def test_a_run_killed_at_a_weak_place_ends_as_if_it_were_not(
    fresh: Path, lean_project: Path, cache_dir: Path, module: str, name: str, call: int, within: bool
) -> None:
    assert killed(run_until, fresh, cache_dir, module, name, call, within=within)
    assert not (fresh / ".metier/report").exists()
    assert_same_end(fresh, lean_project)


@pytest.fixture(scope="module")
def whole_run_s(
    keyed_project: Path, lean_project: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> float:
    """Seconds of a run in such a process that nobody kills."""
    del lean_project  # its run has filled the model cache
    project = copy_of(keyed_project, tmp_path_factory.mktemp("timed") / "project")
    started = time.monotonic()
    assert not killed(run_for, project, cache_dir, 600.0)
    return time.monotonic() - started


@pytest.mark.parametrize("moment", np.sort(np.random.default_rng(20).uniform(0.02, 0.98, 10)).round(3))
def test_a_run_killed_at_a_random_moment_ends_as_if_it_were_not(
    fresh: Path, lean_project: Path, cache_dir: Path, whole_run_s: float, moment: float
) -> None:
    killed(run_for, fresh, cache_dir, moment * whole_run_s)  # a faster machine may finish first: that is well too
    assert_same_end(fresh, lean_project)
