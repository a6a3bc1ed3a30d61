"""Every setting changes something observable: a walk over all of them, none left out.

Each field of each settings class stands in one of two tables. `SHOWN`: two values and a look at what they change,
computed here without a model. `PROVEN`: the test that shows the change in a run; that it exists is asserted here, what
it asserts is its own claim. A new setting fails `test_the_tables_hold_every_setting_once` until it has a place.
"""

from __future__ import annotations

import ast
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from metier.assess import resolved_question
from metier.core.arm_config import ArmConfig, EndpointConfig
from metier.core.config import Settings
from metier.core.project_file import ProjectConfig
from metier.core.settings import (
    BaseConfig,
    BudgetConfig,
    CleanConfig,
    ConventionConfig,
    CurveConfig,
    DataConfig,
    DecisionConfig,
    GuardConfig,
    MetricConfig,
    PriceConfig,
    ProjectTable,
    SplitConfig,
    ValueConfig,
)
from metier.core.tune_config import DpoConfig, TuneConfig
from metier.models.sources import find_source
from metier.road.trials import arm_name
from metier.tune.schedule import lr_at, step_tokens_of
from tests.core.looks import (
    BASE,
    COMMIT,
    COSTS,
    LATER,
    SPLIT,
    VALUE,
    Shown,
    claimed,
    clean,
    convention,
    curated,
    data,
    decision,
    guard,
    instruction,
    ladder,
    ledger_place,
    look_of,
    metas,
    metric_name,
    mode,
    money,
    outcome,
    parts,
    pass_mark,
    price,
    split,
    texts,
    tuned,
    value,
    wordings,
)
from tests.core.settings_read import TABLES, settings_read

ROOT = Path(__file__).resolve().parents[2]
FOUR_GROUPS = replace(SPLIT, max_purge=0.5)

