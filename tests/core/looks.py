"""What each setting changes, made visible without a model: small data, and a look at it under a value.

A look is a function of a value and an empty folder; `test_every_setting` asks it for two values and compares.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from metier.arms import read_wordings
from metier.assess import (
    CostRatio,
    Decision,
    GuardScores,
    ScoreTable,
    TuningCosts,
    decide,
    next_look,
    resolved_question,
)
from metier.core.arm_config import ArmConfig
from metier.core.errors import MetierError
from metier.core.project_file import ProjectConfig
from metier.core.rows import Row
from metier.core.settings import (
    BudgetConfig,
    CleanConfig,
    DataConfig,
    DecisionConfig,
    GuardConfig,
    PriceConfig,
    SplitConfig,
    ValueConfig,
)
from metier.core.table import table_of
from metier.core.trials import Reply
from metier.core.tune_config import TuneConfig
from metier.core.votes import Vote
from metier.evaluate import Grader, make_grader, run_controls
from metier.road.cost import (
    label_row_cost,
    machine_cost,
    price_entries,
    request_costs,
    require_affordable,
    tuning_costs,
)
from metier.road.plan import tune_options
from metier.road.rendered import instruction_text
from metier.road.run import open_session
from metier.split import split_rows
from tests.conventions.builders import row
from tests.curate.cleaning import Cleaned, clean_files
from tests.split.build import make

KEY, NOW = b"a project's key", datetime(2026, 6, 1, tzinfo=UTC)
COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
WORDS = "amber birch cedar delta ember flint grove heath inlet joint knoll lunar mango north olive pearl".split()  # noqa: SIM905  # one line of words reads better than sixteen strings


class Shown(NamedTuple):
    """Two values of a setting and what is looked at; `look(value, folder)` must differ between them."""

    one: Any
    other: Any
    look: Callable[[Any, Path], object]


def outcome(made: Callable[[], object]) -> object:
    """What a call gives, or the sentence with which it is refused."""
    try:
        return made()
    except MetierError as err:
        return str(err)


# [data] and [clean]: sixteen records that differ in every word, and what becomes of them.


def records() -> list[dict[str, str]]:
    return [
        {
            "ask": f"{word} {word}{i} question about {word}s for {'help@desk' if i == 9 else 'me@home'}.example",
            "answer": f"{word} {word}{i} is on its way{' very soon' * (i % 3)}. Ask help@desk.example.",
            "other": f"another answer of {word}{i}",
            "who": f"person {i}",
            "customer": f"customer {i // 2}",
            "day": f"2026-01-{i + 1:02}",
            "until": "2026-05-01" if i < 3 else "2027-05-01",
            "region": "north" if i % 2 else "south",
            "version": "v1" if i < 4 else "v2",
        }
        for i, word in enumerate(WORDS)
    ]


BASE = DataConfig(files=("a.jsonl",), columns={"prompt": "ask", "reply": "answer"})


def curated(folder: Path, *, clean: CleanConfig | None = None, **changes: object) -> object:
    """The cleaned rows of a project, or why there are none."""
    lines = [json.dumps(record) + "\n" for record in records()]
    (folder / "a.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "b.jsonl").write_text("".join(lines[:8]), encoding="utf-8")
    config = replace(BASE, **changes)  # type: ignore[arg-type]  # object: any field of DataConfig
    return outcome(lambda: clean_files(folder, config, clean=clean or CleanConfig()))


def data(name: str, look: Callable[[Cleaned], object], **beside: object) -> Callable[[Any, Path], object]:
    """A look at the rows under another value of one field of `[data]`; a refusal is a change too."""

    def seen(value: object, folder: Path) -> object:
        found = curated(folder, **beside, **{name: value})  # type: ignore[arg-type]  # see `curated`
        return look(found) if isinstance(found, Cleaned) else found

    return seen


def clean(name: str) -> Callable[[Any, Path], object]:
    """A look at reasons and texts under another value of one field of `[clean]`."""

    def seen(value: object, folder: Path) -> object:
        config = replace(CleanConfig(near_dup=0.9), **{name: value})  # type: ignore[arg-type]  # a name from the table
        extra = {**records()[0], "ask": "please " + records()[0]["ask"]}
        (folder / "c.jsonl").write_text(json.dumps(extra) + "\n", encoding="utf-8")
        found = curated(folder, clean=config, files=("a.jsonl", "c.jsonl"))
        return (found.reasons, texts(found)) if isinstance(found, Cleaned) else found

    return seen


def texts(result: Cleaned) -> list[str]:
    return [message.content for kept in result.kept for message in kept.messages]


def metas(field: str) -> Callable[[Cleaned], object]:
    return lambda result: [getattr(kept.meta, field) for kept in result.kept]


def ledger_place(url: str, folder: Path) -> object:
    """Where a project's ledger lies, or why nowhere."""
    values = {"project": {"name": "p", "ledger": url}, "data": {"files": ["a"]}, "decision": {"margin": 0.1}}
    config = ProjectConfig.from_mapping(values, where="metier.toml")

    def opened() -> str:
        with open_session(folder, config, what="test") as session:
            return session.ledger.where

    return outcome(opened)


