"""Settings refuse what they do not know, and every message says what to do."""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, fields
from pathlib import Path

import pytest

from metier.core import ConfigError, settings
from metier.core.arm_config import ArmConfig
from metier.core.config import Settings, field_docs
from metier.core.project_file import REQUIRED_TABLES, ProjectConfig, load_project_file, parse_override
from metier.core.settings import (
    BudgetConfig,
    CleanConfig,
    ConventionConfig,
    DataConfig,
    DecisionConfig,
    GuardConfig,
    PriceConfig,
    SplitConfig,
    ValueConfig,
)
from metier.core.tune_config import TuneConfig

MINIMAL = """
[project]
name = "p"
[data]
files = ["rows.jsonl"]
[decision]
margin = 0.05
"""


def project(tmp_path: Path, text: str = MINIMAL, *overrides: str) -> ProjectConfig:
    (tmp_path / "metier.toml").write_text(text, encoding="utf-8")
    return load_project_file(tmp_path, overrides)


def test_a_minimal_project_gets_all_five_arms(tmp_path: Path) -> None:
    config = project(tmp_path)
    assert [arm.kind for arm in config.arm] == ["prompt", "few_shot", "retrieval", "small", "tuned"]
    assert config.decision.margin == 0.05


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "[clean]\nnear_dupe = 0.9\n", "metier.toml [clean]: unknown setting 'near_dupe'; did you mean 'near_dup'?"),
        (MINIMAL + "[tunes]\nlr = 1\n", "metier.toml: unknown table [tunes]; did you mean 'tune'?"),
        (MINIMAL.replace("margin = 0.05", ""), "metier.toml [decision]: found neither of margin and value; give exactly one, for example margin = 0.05."),
        (MINIMAL.replace("margin = 0.05", "margin = 5"), "metier.toml [decision]: margin is 5.0; expected a number in [0, 1)."),
        (MINIMAL.replace("margin = 0.05", 'margin = "x"'), "metier.toml [decision] margin is 'x', a str; expected float."),
        (MINIMAL.replace("files", "file"), "metier.toml [data]: unknown setting 'file'; did you mean 'files'?"),
        (MINIMAL + '[split]\ngeneralise_to = "late"\n', "metier.toml [split] generalise_to is 'late'; did you mean 'later'?"),
        (MINIMAL + "[split]\nholdout_rows = 3\n", "metier.toml [split]: holdout_rows is 3 and dev_rows is 100; expected at least 10 each."),
        (MINIMAL + "[split]\nholdout_rows = true\n", "metier.toml [split] holdout_rows is True, a bool; expected int."),
        (MINIMAL + '[[arm]]\nkind = "tuned"\n', "metier.toml: [[arm]] names only the tuned arm; add one to compare with, for example kind = 'prompt'."),
        (MINIMAL + '[[arm]]\nkind = "prompt"\n', "metier.toml: [[arm]] has 0 arms of kind 'tuned'; expected exactly one."),
        (MINIMAL + '[[convention]]\nname = "a"\ncheck = "exact"\n' * 2, "metier.toml: [[convention]] 1 and 2 are both named 'a'; names must differ. Give one of them another name"),
        (MINIMAL + '[convention]\nname = "a"\n', "metier.toml: 'convention' is not a table of the form [[convention]]."),
        (MINIMAL + '[[arm]]\nkind = "prompt"\n[[arm]]\nkind = "tuned"\n[[arm]]\nkind = "prompt"\n', "[[arm]] 1 and 3 are both named 'prompt'; names must differ."),
        (MINIMAL + '[[guard]]\nname = "g"\non = "metric"\nlimit = 0.1\n' * 2, "[[guard]] 1 and 2 are both named 'g'; names must differ."),
        (MINIMAL + "[budget]\nminutes = inf\n", "metier.toml [budget] minutes is inf; expected a finite number."),
        (MINIMAL + "[budget]\nminutes = nan\n", "metier.toml [budget] minutes is nan; expected a finite number."),
        (MINIMAL + f"[budget]\nminutes = 1{'0' * 400}\n", "metier.toml [budget] minutes is inf; expected a finite number."),
        (MINIMAL + "[tune]\nweight_decay = nan\n", "metier.toml [tune] weight_decay is nan; expected a finite number."),
        (MINIMAL + '[[convention]]\nname = "a"\ncheck = "exact"\nargs = { min = [1.0, nan] }\n', "[[convention]] 1 args.min is nan; expected a finite number."),
        (MINIMAL + '[[convention]]\nname = "a"\ncheck = "exact"\nargs = { any = { day = 2026-11-23 } }\n', "[[convention]] 1 args.any.day is 2026-11-23, a date; expected text. Put it in quotes."),
        (MINIMAL + "[price]\ndate = 2026-11-23\n", "a date; expected str. Put it in quotes."),
        (MINIMAL + '[price]\nlabel_hour = 0.5\n', "metier.toml [price]: unknown setting 'label_hour'"),
        (MINIMAL + "[split]\ngeneralise_to = 'new_groups'\nmin_holdout_groups = 5\n", "metier.toml: [split] min_holdout_groups is 5, but [data] groups names no column; name it, or drop the setting."),
        ("[project\n", "not valid TOML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_the_fix(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, text)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("table", REQUIRED_TABLES)
def test_a_missing_table_is_named_with_an_example_that_is_taken(tmp_path: Path, table: str) -> None:
    without = "\n".join(example for name, example in REQUIRED_TABLES.items() if name != table)
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, without)
    head, example = str(caught.value).split("\n", 1)
    assert head == f"metier.toml: the table [{table}] is missing; add it, for example:"
    assert project(tmp_path, f"{without}\n{example}") == project(tmp_path, "\n".join(REQUIRED_TABLES.values()))