SHOWN: dict[tuple[type[Settings], str], Shown] = {
    (ProjectTable, "seed"): Shown(0, 1, lambda seed, _: parts(FOUR_GROUPS, seed=seed)),
    (ProjectTable, "ledger"): Shown("", "mysql://db/metier", ledger_place),
    (ProjectTable, "guidelines"): Shown(("one.md",), ("two.md",), wordings),
    (BaseConfig, "name"): Shown("tiny", "smollm2-135m-instruct", lambda name, _: find_source(name).text),
    (BaseConfig, "revision"): Shown(
        COMMIT, "main", lambda revision, _: outcome(lambda: find_source("hub:a/b", revision=revision).text)
    ),
    (DataConfig, "files"): Shown(("a.jsonl",), ("b.jsonl",), data("files", metas("source"))),
    (DataConfig, "format"): Shown("auto", "openai_chat", data("format", texts)),
    (DataConfig, "columns"): Shown(BASE.columns, {"prompt": "ask", "reply": "other"}, data("columns", texts)),
    (DataConfig, "subject"): Shown((), ("who",), data("subject", texts)),
    (DataConfig, "groups"): Shown((), ("customer",), data("groups", metas("groups"))),
    (DataConfig, "time"): Shown("", "day", data("time", metas("collected_at"))),
    (DataConfig, "expires"): Shown("", "until", data("expires", lambda result: result.reasons)),
    (DataConfig, "attributes"): Shown((), ("region",), data("attributes", metas("attributes"))),
    (DataConfig, "policy"): Shown("", "version", data("policy", metas("policy_version"))),
    (DataConfig, "retired_policies"): Shown(
        (), ("v1",), data("retired_policies", lambda result: result.reasons, policy="version")
    ),
    (DataConfig, "licence"): Shown("", "MIT", data("licence", metas("licence"))),
    (DataConfig, "allowed_licences"): Shown((), ("MIT",), data("allowed_licences", texts)),
    (DataConfig, "unknown_consent"): Shown("kept", "denied", data("unknown_consent", texts)),
    (DataConfig, "consent_default"): Shown("unknown", "denied", data("consent_default", texts)),
    (CleanConfig, "near_dup"): Shown(1.0, 0.6, clean("near_dup")),
    (CleanConfig, "private"): Shown("replace", "keep", clean("private")),
    (CleanConfig, "max_drop_per_class"): Shown(
        0.5, 0.05, lambda share, folder: curated(folder, clean=CleanConfig(max_drop_per_class=share), expires="until")
    ),
    (CleanConfig, "min_reply_words"): Shown(1, 9, clean("min_reply_words")),
    (CleanConfig, "max_reply_words"): Shown(1000, 11, clean("max_reply_words")),
    (SplitConfig, "generalise_to"): Shown("later", "new_groups", mode),
    (SplitConfig, "holdout_rows"): Shown(20, 30, split("holdout_rows", FOUR_GROUPS)),
    (SplitConfig, "dev_rows"): Shown(10, 20, split("dev_rows", FOUR_GROUPS)),
    (SplitConfig, "max_purge"): Shown(0.5, 0.0, split("max_purge", LATER)),
    (SplitConfig, "min_holdout_groups"): Shown(3, 30, split("min_holdout_groups", FOUR_GROUPS)),
    (SplitConfig, "holdout_files"): Shown((), ("test.jsonl",), split("holdout_files", FOUR_GROUPS)),
    (SplitConfig, "stratify"): Shown("", "region", split("stratify", FOUR_GROUPS)),
    (MetricConfig, "name"): Shown("mean", "all_pass", metric_name),
    (MetricConfig, "pass_mark"): Shown(0.5, 0.6, pass_mark),
    (ConventionConfig, "name"): Shown("number", "ticket", convention("name")),
    (ConventionConfig, "check"): Shown("starts_with", "ends_with", convention("check", args={"any": ["Hello"]})),
    (ConventionConfig, "args"): Shown({"from_prompt": r"T-\d+"}, {"all": ["you"]}, convention("args")),
    (ConventionConfig, "weight"): Shown(1.0, 3.0, convention("weight")),
    (ConventionConfig, "row_specific"): Shown(True, False, convention("row_specific", prompt="no number")),
    (ArmConfig, "kind"): Shown("few_shot", "tuned", lambda kind, _: instruction(ArmConfig(kind=kind))),
    (ArmConfig, "name"): Shown("", "mine", lambda name, _: arm_name(ArmConfig(kind="prompt", name=name))),
    (ArmConfig, "instruction"): Shown(
        "full", "short", lambda text, _: instruction(ArmConfig(kind="tuned", instruction=text))
    ),
    (TuneConfig, "method"): Shown("lora", "full", tuned("method", lambda config: config.method)),
    (TuneConfig, "depth"): Shown(0, 3, tuned("depth", ladder)),
    (TuneConfig, "passes"): Shown(0.0, 1.0, tuned("passes", ladder)),
    (TuneConfig, "step_tokens"): Shown(0, 600, tuned("step_tokens", lambda config: step_tokens_of(config, 10**5))),
    (TuneConfig, "warmup_ratio"): Shown(
        0.06, 0.5, tuned("warmup_ratio", lambda c: lr_at(9, num_steps=50, peak=1.0, warmup_ratio=c.warmup_ratio))
    ),
    (DecisionConfig, "margin"): Shown(0.05, 0.2, decision("margin", lambda found: found.verdict)),
    (DecisionConfig, "value"): Shown(
        VALUE, None,
        lambda new, _: resolved_question(DecisionConfig(value=new, margin=None if new else 0.05), COSTS).margin,
    ),
    (DecisionConfig, "claim"): Shown("better", "as_good_for_less", claimed),
    (DecisionConfig, "limit"): Shown(
        0.01, 0.1, decision("limit", lambda found: found.margin, claim="as_good_for_less", margin=None)
    ),
    (DecisionConfig, "alpha"): Shown(0.05, 0.01, look_of("alpha")),
    (DecisionConfig, "plan_gain"): Shown(0.2, 0.3, decision("plan_gain", lambda found: found.rows_needed)),
    (DecisionConfig, "max_looks"): Shown(3, 1, look_of("max_looks")),
    (DecisionConfig, "max_holdout_rows"): Shown(
        2000, 10, decision("max_holdout_rows", lambda found: found.rows_needed, margin=0.09)
    ),
    (ValueConfig, "worth"): Shown(0.5, 5.0, value("worth")),
    (ValueConfig, "requests_per_month"): Shown(1000.0, 50.0, value("requests_per_month")),
    (ValueConfig, "horizon_months"): Shown(12.0, 1.0, value("horizon_months")),
    (ValueConfig, "upkeep_per_month"): Shown(0.0, 100.0, value("upkeep_per_month")),
    (ValueConfig, "retrain_months"): Shown(0.0, 2.0, value("retrain_months")),
    (GuardConfig, "name"): Shown("polite", "kind", guard("name")),
    (GuardConfig, "limit"): Shown(0.0, 0.5, guard("limit")),
    (GuardConfig, "required"): Shown(True, False, guard("required")),
    (PriceConfig, "currency"): Shown("USD", "GBP", price("currency")),
    (PriceConfig, "machine_hour"): Shown(0.1, 1.0, price("machine_hour")),
    (PriceConfig, "token_in"): Shown(0.0, 1.0, price("token_in")),
    (PriceConfig, "token_out"): Shown(0.0, 1.0, price("token_out")),
    (PriceConfig, "label_minute"): Shown(0.0, 1.0, price("label_minute")),
    (PriceConfig, "row_minutes"): Shown(1.0, 3.0, price("row_minutes", label_minute=0.5)),
    (PriceConfig, "date"): Shown("", "2026-11-23", price("date")),
    (PriceConfig, "source"): Shown("assumed", "a price list", price("source")),
    (BudgetConfig, "money"): Shown(0.0, 0.1, money),
}  # fmt: skip

