"""Runs that are made twice: by one process with two workers, and by two processes of one thread each.

`torchrun --nproc-per-node=2 -m tests.tune.shared_runs BASE_DIR OUT_DIR` makes them all in one pair of processes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from metier.core.tune_config import DpoConfig, TuneConfig
from metier.engine import close_ranks, open_ranks
from metier.render import RenderedPair, RenderedRow
from metier.tune import Options, TuneResult, tune, tune_pairs
from tests.engine.builders import random_rows

LENGTHS = [150, 90, 200, 60, 170, 110, 80, 140, 120, 100, 160, 50, 130]  # 13 rows: no step has the same number on both
TRAIN, DEV = random_rows(LENGTHS, seed=1), random_rows([90, 120, 70, 150, 200, 60], seed=2)
CONFIG = TuneConfig(rank=4, alpha=8.0, passes=2.0, step_tokens=700, evals=2, product_dtype="fp32", lr=0.02)
NUM_PREFIX = 40
RUNS: dict[str, dict[str, Any]] = {
    "dpo": {"objective": "dpo", "dpo": DpoConfig(lr=0.01, passes=2.0), "passes": 0.0, "lr": 0.0},
    "full": {"method": "full", "rank": 16, "alpha": 32.0, "lr": 0.003},
    "dora": {"method": "dora"},
    "stored states": {"depth": 1},
    "padded": {"layout": "padded"},
    "prefix": {},
}


def pairs_of(rows: list[RenderedRow]) -> list[RenderedPair]:
    """Two neighbours as the replies to one prompt."""
    return [RenderedPair(one.row_id, one, two) for one, two in zip(rows[0::2], rows[1::2], strict=False)]


def with_prefix(rows: list[RenderedRow]) -> list[RenderedRow]:
    prefix = random_rows([NUM_PREFIX], seed=3)[0].tokens
    return [RenderedRow(row.row_id, [*prefix, *row.tokens], [0.0] * NUM_PREFIX + list(row.weight)) for row in rows]


def made(name: str, base_dir: Path, out_dir: Path, *, processes: int) -> TuneResult:
    """One of the runs, by this process or as one of several."""
    config = replace(CONFIG, processes=processes, **RUNS[name])
    # A folder for each: the states below the adapted layers lie beside the run's own.
    named: dict[str, Any] = {"base": base_dir, "out_dir": out_dir / name / "run", "seed": 0}
    named["options"] = Options(threads=2 // processes)
    if config.objective == "dpo":
        return tune_pairs(pairs_of(TRAIN), pairs_of(DEV), config, **named)
    train, dev = (with_prefix(rows) if name == "prefix" else rows for rows in (TRAIN, DEV))
    return tune(train, dev, config, **named)


if __name__ == "__main__":
    open_ranks()
    try:
        for each in RUNS:
            made(each, Path(sys.argv[1]), Path(sys.argv[2]), processes=2)
    finally:
        close_ranks()