def test_every_table_without_a_default_has_an_example() -> None:
    required = [f.name for f in fields(ProjectConfig) if f.default is MISSING and f.default_factory is MISSING]
    assert list(REQUIRED_TABLES) == required


def test_guidelines_that_are_not_there_are_refused_at_load(tmp_path: Path) -> None:
    text = MINIMAL.replace('name = "p"', 'name = "p"\nguidelines = ["nope.md"]')
    with pytest.raises(
        ConfigError, match=r"metier.toml \[project\] guidelines: there is no file 'nope.md' in .*; name a"
    ):
        project(tmp_path, text)
    (tmp_path / "nope.md").write_text("Be kind.")
    assert project(tmp_path, text).project.guidelines == ("nope.md",)


def test_a_file_in_place_of_the_project_folder_is_named(tmp_path: Path) -> None:
    project(tmp_path)
    with pytest.raises(
        ConfigError, match=r"metier.toml: a file; expected the folder of a project. Name the folder: -C"
    ):
        load_project_file(tmp_path / "metier.toml")


def test_a_folder_in_place_of_the_project_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "metier.toml").mkdir()
    with pytest.raises(ConfigError, match=r"metier.toml: cannot be read \(Is a directory\); expected a text file."):
        load_project_file(tmp_path)


def test_a_missing_setting_is_named_with_its_meaning(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"\[project\]: 'name' is missing; add it \(Name of the project, shown in reports.\)"
    ):
        project(tmp_path, MINIMAL.replace('name = "p"', ""))


