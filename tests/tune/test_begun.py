"""A run goes on as it began where only the machine decides otherwise; what is deleted is told before."""

from __future__ import annotations

import importlib
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metier.tune import Options, Progress, TuneResult, tune
from tests.engine.builders import tiny_base
from tests.tune.test_recipe import CONFIG, DEV, TRAIN, files_of

AUTO = replace(CONFIG, product_dtype="auto")
loading = importlib.import_module("metier.engine.load")  # `metier.engine.load` is the verb


class Machine:
    """A machine whose cores and faster precision a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, base_dir: Path, out_dir: Path) -> None:
        self.monkeypatch, self.base_dir, self.out_dir = monkeypatch, base_dir, out_dir
        self.told: list[str] = []

    def becomes(self, *, dtype: torch.dtype = torch.float32, cores: int = 2) -> None:
        self.monkeypatch.setattr(loading, "fastest_dtype", lambda *_: dtype)
        self.monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))

    def run(
        self, *, stop: int = 0, threads: int | None = None, **settings: object
    ) -> tuple[TuneResult | None, list[int]]:
        """The result, none where it was stopped after a step, and the steps taken."""
        steps: list[int] = []

        def note(progress: Progress) -> None:
            steps.append(progress.step)
            if progress.step == stop:
                raise KeyboardInterrupt

        self.told.clear()
        options = Options(threads=threads, on_progress=note, say=self.told.append)
        config = replace(AUTO, **settings)  # type: ignore[arg-type]  # object: any setting
        try:
            return tune(TRAIN, DEV, config, base=self.base_dir, out_dir=self.out_dir, seed=0, options=options), steps
        except KeyboardInterrupt:
            return None, steps


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setattr("metier.tune.running.CHECKPOINT_SECONDS", 0.0)
    made = Machine(monkeypatch, tiny_base(tmp_path / "base"), tmp_path / "tune")
    made.becomes()
    return made


def test_a_run_ends_with_the_same_bits_where_cores_and_the_faster_precision_have_changed(
    machine: Machine, tmp_path: Path
) -> None:
    machine.becomes(dtype=torch.bfloat16, cores=3)
    machine.out_dir = tmp_path / "whole"
    whole, _ = machine.run()
    machine.out_dir = tmp_path / "cut"
    machine.run(stop=4)
    machine.becomes(dtype=torch.float32, cores=1)
    resumed, steps = machine.run()
    assert whole is not None and resumed is not None
    assert steps[0] == 5
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert (resumed.dev_curve, resumed.fingerprint) == (whole.dev_curve, whole.fingerprint)
    assert any("begun with 3 threads, here are 1; it goes on with them" in line for line in machine.told)
    execution = json.loads((tmp_path / "cut" / "execution.json").read_text())
    assert (execution["threads"], execution["product_dtype"]["name"]) == (3, "bfloat16")


def test_a_finished_run_stands_whatever_the_machine_decides(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.becomes(dtype=torch.bfloat16, cores=2)
    first, _ = machine.run()
    machine.becomes(dtype=torch.float32, cores=1)
    assert machine.run() == (first, [])
    assert machine.run(threads=3) == (first, [])
    assert any("begun with 2 threads, here are 3; the result stands" in line for line in machine.told)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_another_number_of_threads_asked_for_starts_again_and_says_so(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.run(stop=4)
    _, steps = machine.run(threads=2, stop=5)
    assert steps == [5], "the number it began with"
    result, steps = machine.run(threads=1)
    assert steps[0] == 1
    line = "holds the checkpoint of an unfinished run of 2 threads, and 1 are asked for; sums depend on their number. It is"
    assert [line in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [True]
    assert any(line in said for said in machine.told)
    assert result is not None and result.execution.threads == 1


def test_a_finished_run_of_other_settings_goes_with_a_warning_and_the_machine_decides_anew(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.becomes(dtype=torch.bfloat16, cores=2)
    machine.run()
    machine.becomes(dtype=torch.float32, cores=1)
    result, steps = machine.run(weight_decay=0.3)
    assert result is not None and steps[0] == 1
    assert (result.execution.product_dtype.name, result.execution.threads) == ("float32", 1)
    line = "holds a finished run of other rows, settings or another base. It is deleted"
    assert [line in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [True]


def test_a_folder_that_does_not_say_what_it_began_with_starts_again(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.run(stop=4)
    (machine.out_dir / "execution.json").write_text("{}")
    _, steps = machine.run(stop=2)
    assert steps == [1, 2]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "what the run began with is not readable" in said[0] and "does not say what it began with. It is" in said[1]
