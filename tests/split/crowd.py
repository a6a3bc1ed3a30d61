"""A seeded crowd of rows with everything that decides a split: groups, copies, equal prompts, ties, a given test set."""

from __future__ import annotations

import random

from metier.core.hashing import keyed_hash
from metier.core.rows import Row, TargetKind
from metier.core.settings import SplitConfig
from tests.split.build import KEY, make

NEAR = 0.5


def _asked(mode: str, **more: object) -> SplitConfig:
    groups = {} if mode == "later" else {"min_holdout_groups": 5}
    values = {"holdout_rows": 30, "dev_rows": 20, "max_purge": 0.5} | groups | more
    return SplitConfig(generalise_to=mode, **values)  # type: ignore[arg-type]  # a dict of settings


CONFIGS = {
    "later": _asked("later"),
    "new_groups": _asked("new_groups"),
    "stratified": _asked("new_groups", stratify="region"),
    "by label": _asked("new_groups", stratify="label"),
    "both": _asked("later_and_new_groups"),
    "given, new_groups": _asked("new_groups", holdout_files=("given",)),
    "given, both": _asked("later_and_new_groups", holdout_files=("given",)),
}


def crowd(*, grouped: bool = True, hashed: bool = False, num: int = 400) -> list[Row]:
    """Rows; `hashed` gives groups the names they have in a table, in whose order groups are drawn."""
    rng = random.Random(7)
    rows = []
    for i in range(num):
        like = rng.randrange(i) if i and rng.random() < 0.15 else i
        prompt = f"ask{like} about{like} thing{like} or{like} other{like}"
        if like != i and rng.random() < 0.7:
            prompt += f" and{i}"
        groups = {"customer": f"c{rng.randrange(150)}"} if rng.random() < 0.9 else {}
        if rng.random() < 0.1:
            groups["house"] = f"h{rng.randrange(200)}"
        given = i >= num - 60
        rows.append(
            make(
                i,
                prompt=prompt,
                reply=f"say{like} of{like} it{like}",
                day=300 + rng.randrange(5) if given else rng.randrange(250),
                source="given/test.jsonl" if given else rng.choice(["b.jsonl", "a.jsonl"]),
                label=rng.choice("xxyz"),
                kind=TargetKind.LABEL,
                attributes={"region": rng.choice(["north", "south", "south"])} if rng.random() < 0.9 else {},
                groups={k: keyed_hash(KEY, v) if hashed else v for k, v in groups.items()} if grouped else {},
            )
        )
    return rows