def test_no_project_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"not found. Go to a project folder, name one with -C DIR, or make one: metier init NAME"
    ):
        load_project_file(tmp_path)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "metier.toml").write_bytes(b"[project]\nname = '\xff'\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_project_file(tmp_path)


def test_overrides_reach_their_setting(tmp_path: Path) -> None:
    config = project(tmp_path, MINIMAL, "budget.minutes=5", "base.name=tiny", "clean.private=keep")
    assert (config.budget.minutes, config.base.name, config.clean.private) == (5.0, "tiny", "keep")


@pytest.mark.parametrize("text", ["minutes=5", "budget.minutes", "budget.=5", "=5"])
def test_an_override_without_table_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected table.key=value"):
        parse_override(text)


def test_an_override_cannot_reach_into_a_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a single table; edit the file instead"):
        project(tmp_path, MINIMAL + '[[arm]]\nkind = "tuned"\n', "arm.kind=prompt")


def test_the_question_changes_with_its_tables_only(tmp_path: Path) -> None:
    base = project(tmp_path).question_hash()
    assert project(tmp_path, MINIMAL, "tune.rank=4").question_hash() == base
    assert project(tmp_path, MINIMAL, "decision.alpha=0.01").question_hash() != base
    assert project(tmp_path, MINIMAL, "split.dev_rows=50").question_hash() != base


@pytest.mark.parametrize("name", settings.__all__)
def test_every_setting_says_what_it_does(name: str) -> None:
    cls = getattr(settings, name)
    docs = field_docs(cls)
    assert issubclass(cls, Settings)
    assert [f.name for f in fields(cls)] == list(docs)
    assert all(text.endswith(".") for text in docs.values())


def test_settings_never_change() -> None:
    with pytest.raises(FrozenInstanceError):
        CleanConfig().near_dup = 0.5  # type: ignore[misc]  # the assignment is what is tested


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CleanConfig(near_dup=0), "near_dup is 0"),
        (lambda: CleanConfig(min_reply_words=-5), "min_reply_words is -5; expected 1 or more."),
        (lambda: CleanConfig(min_reply_words=9, max_reply_words=5), "max_reply_words is 5, below min_reply_words 9"),
        (lambda: SplitConfig(min_holdout_groups=0, generalise_to="new_groups"), "min_holdout_groups is 0; expected 1"),
        (lambda: ConventionConfig(name="a", check="exact", weight=0.0), "weight is 0.0; expected more than 0."),
        (
            lambda: ArmConfig(kind="few_shot", k=(0,)),
            r"k is \[0\]; expected 1 or more examples each. Add an arm of kind",
        ),
        (lambda: ArmConfig(kind="retrieval", k=(3, -1)), r"k is \[3, -1\]; expected 1 or more examples each."),
        (lambda: TuneConfig(alpha=0.0), "alpha is 0.0; expected more than 0."),
        (lambda: ValueConfig(worth=0.0, requests_per_month=1.0), "worth is 0.0; expected more than 0."),
        (lambda: ValueConfig(worth=1.0, requests_per_month=-1.0), "requests_per_month is -1.0; expected more than 0."),
        (lambda: ValueConfig(worth=1.0, requests_per_month=1.0, horizon_months=0.0), "horizon_months is 0.0; expected"),
        (lambda: DecisionConfig(margin=0.1, plan_gain=3.0), r"plan_gain is 3.0; expected a number in \(0, 1\]."),
        (lambda: DecisionConfig(margin=0.1, max_holdout_rows=-5), "max_holdout_rows is -5; expected 10 or more."),
        (lambda: PriceConfig(machine_hour=-1.0), "machine_hour is -1.0; expected 0 or more."),
        (lambda: PriceConfig(token_in=-1.0), "token_in is -1.0; expected 0 or more."),
        (lambda: PriceConfig(token_out=-1.0), "token_out is -1.0; expected 0 or more."),
        (lambda: PriceConfig(date="yesterday"), "date is 'yesterday'; expected a day, as 2026-11-23, or nothing."),
        (lambda: PriceConfig(date="20261123"), "date is '20261123'; expected a day, as 2026-11-23, or nothing."),
        (lambda: PriceConfig(date="2026-02-30"), "date is '2026-02-30'; expected a day, as 2026-11-23, or nothing."),
        (lambda: BudgetConfig(minutes=0.0), "minutes is 0.0; expected more than 0."),
        (lambda: BudgetConfig(money=-1.0), "money is -1.0; expected 0 or more."),
        (lambda: BudgetConfig(memory_gib=-1.0), "memory_gib is -1.0; expected 0 or more."),
        (lambda: SplitConfig(stratify="label"), "stratify works only with"),
        (lambda: TuneConfig(rank=0), "rank is 0; expected 1 or more"),
        (lambda: TuneConfig(lr=1.0), "lr is 1.0"),
        (lambda: TuneConfig(depth=-1), "depth is -1"),
        (lambda: DecisionConfig(margin=0.1, plan_gain=0.1), "not above margin 0.1"),
        (lambda: DecisionConfig(margin=0.1, alpha=0.6), "alpha is 0.6"),
        (lambda: DecisionConfig(margin=0.1, max_looks=0), "max_looks is 0"),
    ],
)
def test_values_out_of_range_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]  # a lambda from the table


