"""An arm that asks another model than the base: quality against size on the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier.core.arm_config import ArmConfig
from metier.core.errors import ConfigError
from metier.models import make_tiny_model
from metier.web.worth_words import size
from tests.road.running import change, copy_of, metier
from tests.road.small_project import LEAN, rows, write_project

OTHER = """[[arm]]
kind = "prompt"
name = "smaller"
base = "path:other"

"""
WITH_OTHER = LEAN.replace('[[arm]]\nkind = "tuned"\n', OTHER + '[[arm]]\nkind = "tuned"\n')


def write(folder: Path) -> Path:
    project = write_project(folder, text=WITH_OTHER)
    make_tiny_model(project / "other", texts=[row["ask"] for row in rows()], num_layers=1)
    return project


def test_another_model_is_asked_scored_and_told_with_its_size(tmp_path: Path) -> None:
    project = write(tmp_path / "p")
    assert OTHER in (project / "metier.toml").read_text()
    first = metier("run", "-C", project, "--json")
    assert first.code == 0, first.err
    arms = {arm["name"]: arm for arm in first.json["arms"]}
    assert (arms["smaller"]["status"], arms["smaller"]["base"], arms["prompt"]["base"]) == ("ran", "path:other", "")
    assert 0 < arms["smaller"]["num_weights"] < arms["prompt"]["num_weights"] == arms["tuned"]["num_weights"]
    assert arms["small"]["num_weights"] is None
    assert "smaller" in first.json["question"]["comparators"]
    page = (project / ".metier/report/index.html").read_text(encoding="utf-8")
    assert "path:other" in page and size(arms["smaller"]["num_weights"]) in page
    change(project, 'name = "small"', 'name = "renamed"')
    again = metier("run", "-C", project, "--json")
    assert again.json["arms"] == first.json["arms"], "nothing is asked again"
    assert metier("verify", "-C", project).code == 0
    retrained = copy_of(project, tmp_path / "retrained")
    make_tiny_model(retrained / "other", texts=[row["ask"] for row in rows()], num_layers=1, seed=7)
    changed = metier("run", "-C", retrained, "--json")
    assert changed.code == 0, changed.err
    assert changed.json["looks"]["used"] == 2, "other weights under the same name are another arm"


def test_an_arm_that_prompts_no_model_cannot_name_one() -> None:
    assert "base" not in ArmConfig(kind="prompt").as_question(), "a question of before keeps its hash"
    assert ArmConfig(kind="prompt", name="a", base="path:x").as_question()["base"] == "path:x"
    for kind in ("small", "tuned", "encoder"):
        with pytest.raises(ConfigError, match=f"an arm of kind '{kind}' asks no other model; drop the setting"):
            ArmConfig(kind=kind, base="path:x")  # type: ignore[arg-type]  # a kind of the list


@pytest.mark.parametrize(
    ("num", "text"), [(None, "\u2013"), (134_515_008, "135M"), (1_711_376_384, "1.71B"), (999, "999"), (2_400, "2.4k")]
)
def test_sizes_as_people_say_them(num: int | None, text: str) -> None:
    assert size(num) == text
