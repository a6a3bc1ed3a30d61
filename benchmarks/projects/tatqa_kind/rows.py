"""Draw the rows of this project, as few as a team has labelled in its first weeks: questions of some reports.

    python benchmarks/projects/tatqa_kind/rows.py
    python benchmarks/projects/tatqa_kind/rows.py --rows 1500   (more of them: what the parts of a run cost then)

It writes rows.jsonl beside it; the data stay where they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[3] / "shared" / "data" / "tatqa"
NUM_ROWS = 600


def main() -> None:
    """Report after report in a random order until there are enough questions; the last one may be cut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    num_rows = parser.parse_args().rows
    found = [
        json.loads(line)
        for name in ("questions_dev.jsonl", "questions_test_gold.jsonl")
        for line in (DATA / name).read_text(encoding="utf-8").splitlines()
    ]
    if not 1 <= num_rows <= len(found):
        parser.error(f"--rows is {num_rows}; expected 1 to {len(found)}, as many as there are.")
    docs = list(dict.fromkeys(row["doc"] for row in found))
    place = {docs[i]: n for n, i in enumerate(np.random.default_rng(17).permutation(len(docs)))}
    rows = sorted(found, key=lambda row: place[row["doc"]])[:num_rows]
    kept = [{name: row[name] for name in ("doc", "question", "answer_type")} for row in rows]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    (HERE / "rows.jsonl").write_text(text, encoding="utf-8")
    print(f"{len(kept)} rows of {len({row['doc'] for row in kept})} reports: {HERE / 'rows.jsonl'}")


if __name__ == "__main__":
    main()
