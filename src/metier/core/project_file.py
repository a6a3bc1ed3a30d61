"""`metier.toml` read into one frozen `ProjectConfig`, with `--set key=value` applied on top.

>>> parse_override("decision.margin=0.05")
(('decision', 'margin'), 0.05)
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from metier.core.arm_config import TUNED_KINDS, ArmConfig
from metier.core.config import Settings, nearest
from metier.core.errors import ConfigError
from metier.core.hashing import value_hash
from metier.core.ranges import distinct
from metier.core.settings import (
    MIN_HOLDOUT_GROUPS,
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
)
from metier.core.tune_config import DpoConfig, TuneConfig

__all__ = ["PROJECT_FILE", "ProjectConfig", "load_project_file", "parse_override"]

PROJECT_FILE = "metier.toml"
LATER = ("upkeep_per_month", "retrain_months")
"""Settings of a value that are no part of a question while they are 0."""
QUESTION_TABLES = ("split", "metric", "convention", "arm", "decision", "guard")
REQUIRED_TABLES = {
    "project": '[project]\nname = "my desk"',
    "data": '[data]\nfiles = ["rows.jsonl"]',
    "decision": "[decision]\nmargin = 0.05",
}
"""Every table without a default, as the shortest that is taken; together they are a project file."""
DEFAULT_ARMS = tuple(ArmConfig(kind=kind) for kind in ("prompt", "few_shot", "retrieval", "small", "tuned"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectConfig(Settings):
    """The whole project file."""

    project: ProjectTable
    """What this is, and where every random choice starts."""
    data: DataConfig
    """Which files hold the rows."""
    decision: DecisionConfig
    """When tuning counts as worth it."""
    base: BaseConfig = field(default_factory=BaseConfig)
    """The model that is prompted and tuned."""
    clean: CleanConfig = field(default_factory=CleanConfig)
    """What happens to rows that should not be trained on as they are."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """What the hold-out claims."""
    metric: MetricConfig = field(default_factory=MetricConfig)
    """The one score a row gets."""
    convention: tuple[ConventionConfig, ...] = ()
    """What a good reply obeys."""
    arm: tuple[ArmConfig, ...] = DEFAULT_ARMS
    """The alternatives under assessment."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    """Everything that changes the weights."""
    curve: CurveConfig = field(default_factory=CurveConfig)
    """Parts of the rows that are tuned as well, to see what more of them would bring."""
    guard: tuple[GuardConfig, ...] = ()
    """What must not get worse."""
    price: PriceConfig = field(default_factory=PriceConfig)
    """What things cost."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """What a run may use."""

    def __post_init__(self) -> None:
        for what, names in (
            ("convention", [c.name for c in self.convention]),
            ("arm", [a.name or a.kind for a in self.arm]),
            ("guard", [g.name for g in self.guard]),
        ):
            distinct(what, names, do="names must differ. Give one of them another name = '...'.")
        kinds = [a.kind for a in self.arm]
        if kinds.count("tuned") != 1:
            raise ConfigError(f"[[arm]] has {kinds.count('tuned')} arms of kind 'tuned'; expected exactly one.")
        if not set(kinds) - set(TUNED_KINDS):
            found = "only the tuned arm" if len(kinds) == 1 else "only arms that need the tuning"
            raise ConfigError(f"[[arm]] names {found}; add one to compare with, for example kind = 'prompt'.")
        if self.split.min_holdout_groups != MIN_HOLDOUT_GROUPS and not self.data.groups:
            raise ConfigError(
                f"[split] min_holdout_groups is {self.split.min_holdout_groups}, but [data] groups names no column; "
                "name it, or drop the setting."
            )
        if self.tune.objective == "dpo" and (self.tune.dpo or DpoConfig()).pairs == "mined" and not self.convention:
            raise ConfigError(
                "[tune] objective is 'dpo' with mined pairs, but there is no [[convention]] that a reply could break; "
                "add conventions, or set [tune.dpo] pairs = 'file'."
            )
        if self.budget.money and not self.price.machine_hour:
            raise ConfigError(
                f"[budget] money is {self.budget.money:g}, but [price] machine_hour is 0, so that no run costs "
                "anything; set the price, or drop the limit."
            )

    def question(self) -> dict[str, Any]:
        """The tables the verdict is about, as JSON values; hashed and frozen at split time."""
        values = {**asdict(self), "arm": [arm.as_question() for arm in self.arm]}
        if self.decision.value is not None:  # what stood before there was a choice keeps its hash
            values["decision"]["value"] = {
                name: amount for name, amount in values["decision"]["value"].items() if amount or name not in LATER
            }
        return {name: values[name] for name in QUESTION_TABLES}

    def question_hash(self) -> str:
        """SHA-256 of `question()`."""
        return value_hash(self.question())


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:  # Any: a TOML value
    """The path and TOML value in `table.key=value`; a value that is not TOML is taken as text.

    Raises:
        ConfigError: no `=`, or no table.
    """
    path, equals, value = text.partition("=")
    keys = tuple(part.strip() for part in path.split("."))
    if not equals or len(keys) < 2 or not all(keys):
        raise ConfigError(f"--set {text!r}: expected table.key=value, for example --set budget.minutes=5.")
    try:
        return keys, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, value.strip()


def load_project_file(project_dir: Path, overrides: Sequence[str] = ()) -> ProjectConfig:
    """The settings of the project in a folder.

    Raises:
        ConfigError: no file, not TOML, an unknown or missing setting, a value out of range, guidelines that are not
            there.
    """
    path = project_dir / PROJECT_FILE
    values = _toml(path)
    for override in overrides:
        _apply(values, *parse_override(override))
    config = ProjectConfig.from_mapping(_checked_tables(values, path.name), where=path.name)
    for name in config.project.guidelines:
        if not (project_dir / name).is_file():
            raise ConfigError(
                f"{path.name} [project] guidelines: there is no file {name!r} in {project_dir}; name a text file with "
                "the rules of a good reply."
            )
    return config


def _toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        ConfigError: no file, not UTF-8, not TOML.
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise ConfigError(
            f"{path}: not found. Go to a project folder, name one with -C DIR, or make one: "
            "metier init NAME --from support"
        ) from err
    except NotADirectoryError as err:
        raise ConfigError(
            f"{path.parent}: a file; expected the folder of a project. Name the folder: -C {path.parent.parent}"
        ) from err
    except OSError as err:
        raise ConfigError(f"{path}: cannot be read ({err.strerror or err}); expected a text file. Check it.") from err
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}: not UTF-8 (byte {err.start}). Save the file as UTF-8.") from err
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"{path}: not valid TOML: {err}. Correct that line.") from err
    return values


def _apply(values: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:  # Any: TOML values
    """Set one value of a nested mapping, making tables on the way."""
    table = values
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {'.'.join(keys)}: {key!r} is not a single table; edit the file instead.")
    table[keys[-1]] = value


def _checked_tables(values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The tables with each one's settings object, so that an error names the table it is in."""
    classes: dict[str, type[Settings]] = {
        "project": ProjectTable, "base": BaseConfig, "data": DataConfig, "clean": CleanConfig, "split": SplitConfig,
        "metric": MetricConfig, "tune": TuneConfig, "decision": DecisionConfig, "price": PriceConfig,
        "budget": BudgetConfig, "curve": CurveConfig,
    }  # fmt: skip
    lists: dict[str, type[Settings]] = {"convention": ConventionConfig, "arm": ArmConfig, "guard": GuardConfig}
    built: dict[str, Any] = {}
    for name, value in values.items():
        if name in classes and isinstance(value, Mapping):
            built[name] = classes[name].from_mapping(value, where=f"{where} [{name}]")
        elif name in lists and isinstance(value, list):
            built[name] = tuple(
                lists[name].from_mapping(item, where=f"{where} [[{name}]] {i + 1}") for i, item in enumerate(value)
            )
        elif name in classes or name in lists:
            form = f"[{name}]" if name in classes else f"[[{name}]]"
            raise ConfigError(f"{where}: {name!r} is not a table of the form {form}.")
        else:
            raise ConfigError(f"{where}: unknown table [{name}]; {nearest(name, [*classes, *lists])}")
    for name, example in REQUIRED_TABLES.items():
        if name not in built:
            indented = example.replace("\n", "\n  ")
            raise ConfigError(f"{where}: the table [{name}] is missing; add it, for example:\n  {indented}")
    return built
