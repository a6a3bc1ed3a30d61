"""Reading speed: files into checked rows with ids, per format, beside the bare parser of the standard library.

    python benchmarks/reading.py --json                  # 100,000 rows a format, three times each, about five minutes
    python benchmarks/reading.py --quick --json          # 3,000 rows, seconds
    python benchmarks/reading.py --rows 1000000 --only jsonl_chat,csv --repeats 1 --json

Every measurement is a process of its own with one thread, so that its peak memory is its own; formats alternate.
`floor` only parses: `json.loads` of each line, `csv.reader` over each record. Rows are made from real support questions
and replies where the public data lies beside the repository, else from a list of words; each carries its own number, a
time, a customer and a region.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "bitext_support" / "bitext_customer_support.csv"
WORDS = ("order", "parcel", "refund", "address", "invoice", "card", "the", "of", "to", "your", "will", "please", "we")
COLUMNS = {"prompt": "question", "reply": "answer"}
META = {"groups": ("customer",), "time": "date", "attributes": ("region",)}
FORMATS = {
    "jsonl_chat": ("chat.jsonl", META),
    "jsonl_table": ("table.jsonl", {**META, "columns": COLUMNS}),
    "csv": ("table.csv", {**META, "columns": COLUMNS}),
    "json": ("table.json", {**META, "columns": COLUMNS}),
    "parquet": ("table.parquet", {**META, "columns": COLUMNS}),
    "parquet_chat": ("chat.parquet", META),
    "floor_json": ("chat.jsonl", {}),
    "floor_csv": ("table.csv", {}),
}


def made_rows(num_rows: int) -> Iterator[dict[str, str]]:
    """Support questions with replies, each with its own number."""
    draw = random.Random(0)
    if DATA.exists():
        with DATA.open(encoding="utf-8", newline="") as file:
            texts = [(row["instruction"], row["response"]) for row in csv.DictReader(file)]
    else:
        texts = [(" ".join(draw.choices(WORDS, k=12)) + "?", " ".join(draw.choices(WORDS, k=90))) for _ in range(2000)]
    for i in range(num_rows):
        question, answer = texts[i % len(texts)]
        yield {
            "question": f"{question} (ticket {i})", "answer": answer, "customer": f"c-{i % 9973}",
            "date": f"2026-{1 + i % 9:02d}-{1 + i % 28:02d}", "region": ("north", "south", "")[i % 3],
        }  # fmt: skip


def as_chat(row: dict[str, str]) -> dict[str, Any]:  # Any: JSON values
    """The same row in OpenAI's form."""
    rest = {name: row[name] for name in ("customer", "date", "region")}
    said = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    return {"messages": said, **rest}


def write_files(folder: Path, num_rows: int) -> None:
    """The same rows in every form."""
    import polars as pl

    rows = list(made_rows(num_rows))
    for name, shape in (("chat.jsonl", as_chat), ("table.jsonl", dict)):
        with (folder / name).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(shape(row), ensure_ascii=False) + "\n" for row in rows)
    (folder / "table.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    pl.DataFrame(rows).write_parquet(folder / "table.parquet")
    pl.DataFrame([as_chat(row) for row in rows]).write_parquet(folder / "chat.parquet")


def measure_one(name: str, folder: Path) -> dict[str, float]:
    """Seconds, processor seconds, rows and peak memory of one pass, in this process."""
    from metier.core.settings import DataConfig
    from metier.curate.read import read_chunks

    file_name, settings = FORMATS[name]
    path = folder / file_name
    start, start_cpu = time.perf_counter(), time.process_time()
    if name == "floor_json":
        with path.open(encoding="utf-8") as file:
            num_rows = sum(1 for line in file if json.loads(line))
    elif name == "floor_csv":
        with path.open(encoding="utf-8", newline="") as file:
            num_rows = sum(1 for _ in csv.reader(file)) - 1
    else:
        config = DataConfig(files=(file_name,), **settings)
        num_rows = sum(len(chunk.rows) for chunk in read_chunks(config, folder, key=b"k" * 32))
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    return {"num_rows": num_rows, "seconds": seconds, "cpu_s": cpu_s, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """Most memory this process held; getrusage would count what its parent held when it was started."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, where there is no /proc
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def in_own_process(name: str, folder: Path) -> dict[str, float]:
    """`measure_one` in a fresh process with one thread."""
    env = {**os.environ, "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", name, "--folder", str(folder)]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def summary(runs: list[dict[str, float]], num_bytes: int) -> dict[str, float]:
    """Medians over the runs, with the fastest and slowest."""
    seconds = sorted(run["seconds"] for run in runs)
    median, num_rows = statistics.median(seconds), runs[0]["num_rows"]
    return {
        "num_rows": num_rows,
        "mib": round(num_bytes / 2**20, 1),
        "seconds": round(median, 3),
        "seconds_low": round(seconds[0], 3),
        "seconds_high": round(seconds[-1], 3),
        "cpu_us_a_row": round(statistics.median(run["cpu_s"] for run in runs) / num_rows * 1e6, 1),
        "rows_a_s": round(num_rows / median),
        "mib_a_s": round(num_bytes / 2**20 / median, 1),
        "peak_mib": round(max(run["peak_mib"] for run in runs)),
        "num_runs": len(runs),
    }


def measure(names: list[str], num_rows: int, repeats: int) -> dict[str, dict[str, float]]:
    """Every format, `repeats` times in turn."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_files(folder, num_rows)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(repeats):
            for name in names:
                runs[name].append(in_own_process(name, folder))
        return {name: summary(found, (folder / FORMATS[name][0]).stat().st_size) for name, found in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=",".join(FORMATS), help="formats, separated by commas")
    parser.add_argument("--quick", action="store_true", help="3,000 rows, once")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", choices=list(FORMATS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure_one(args.one, args.folder)))
        return
    names = args.only.split(",")
    found = measure(names, *((3_000, 1) if args.quick else (args.rows, args.repeats)))
    if args.json:
        print(json.dumps({"real_data": DATA.exists(), "formats": found}, indent=1))
        return
    for name, facts in found.items():
        print(
            f"{name:14s}{facts['rows_a_s']:10,} rows/s{facts['mib_a_s']:8.1f} MiB/s"
            f"{facts['cpu_us_a_row']:8.1f} us a row{facts['peak_mib']:7,} MiB"
        )


if __name__ == "__main__":
    main()
