from pathlib import Path

import pytest

from metier.arms import read_wordings, short_instruction
from metier.core.errors import ConfigError

RULES = ["It greets.", "It is short."]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in "abcd":
        (tmp_path / name).write_text(f"# Guide {name}\n\nBe kind.\n")
    (tmp_path / "empty").write_text(" \n")
    return tmp_path


@pytest.mark.parametrize(
    ("files", "rules"), [([], RULES), (["a"], []), (["a"], RULES), (["a", "b"], RULES), (["a", "b"], [])]
)
def test_there_are_three_different_wordings(project: Path, files: list[str], rules: list[str]) -> None:
    wordings = read_wordings(project, files, rules)
    assert len(wordings) == len(set(wordings.values())) == 3
    assert list(wordings)[: len(files)] == files


def test_own_wordings_are_all_kept_and_none_is_built_beside_three(project: Path) -> None:
    assert list(read_wordings(project, ["a", "b", "c", "d"], RULES)) == ["a", "b", "c", "d"]


def test_built_wordings_hold_the_guidelines_and_every_rule_or_the_guidelines_alone(project: Path) -> None:
    built = read_wordings(project, ["a"], RULES)
    assert all("Be kind." in text for text in built.values())
    assert "1. It greets.\n2. It is short." in built["checklist"]
    assert built["rules first"].index("It greets.") < built["rules first"].index("Be kind.")
    assert all("It greets." in text for text in read_wordings(project, [], RULES).values())


def test_neither_guidelines_nor_rules_give_no_wording(project: Path) -> None:
    assert read_wordings(project, [], []) == {}


@pytest.mark.parametrize(("name", "found"), [("gone", "was not found"), ("empty", "is empty")])
def test_a_missing_or_empty_file_is_an_error(project: Path, name: str, found: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"\[project\] guidelines: .*{name} {found}; name a text file with the rules"
    ):
        read_wordings(project, ["a", name], RULES)


def test_the_short_instruction_is_the_first_line_without_its_marks(project: Path) -> None:
    assert short_instruction(read_wordings(project, ["b"], [])) == "Guide b"
    assert short_instruction({}) is None
