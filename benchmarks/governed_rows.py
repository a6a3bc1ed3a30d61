"""Raw rows to a sealed hold-out: seconds and peak memory of the road's first part on rows made of public data.

    python benchmarks/governed_rows.py --json > governed.json
    python benchmarks/governed_rows.py --rows 1000000 --json > governed_1m.json

Rows are those of `near_duplicates.py` (tickets and questions recombined by a seed, 2 % exact and 3 % near copies),
written as JSON Lines with a customer (20 rows each), a day, and private data planted in 2 % of them. A project of its
own is
then taken through reading, validation, duplicates, private data, controls, split, ledger and seal in a process of its
own, once for each round; the model is not touched. Peak memory is that of the process, the raw file is not counted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from near_duplicates import made_rows

PROJECT = """
[project]
name = "governed"
seed = 1

[data]
files = ["rows.jsonl"]
columns = { prompt = "prompt", reply = "reply" }
subject = ["customer"]
groups = ["customer"]
time = "day"

[split]
generalise_to = "later"
holdout_rows = 1000
dev_rows = 500

[metric]
name = "exact"

[[arm]]
kind = "prompt"

[[arm]]
kind = "tuned"

[decision]
margin = 0.05
"""
PLANTED = (
    "Write to {name}.{n}@mail.example.net please.",
    "My number is +44 20 7946 0{n:03d}.",
    "The card is 4539 1488 0343 6467.",
    "From 192.168.{a}.{b}.",
)


def records(num: int, seed: int) -> Iterator[dict[str, str]]:
    """The records of the raw file."""
    rng = random.Random(seed)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    for number, made in enumerate(made_rows(num, seed)):
        prompt = made.prompt
        if rng.random() < 0.02:
            n = rng.randrange(1000)
            prompt += " " + rng.choice(PLANTED).format(name=f"user{n}", n=n, a=n % 250, b=n % 199)
        yield {
            "prompt": prompt,
            "reply": made.reply,
            "customer": f"c-{rng.randrange(max(1, num // 20)):06d}",
            "day": (start + timedelta(minutes=5 * number)).isoformat(),
        }


def road(project_dir: Path) -> dict[str, Any]:
    """Seconds by step and peak memory in MiB, of this process."""
    from metier.project import Project
    from metier.road.cut import cut_rows, seal_parts
    from metier.road.ground import read_and_check, record_ground
    from metier.road.run import open_session

    project = Project.load(project_dir)
    seconds: dict[str, float] = {}
    with open_session(project_dir, project.config, what="benchmark") as session:
        at = time.perf_counter()

        def done(step: str) -> None:
            nonlocal at
            now = time.perf_counter()
            seconds[step], at = now - at, now

        ground = read_and_check(session)
        done("read, validate, duplicates, private data, store")
        parts = cut_rows(session, ground)
        done("split")
        record_ground(session, ground)
        done("record rows")
        seal_parts(session, ground, parts)
        done("seal")
    return {
        "seconds": seconds,
        "total_s": sum(seconds.values()),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "kept": len(ground.curated.kept),
        "reasons": ground.curated.reasons,
        "private": dict(ground.curated.private),
        "parts": {"train": parts.report.train, "dev": parts.report.dev, "holdout": parts.report.holdout},
    }


def in_a_process(project_dir: Path) -> dict[str, Any]:
    """The road in a fresh interpreter."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(road, (project_dir,))


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="governed-"))
    try:
        raw = folder / "rows.jsonl"
        with raw.open("w", encoding="utf-8") as file:
            for record in records(options.rows, options.seed):
                file.write(json.dumps(record) + "\n")
        rounds = []
        for number in range(options.rounds):
            project_dir = folder / f"round{number}"
            project_dir.mkdir()
            (project_dir / "metier.toml").write_text(PROJECT, encoding="utf-8")
            (project_dir / "rows.jsonl").symlink_to(raw)
            rounds.append(in_a_process(project_dir))
            shutil.rmtree(project_dir)
        total = statistics.median(found["total_s"] for found in rounds)
        report = {
            "rows": options.rows,
            "raw_mb": raw.stat().st_size / 1e6,
            "total_s": total,
            "rows_per_s": options.rows / total,
            "mb_per_s": raw.stat().st_size / 1e6 / total,
            "peak_mib": max(found["peak_mib"] for found in rounds),
            "rounds": rounds,
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
    finally:
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps(report))
        return
    print(f"{options.rows:,} rows ({report['raw_mb']:.0f} MB): {total:.1f} s, {report['peak_mib']:.0f} MiB")
    for step in rounds[0]["seconds"]:
        print(f"  {statistics.median(found['seconds'][step] for found in rounds):7.1f} s  {step}")


if __name__ == "__main__":
    main()
