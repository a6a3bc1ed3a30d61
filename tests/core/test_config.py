"""Settings refuse what they do not know, and every message says what to do."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from metier.core import ConfigError, settings
from metier.core.config import Settings, field_docs
from metier.core.project_file import ProjectConfig, load_project_file, parse_override
from metier.core.settings import ArmConfig, CleanConfig, DataConfig, DecisionConfig, SplitConfig, TuneConfig

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
        (MINIMAL + '[[convention]]\nname = "a"\ncheck = "exact"\n' * 2, "metier.toml: [[convention]] 'a' stands twice; names must differ."),
        (MINIMAL + '[convention]\nname = "a"\n', "metier.toml: 'convention' is not a table of the form [[convention]]."),
        ("[project\n", "not valid TOML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_the_fix(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, text)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


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
        (lambda: SplitConfig(stratify="label"), "stratify works only with"),
        (lambda: TuneConfig(rank=0), "rank is 0; expected 1 or more"),
        (lambda: TuneConfig(lr=1.0), "lr is 1.0"),
        (lambda: TuneConfig(depth=-1), "depth is -1"),
        (lambda: TuneConfig(method="full"), "method is 'full'; this version tunes adapters only: method = 'lora'."),
        (lambda: DecisionConfig(margin=0.1, plan_gain=0.1), "not above margin 0.1"),
        (lambda: DecisionConfig(margin=0.1, alpha=0.6), "alpha is 0.6"),
        (lambda: DecisionConfig(margin=0.1, max_looks=0), "max_looks is 0"),
    ],
)
def test_values_out_of_range_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]  # a lambda from the table


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArmConfig(kind="prompt", k=(1,)), "k is [1], but an arm of kind 'prompt' shows no examples; drop"),
        (lambda: ArmConfig(kind="tuned", k=(1,)), "k is [1], but an arm of kind 'tuned' shows no examples; drop"),
        (lambda: ArmConfig(kind="prompt", instruction="short"), "carries every wording of [project] guidelines in turn; drop"),
        (lambda: ArmConfig(kind="small", instruction="full"), "an arm of kind 'small' carries no instruction; drop"),
        (lambda: DataConfig(files=("a",), retired_policies=("v1",)), "retired_policies is ['v1'], but no column says"),
        (lambda: DecisionConfig(margin=0.1, limit=0.05), "limit is 0.05, but claim = 'better' accepts no loss; drop"),
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
        lambda: DecisionConfig(margin=0.1, limit=0.05, claim="as_good_for_less"),
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