RUN, TUNE = "tests/road/test_settings_reach_the_run.py", "tests/tune/test_settings.py"
RUN_BY = (
    "targets",
    "rank",
    "alpha",
    "lr",
    "max_row_tokens",
    "weight_decay",
    "max_grad_norm",
    "evals",
    "product_dtype",
    "layout",
    "checkpointing",
    "trunk_gib",
    "patience",
    "objective",
    "processes",
    "device",
    "base_bits",
    "optimizer",
    "dpo",
)
LEARNED_BY = ("loss", "beta", "label_smoothing", "length_normalised", "lr", "passes")
PROVEN: dict[tuple[type[Settings], str], str] = {
    (ProjectTable, "name"): f"{RUN}::test_the_report_carries_the_name_of_the_project",
    (
        ArmConfig,
        "near",
    ): "tests/arms/test_meaning.py::test_the_nearest_rows_by_meaning_are_those_a_person_would_name_and_are_restored",
    (ArmConfig, "base"): "tests/road/test_other_bases.py::test_another_model_is_asked_scored_and_told_with_its_size",
    (ArmConfig, "endpoint"): "tests/road/test_endpoint_arm.py::test_a_bought_model_is_an_arm_like_the_others",
    **{
        (EndpointConfig, f.name): "tests/arms/test_endpoint.py::test_another_value_asks_pays_or_waits_otherwise"
        for f in fields(EndpointConfig)
    },
    (
        CurveConfig,
        "fractions",
    ): "tests/road/test_curve.py::test_a_second_run_tunes_no_part_again_and_one_chain_is_one_of_the_two",
    (
        CurveConfig,
        "chains",
    ): "tests/road/test_curve.py::test_a_second_run_tunes_no_part_again_and_one_chain_is_one_of_the_two",
    (ArmConfig, "k"): f"{RUN}::test_an_arm_tries_the_numbers_of_examples_it_was_given",
    **{
        (table, name): f"{TUNE}::test_another_value_is_another_run"
        for table, names in ((TuneConfig, RUN_BY), (DpoConfig, LEARNED_BY))
        for name in names
    },
    **{
        (DpoConfig, name): f"{TUNE}::test_another_value_draws_other_pairs"
        for name in ("pairs", "samples", "temperature")
    },
    (GuardConfig, "on"): "tests/road/test_kinds_of_project.py::test_a_guard_on_a_slice_watches_its_rows_alone",
    (BudgetConfig, "minutes"): "tests/road/test_evidence.py::test_a_run_that_is_refused_by_its_budget_freezes_nothing",
    (BudgetConfig, "memory_gib"): f"{RUN}::test_a_run_that_needs_more_memory_than_its_budget_is_refused",
}


