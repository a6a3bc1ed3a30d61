"""Time and memory of the split, its certificate and the check of it, in every mode, on made-up columns.

    python benchmarks/split_speed.py --rows 100000 --json > split_speed.json

The rows have no text: a tenth of the codes of a row are those of a few templates, the rest its own; one row in fifty
copies two to twenty-two of the 24 codes of another. Customers hold five rows on average, days are whole, so that many
times are equal. Each mode runs in a process of its own, on one thread. `made_gib` is the peak of memory when the table
was made, `peak_gib` that of the whole process, `table_gib` is the table alone;
`split_s` is by the clock, `split_cpu_s` what the thread was busy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numpy waits for the number of threads to be set
    import numpy as np

    from metier.core.table import RowTable, Values

MODES = ("later", "new_groups", "later_and_new_groups", "stratified", "given files")
CODES_A_ROW = 24
TEMPLATE_CODES = 400
GIB = 2**30


def made_table(num: int, seed: int) -> RowTable:
    """A table of `num` rows by column."""
    import numpy as np

    from metier.core.rows import Message, Meta, Role, make_row
    from metier.core.shingles import Shingles
    from metier.core.table import Values, table_of

    rng = np.random.default_rng(seed)

    def names(count: int, size: int = 16) -> tuple[str, ...]:
        data = rng.bytes(size * count)
        return tuple(data[low : low + size].hex() for low in range(0, len(data), size))

    def ids() -> np.ndarray:
        return np.asarray([name.encode() for name in names(num)], dtype="S32")

    def column(values: tuple[str, ...], code_N: np.ndarray) -> Values:
        return Values(values, code_N.astype(np.int32))

    code_NS = rng.integers(2**62, size=(num, CODES_A_ROW), dtype=np.uint64)
    template = np.sort(rng.integers(2**62, size=TEMPLATE_CODES, dtype=np.uint64))
    shared = rng.random(code_NS.shape) < 0.1
    code_NS[shared] = template[rng.zipf(1.5, int(shared.sum())) % TEMPLATE_CODES]
    copies, originals = rng.integers(num, size=(2, num // 50))
    copied = np.arange(CODES_A_ROW) < rng.integers(2, CODES_A_ROW - 1, size=(num // 50, 1))
    code_NS[copies] = np.where(copied, code_NS[originals], code_NS[copies])
    code_NS.sort(axis=1)
    once = np.ones(code_NS.shape, dtype=bool)
    once[:, 1:] = code_NS[:, 1:] != code_NS[:, :-1]
    start_N = np.concatenate([[0], np.cumsum(once.sum(axis=1))])
    conversation = Shingles(start_N, code_NS[once])
    del code_NS, once, shared
    day_us = 86_400_000_000
    customer_N = rng.integers(num // 5, size=num)
    # A customer writes for about a month; customers come and go over three years.
    time_N = (customer_N * 1000 // (num // 5) + rng.integers(30, size=num)) * day_us + 1_600_000_000_000_000
    customer_N[rng.random(num) < 0.05] = -1
    place_N = np.arange(num)
    is_given_N = place_N < num // 50
    meta = Meta(source="old.jsonl", source_row=0)
    row = make_row(b"key", messages=(Message(role=Role.USER, content="one row"),), meta=meta)
    return replace(
        table_of([row], key=b"key").take(np.zeros(num, dtype=np.int64)),
        origin_N=ids(), row_N=ids(), number_N=place_N,
        source=column(("new.jsonl", "old.jsonl", "test.jsonl"), np.where(is_given_N, 2, place_N % 2)),
        groups={"customer": column(names(num // 5), customer_N)},
        time_N=np.where(is_given_N, time_N.max() + day_us * rng.integers(1, 60, size=num), time_N),
        label=column(("a", "b"), rng.integers(2, size=num)),
        attributes={"region": column(("north", "south", "west"), rng.integers(3, size=num))},
        prompt_N=rng.integers(2**62, size=num, dtype=np.uint64), conversation=conversation,
    )  # fmt: skip


def measured(mode: str, num: int, holdout: int, seed: int) -> dict[str, object]:
    """Seconds of each step and the peak of memory, in a fresh process."""
    from metier.core.settings import SplitConfig
    from metier.split import split_rows, verify_certificate

    table = made_table(num, seed)
    made_gib = _peak_gib()
    columns = [table.origin_N, table.row_N, table.number_N, table.time_N, table.prompt_N, table.conversation.code_S]
    more: dict[str, object] = {"holdout_files": ("test.jsonl",)} if mode == "given files" else {}
    if mode == "stratified":
        more["stratify"] = "region"
    named = mode if mode in MODES[:3] else "new_groups"
    config = SplitConfig(generalise_to=named, holdout_rows=holdout, dev_rows=holdout // 2, max_purge=0.9, **more)  # type: ignore[arg-type]  # sampled settings
    started, busy = time.perf_counter(), time.process_time()
    result = split_rows(table, config, seed=seed, near_dup=0.8)
    split_s, split_cpu_s = time.perf_counter() - started, time.process_time() - busy
    parts = {name: table.take(index) for name, index in result.parts.items()}
    started, busy = time.perf_counter(), time.process_time()
    problems = verify_certificate(parts, result.certificate)
    verify_s, verify_cpu_s = time.perf_counter() - started, time.process_time() - busy
    assert not problems, problems
    return {
        "mode": mode,
        "rows": num,
        **{name: len(index) for name, index in result.parts.items()},
        "purged": len(result.purged),
        "max_similarity": result.certificate.max_similarity,
        "split_s": round(split_s, 3),
        "split_cpu_s": round(split_cpu_s, 3),
        "verify_s": round(verify_s, 3),
        "verify_cpu_s": round(verify_cpu_s, 3),
        "table_gib": round(sum(column.nbytes for column in columns) / GIB, 3),
        "made_gib": made_gib,
        "peak_gib": _peak_gib(),
    }


def _peak_gib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--holdout", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    found = []
    for mode in args.modes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(measured, (mode, args.rows, args.holdout, args.seed)))
        print(json.dumps(found[-1]), file=sys.stderr)
    if args.json:
        print(json.dumps({"machine": platform.platform(), "cores": os.cpu_count(), "results": found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