NAMED = {
    "arm": lambda name: ArmConfig(kind="prompt", name=name),
    "convention": lambda name: ConventionConfig(name=name, check="exact"),
    "guard": lambda name: GuardConfig(name=name, on="metric", limit=0.1),
}


@pytest.mark.parametrize("what", NAMED)
@pytest.mark.parametrize("name", ["../../../evil", "a/b", "a\\b", "a\nb", ".hidden", "..", " ", "x" * 81, "a "])
def test_a_name_that_could_leave_its_folder_is_refused(what: str, name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"name is .*; expected 1 to 80 letters, digits, spaces, '_', '.' or '-', with"
    ):
        NAMED[what](name)


@pytest.mark.parametrize("what", NAMED)
@pytest.mark.parametrize("name", ["tickets from the isles", "no_promised-dates", "v1.2", "Gr\u00fc\u00dfe"])
def test_a_plain_name_is_taken(what: str, name: str) -> None:
    assert NAMED[what](name).name == name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArmConfig(kind="prompt", k=(1,)), "k is [1], but an arm of kind 'prompt' shows no examples; drop"),
        (lambda: ArmConfig(kind="tuned", k=(1,)), "k is [1], but an arm of kind 'tuned' shows no examples; drop"),
        (lambda: ArmConfig(kind="prompt", instruction="short"), "carries every wording of [project] guidelines in turn; drop"),
        (lambda: ArmConfig(kind="small", instruction="full"), "an arm of kind 'small' carries no instruction; drop"),
        (lambda: DataConfig(files=("a",), retired_policies=("v1",)), "retired_policies is ['v1'], but no column says"),
        (lambda: DecisionConfig(margin=0.1, limit=0.05), "limit is 0.05, but claim = 'better' accepts no loss; drop"),
        (lambda: DecisionConfig(margin=0.0, claim="as_good_for_less"), "margin is 0.0, but claim = 'as_good_for_less' asks for no gain"),
        (lambda: SplitConfig(min_holdout_groups=5), "min_holdout_groups is 5, but generalise_to = 'later' claims nothing"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_take_effect_beside_another_is_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()  # type: ignore[operator]  # a lambda from the table
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ArmConfig(kind="few_shot", k=(1,), instruction="short"),
        lambda: ArmConfig(kind="retrieval", k=(1,), instruction="none"),
        lambda: ArmConfig(kind="tuned", instruction="full"),
        lambda: DataConfig(files=("a",), policy="version", retired_policies=("v1",)),
        lambda: DecisionConfig(limit=0.05, claim="as_good_for_less"),
        lambda: DecisionConfig(value=ValueConfig(worth=1, requests_per_month=9), claim="as_good_for_less"),
        lambda: SplitConfig(min_holdout_groups=5, generalise_to="new_groups"),
    ],
)
def test_the_same_setting_is_taken_where_it_takes_effect(make: object) -> None:
    assert isinstance(make(), Settings)  # type: ignore[operator]  # a lambda from the table


def test_a_limit_of_money_needs_a_price_that_costs_something(tmp_path: Path) -> None:
    assert project(tmp_path, MINIMAL, "budget.money=5").budget.money == 5
    with pytest.raises(
        ConfigError, match=r"\[budget\] money is 5, but \[price\] machine_hour is 0, so that no run costs"
    ):
        project(tmp_path, MINIMAL, "budget.money=5", "price.machine_hour=0")