def every_setting() -> set[tuple[type[Settings], str]]:
    """(class, field) of everything a project file can hold, the tables themselves left out."""
    return {(cls, name) for cls, held in TABLES.items() if cls is not ProjectConfig for name in held}


def test_the_tables_hold_every_setting_once() -> None:
    names = {(cls, f.name) for cls, _ in every_setting() for f in fields(cls)}
    assert names == every_setting()
    assert {*SHOWN, *PROVEN} == names
    assert not SHOWN.keys() & PROVEN.keys()


@pytest.mark.parametrize("setting", SHOWN, ids=lambda setting: f"{setting[0].__name__}.{setting[1]}")
def test_another_value_changes_what_is_seen_and_the_same_value_does_not(
    setting: tuple[type[Settings], str], tmp_path: Path
) -> None:
    shown = SHOWN[setting]
    first = shown.look(shown.one, tmp_path)
    assert shown.look(shown.one, tmp_path) == first
    assert shown.look(shown.other, tmp_path) != first


def test_every_setting_is_read_by_the_code_that_is_run() -> None:
    # What a look shows is worth nothing where no room reads the setting: `[price] label_minute` was such a one.
    # `core` only checks them when they are built; a migration's `config` is not ours.
    paths = [path for path in (ROOT / "src" / "metier").rglob("*.py") if path.parent.name not in ("core", "migrations")]
    read = settings_read({str(path): path.read_text(encoding="utf-8") for path in paths})
    assert every_setting() - read == set()


@pytest.mark.parametrize(
    ("body", "is_read"),
    [
        ("def f(config: TuneConfig): return config.lr", True),
        ("def f(session): return session.config.tune.lr", True),
        ("def f(session):\n    tune = session.config.tune\n    return replace(tune, rank=1).lr", True),
        (
            "class A:\n    def __init__(self, config: TuneConfig): self.held = config\n    def f(self): self.held.lr",
            True,
        ),
        ("def f(config: TuneConfig | None, other): return other.lr", False),
        ("def f(config: TuneConfig, other): return config.rank, other.lr", False),
        ("def f(session): return session.lr, session.tune.plan.lr", False),
        ("def f(config: PriceConfig): return config.lr", False),
    ],
)
def test_a_setting_is_read_where_its_table_is_known_and_not_where_a_name_is_alike(body: str, is_read: bool) -> None:
    session = "class Session:\n    config: ProjectConfig\n"
    assert ((TuneConfig, "lr") in settings_read({"session.py": session, "f.py": body})) == is_read


def said_by(path: Path, name: str) -> str:
    """The source of a test function and of the constants of its file that it names, in turn."""
    text = path.read_text(encoding="utf-8")
    source: dict[str, str] = {}
    for node in ast.parse(text).body:
        parts = [*node.decorator_list, node] if isinstance(node, ast.FunctionDef) else [node]
        names = [node.name] if isinstance(node, ast.FunctionDef) else [ast.unparse(each) for each in targets_of(node)]
        source |= dict.fromkeys(names, "\n".join(ast.get_source_segment(text, part) or "" for part in parts))
    said = source[name]
    for _ in range(3):
        said = "\n".join([source[name], *(source[each] for each in source if each.isupper() and in_words(each, said))])
    return said


def targets_of(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def in_words(name: str, text: str) -> bool:
    return re.search(rf"\b{name}\b", text) is not None


@pytest.mark.parametrize("setting", PROVEN, ids=lambda setting: f"{setting[0].__name__}.{setting[1]}")
def test_the_test_that_proves_a_setting_exists_and_speaks_of_it(setting: tuple[type[Settings], str]) -> None:
    (cls, field), (file, name) = setting, PROVEN[setting].split("::")
    table = next(table for held in TABLES.values() for table, kinds in held.items() if cls in kinds)
    forms = (rf"\b{table}\.{field}\b", rf"\b{field} = ", rf'"{field}": ')
    assert any(re.search(form, said_by(ROOT / file, name)) for form in forms), f"{name} does not speak of {field}"
