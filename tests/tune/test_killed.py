"""SIGKILL at random points of a run, pass boundaries and the insides of saves, exports and dev scores among them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metier.tune.schedule import run_steps
from tests.engine.builders import tiny_base
from tests.tune.killing import (
    CONFIG,
    STARTED,
    TRAIN,
    killed_at_call,
    killed_when,
    num_steps_taken,
    outcome,
    run_to_its_end,
)

RUNNING, STATE = "metier.tune.running", "metier.engine.state"


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def untouched(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """The run nobody kills, and the seconds it takes in a process that starts warm."""
    folder = tmp_path_factory.mktemp("whole")
    run_to_its_end(base_dir, folder / "first")
    seconds = run_to_its_end(base_dir, folder / "tune")
    assert outcome(folder / "tune") == outcome(folder / "first")
    return outcome(folder / "tune"), seconds


def after(seconds: float, out_dir: Path) -> Callable[[], bool]:
    """True so many seconds after the run's own code began."""
    started = out_dir.parent / f"{out_dir.name}{STARTED}"
    began: list[float] = []

    def moment() -> bool:
        if not began and started.exists():
            began.append(time.monotonic())
        return bool(began) and time.monotonic() - began[0] >= seconds

    return moment


def steps(num_steps: int, out_dir: Path) -> Callable[[], bool]:
    """True once so many steps stand in metrics.jsonl."""
    return lambda: num_steps_taken(out_dir) >= num_steps


def while_writing(name: str, out_dir: Path, *, not_before: int) -> Callable[[], bool]:
    """True while a file or folder of this name pattern exists, once so many steps were taken."""
    return lambda: num_steps_taken(out_dir) >= not_before and any(out_dir.glob(name))


def test_twenty_kills_anywhere_end_as_the_run_nobody_killed(
    base_dir: Path, untouched: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    expected, seconds = untouched
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed of the moments: {seed}")
    rng = random.Random(seed)
    num_steps = expected["done"]["result"]["num_steps"]
    one_pass = len(run_steps([len(row.tokens) for row in TRAIN], passes=1, step_tokens=CONFIG.step_tokens, seed=0))
    assert num_steps == 3 * one_pass

    def watched(place: int) -> Callable[[Path], Callable[[], bool]]:
        drawn = rng.random()
        if place < 10:  # anywhere
            return lambda out_dir: after(drawn * seconds, out_dir)
        if place < 12:  # between two passes
            return lambda out_dir: steps((place - 9) * one_pass, out_dir)
        name = ".state.part" if place < 14 else "adapter/.adapter*.part"
        return lambda out_dir: while_writing(name, out_dir, not_before=int(drawn * num_steps * 0.7))

    num_evals = CONFIG.evals
    inside = [  # (module, name, call, after it): places that a watcher may be too slow for
        ("metier.tune.sft", "logprobs", rng.randint(2, num_evals), False),  # in a dev score
        (RUNNING, "export_adapter", rng.randint(1, 2), True),  # exported, and no checkpoint of it yet
        (STATE, "_flush", 4 * rng.randint(0, num_evals - 1) + rng.randint(1, 3), True),  # in a save, before its rename
        (RUNNING, "drop_state", 1, False),  # all steps taken
        (RUNNING, "finish", 1, False),
    ]
    killed = 0
    for place in range(20):
        out_dir = tmp_path / f"run{place}"
        where = f"seed {seed}, kill {place}"
        if place < 15:
            killed += killed_when(base_dir, out_dir, watched(place)(out_dir))
        else:
            killed_at_call(base_dir, out_dir, inside[place - 15])
            killed += 1
        run_to_its_end(base_dir, out_dir)
        assert outcome(out_dir) == expected, where
    assert killed >= 17, f"seed {seed}: {killed} of 20 runs were killed before they ended"


def test_a_run_killed_again_and_again_gets_to_the_same_end(
    base_dir: Path, untouched: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    expected, _ = untouched
    out_dir = tmp_path / "tune"
    num_steps = expected["done"]["result"]["num_steps"]
    for at in range(2, num_steps, 2):
        assert killed_when(base_dir, out_dir, steps(at, out_dir))
    run_to_its_end(base_dir, out_dir)
    assert outcome(out_dir) == expected


@pytest.mark.parametrize("name", ["finish", "drop_state"])
@pytest.mark.parametrize("is_after", [False, True])
def test_a_kill_after_the_last_step_costs_no_step(
    base_dir: Path, untouched: tuple[dict[str, Any], float], tmp_path: Path, name: str, is_after: bool
) -> None:
    out_dir = tmp_path / "tune"
    killed_at_call(base_dir, out_dir, (RUNNING, name, 1, is_after))
    before = (out_dir / "metrics.jsonl").read_text()  # with the times of every step: one taken again would show
    run_to_its_end(base_dir, out_dir)
    assert outcome(out_dir) == untouched[0]
    assert (out_dir / "metrics.jsonl").read_text() == before
