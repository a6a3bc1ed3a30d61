"""Tuning runs in processes of their own that die by SIGKILL: from outside at a moment, or at a call of the n-th time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from metier.core.tune_config import TuneConfig
from metier.tune import tune
from tests.engine.builders import pattern_rows

CONFIG = TuneConfig(rank=4, alpha=8.0, passes=3.0, step_tokens=128, evals=4, product_dtype="fp32", lr=0.02)
TRAIN, DEV = pattern_rows(24, seed=1), pattern_rows(6, seed=2)
STARTED = ".started"


def forks() -> Any:
    """A context whose processes start in milliseconds: its server has torch loaded, and nothing of a run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo", "metier.tune", "tests.tune.killing"])
    return context


def tune_here(base_dir: Path, out_dir: Path, hook: tuple[str, str, int, bool] | None = None) -> None:
    """Tune; with a hook (module, name, call, after) the process dies at that call of that function."""
    (out_dir.parent / f"{out_dir.name}{STARTED}").touch()
    if hook is not None:
        module, name, call, after = hook
        _die_at_call(module, name, call, after=after)
    tune(TRAIN, DEV, CONFIG, base=base_dir, out_dir=out_dir, seed=0, threads=1)


def _die_at_call(module: str, name: str, call: int, *, after: bool) -> None:
    owner, calls = import_module(module), 0
    real = getattr(owner, name)

    def deadly(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != call:
            return real(*arguments, **named)
        result = real(*arguments, **named) if after else None
        os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def run_to_its_end(base_dir: Path, out_dir: Path) -> float:
    """Tune in a process of its own; seconds from its start to its end."""
    process = forks().Process(target=tune_here, args=(base_dir, out_dir))
    start = time.monotonic()
    process.start()
    process.join(120)
    assert process.exitcode == 0, process.exitcode
    return time.monotonic() - start


def killed_at_call(base_dir: Path, out_dir: Path, hook: tuple[str, str, int, bool]) -> None:
    """Tune until the process dies at a call."""
    process = forks().Process(target=tune_here, args=(base_dir, out_dir, hook))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, (hook, process.exitcode)


def killed_when(base_dir: Path, out_dir: Path, moment: Callable[[], bool]) -> bool:
    """Tune and kill the process from outside as soon as `moment` is true; False where it had ended before."""
    process = forks().Process(target=tune_here, args=(base_dir, out_dir))
    process.start()
    while process.is_alive() and not moment():
        pass  # no sleep: a save lasts milliseconds
    process.kill()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def num_steps_taken(out_dir: Path) -> int:
    """Whole lines of metrics.jsonl as it is now."""
    try:
        return (out_dir / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def outcome(out_dir: Path) -> dict[str, Any]:
    """What must be equal between two runs: every file's bytes and name, times and free memory aside."""
    done = json.loads((out_dir / "done.json").read_text())
    done["result"].pop("seconds")
    done["result"].pop("execution")  # its reasons name the memory that was free
    for name in ("metrics.jsonl", "execution.json"):
        done["files"].pop(name)
    lines = [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        "done": done,
        "metrics": [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines],
        "adapter": (out_dir / "adapter" / "adapter_model.safetensors").read_bytes(),
        "files": sorted(str(path.relative_to(out_dir)) for path in out_dir.rglob("*")),
    }