# [split]: 120 rows over 40 groups and 120 days, one in ten a copy of the row before.

SPLIT = SplitConfig(holdout_rows=20, dev_rows=10, generalise_to="new_groups", min_holdout_groups=3)
LATER = SplitConfig(holdout_rows=20, dev_rows=10)


def to_split() -> list[Row]:
    return [
        make(
            i,
            day=i,
            prompt=f"the very same question of {i // 20}" if i % 20 in (0, 19) else "",
            source="test.jsonl" if i >= 90 else "rows.jsonl",
            groups={"customer": f"c{i // 3}"},
            attributes={"region": "north" if i // 3 % 3 else "south"},
        )
        for i in range(120)
    ]


def parts(config: SplitConfig, *, seed: int = 0) -> object:
    """Numbers of the rows of each part, or why there are none."""

    def made() -> object:
        table = table_of(to_split(), key=KEY)
        result = split_rows(table, config, seed=seed, near_dup=0.8)
        return {name: table.number_N[places].tolist() for name, places in result.parts.items()}

    return outcome(made)


def split(name: str, base: SplitConfig = SPLIT) -> Callable[[Any, Path], object]:
    return lambda value, _folder: outcome(lambda: parts(replace(base, **{name: value})))


# [metric] and [[convention]]: one reply that obeys one of two conventions.

NUMBER = {"name": "number", "check": "contains", "args": {"from_prompt": r"T-\d+"}, "row_specific": True}
HELLO = {"name": "hello", "check": "starts_with", "args": {"any": ["Hello"]}}


def grader(metric: Mapping[str, object], *conventions: Mapping[str, object], folder: Path) -> Grader:
    values = {
        "project": {"name": "p"}, "data": {"files": ["a"]}, "decision": {"margin": 0.1}, "metric": metric,
        "convention": list(conventions),
    }  # fmt: skip
    return make_grader(ProjectConfig.from_mapping(values, where="metier.toml"), folder)


def scored(metric: Mapping[str, object], *conventions: Mapping[str, object], folder: Path, prompt: str) -> object:
    asked = row(prompt, "Hello, T-1 is done.")
    return outcome(lambda: grader(metric, *conventions, folder=folder).score(asked, "Hello you.").score)


def metric_name(value: str, folder: Path) -> object:
    return scored({"name": value}, NUMBER, HELLO, folder=folder, prompt="T-1, please")


def pass_mark(value: float, folder: Path) -> object:
    rows = [row(f"T-{i}, please", f"Hello, T-{i} is done.", number=i) for i in range(9)]
    made = grader({"name": "mean", "pass_mark": value}, NUMBER, HELLO, folder=folder)
    return outcome(lambda: run_controls(rows, made, seed=0).num_rows)


def convention(name: str, *, prompt: str = "T-1, please", **beside: object) -> Callable[[Any, Path], object]:
    def seen(value: object, folder: Path) -> object:
        first = {**NUMBER, **({"row_specific": False} if beside else {}), **beside, name: value}
        asked = row(prompt, "Hello, T-1 is done.")
        made = grader({"name": "mean"}, first, HELLO, folder=folder)
        return outcome(lambda: (made.score(asked, "Hello you.").score, made.score(asked, "Hello you.").checks))

    return seen


# [decision] and [[guard]]: a gain of ten points over one rival on 200 rows.

QUESTION = DecisionConfig(margin=0.05)
VALUE = ValueConfig(worth=0.5, requests_per_month=1000.0)
COSTS = TuningCosts(one_off=120.0, upkeep_per_month=0.0, request_before=0.002, request_after=0.001)
GUARD = GuardConfig(name="polite", on="metric", limit=0.02)


def decided(question: DecisionConfig, guard: GuardConfig | None = None) -> Decision:
    tuned, rival, groups = [1.0] * 150 + [0.0] * 50, [1.0] * 130 + [0.0] * 20 + [1.0] * 4 + [0.0] * 46, range(200)
    table = ScoreTable.of(tuned=tuned, rivals={"prompt": rival}, groups=list(groups), binary=True)
    guards = [] if guard is None else [
        GuardScores.of(guard, tuned=tuned, reference=rival, groups=list(groups), binary=True)
    ]  # fmt: skip
    return decide(question, table, alpha_this_look=0.05, guards=guards, cost_ratio=CostRatio(0.5, 0.7, "prompt"))


def decision(name: str, look: Callable[[Decision], object], **beside: object) -> Callable[[Any, Path], object]:
    return lambda value, _folder: look(decided(replace(QUESTION, **beside, **{name: value})))


def claimed(claim: Any, _folder: Path) -> object:
    """The bound the gain is held against; a margin goes with one of the claims only."""
    return decided(DecisionConfig(claim=claim, margin=0.05 if claim == "better" else None)).margin


def look_of(name: str) -> Callable[[Any, Path], object]:
    """The error rate of the first look, which `[decision]` alpha and max_looks give."""

    def seen(value: object, _folder: Path) -> object:
        config = replace(QUESTION, **{name: value})  # type: ignore[arg-type]  # a name from the table
        asked = {"question": "q", "model": "m", "rows": "h", "num_rows": 200}
        return next_look([], **asked, alpha=config.alpha, max_looks=config.max_looks).alpha  # type: ignore[arg-type]  # four plain arguments

    return seen


def value(name: str) -> Callable[[Any, Path], object]:
    def seen(number: float, _folder: Path) -> object:
        declared = replace(VALUE, **{name: number})
        costs = tuning_costs(
            declared, PriceConfig(machine_hour=60.0), tune_minutes=60.0, measuring=60.0, request_before=0.002,
            request_after=0.001,
        )  # fmt: skip
        return resolved_question(DecisionConfig(value=declared), costs).margin

    return seen


def guard(name: str) -> Callable[[Any, Path], object]:
    return lambda new, _folder: decided(QUESTION, replace(GUARD, **{name: new})).guards


# [price] and [budget]: ten minutes of the machine and one reply.


def price(name: str, **fixed: float) -> Callable[[Any, Path], object]:
    """What goes into the report, what a request costs, what ten minutes cost."""
    reply = Reply(text="", tokens_in=100, tokens_out=10, seconds=1.0)

    def seen(new: object, _folder: Path) -> object:
        config = replace(PriceConfig(), **{**fixed, name: new})  # type: ignore[arg-type]  # a name from the table
        row = label_row_cost(
            config, [Vote(row_id="a", annotator="ana", value="x", at="2026-03-01T09:30:00.000000Z", seconds=30.0)]
        )
        return price_entries(config), request_costs([reply], config), machine_cost(10, config), row

    return seen


def money(limit: float, _folder: Path) -> object:
    return outcome(lambda: require_affordable(10, BudgetConfig(money=limit), PriceConfig(machine_hour=1.0)))


def tuned(name: str, look: Callable[[TuneConfig], object]) -> Callable[[Any, Path], object]:
    return lambda new, _folder: outcome(lambda: look(replace(TuneConfig(), **{name: new})))


def ladder(config: TuneConfig) -> object:
    return tune_options(config.passes, config.depth, 12, 100)


def wordings(files: tuple[str, ...], folder: Path) -> object:
    for name in ("one.md", "two.md"):
        (folder / name).write_text(f"The rules of {name}.", encoding="utf-8")
    return read_wordings(folder, files, ["Be kind."])


def instruction(config: ArmConfig) -> object:
    return instruction_text(config, {"one": "# Our rules\nBe kind."})


def mode(new: str, _folder: Path) -> object:
    return parts(SplitConfig(holdout_rows=20, dev_rows=10, max_purge=0.5, generalise_to=new))  # type: ignore[arg-type]  # a name of the table
