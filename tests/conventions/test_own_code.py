"""`check = "python"`: the project's own function, checked before it runs, and told on when it fails."""

import pytest

from metier.core.errors import ConfigError, DataError
from tests.conventions.builders import convention, row


def own(tmp_path, body, function="own:score"):
    (tmp_path / "own.py").write_text(body)
    return convention("python", {"function": function}, tmp_path)


def test_a_function_scores_with_or_without_a_sentence(tmp_path):
    rule = own(
        tmp_path,
        "def score(row, text):\n    '''Be long.\n\n    More.'''\n    return 1 if len(text) > 5 else (0.25, 'Too short.')\n",
    )
    assert (rule.check(row(), "long enough").score, rule.check(row(), "long enough").why) == (1.0, "")
    assert (rule.check(row(), "no").score, rule.check(row(), "no").why) == (0.25, "Too short.")
    assert rule.guideline == "Be long."


def test_the_file_does_not_run_when_the_check_is_built(tmp_path):
    rule = own(
        tmp_path,
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\ndef score(row, text):\n    return True\n",
    )
    assert not (tmp_path / "ran").exists()
    assert rule.check(row(), "x").score == 1.0
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", ["float('nan')", "1.2", "-0.1", "None", "'1'", "float('inf')", "(1.5, 'no')", "()"])
def test_a_score_that_is_none_is_an_error_with_function_and_row(tmp_path, value):
    with pytest.raises(DataError) as err:
        own(tmp_path, f"def score(row, text):\n    return {value}\n").check(row(), "x")
    assert str(err.value).startswith("convention 'rule': own:score returned ")
    assert row().row_id in str(err.value)
    assert "expected a number from 0 to 1" in str(err.value)
    assert "no score was made up" in str(err.value)


def test_a_function_that_raises_is_told_with_its_line(tmp_path):
    with pytest.raises(
        DataError, match=r"own:score \(line 3\) raised ZeroDivisionError for t.jsonl:1 .*: division by zero"
    ):
        own(tmp_path, "def score(row, text):\n    n = 0\n    return 1 / n\n").check(row(), "x")


def test_a_file_that_raises_is_told(tmp_path):
    with pytest.raises(
        DataError, match=r"own.py \(line 1\) could not be run: ModuleNotFoundError: No module named 'nowhere_x'"
    ):
        own(tmp_path, "import nowhere_x\ndef score(row, text):\n    return 1\n").check(row(), "x")


def test_a_file_changed_in_between_is_refused(tmp_path):
    rule = own(tmp_path, "def score(row, text):\n    return 1\n")
    (tmp_path / "own.py").write_text("def score(row, text):\n    return 0\n")
    with pytest.raises(DataError, match="changed while own:score was in use"):
        rule.check(row(), "x")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("own", "expected module:function"),
        ("own:", "expected module:function"),
        ("..own:score", "expected module:function"),
        ("../own:score", "expected module:function"),
        ("os:getcwd", "is not a file of the project folder"),
        ("own:scoer", "defines no function 'scoer'; did you mean 'score'?"),
        ("broken:score", "is not Python"),
        ("empty:score", "it defines no functions"),
        ("linked:score", "is not a file of the project folder"),
    ],
)
def test_a_wrong_function_is_refused_when_built(tmp_path, function, message):
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "outside.py").write_text("def score(row, text):\n    return 1\n")
    (project / "linked.py").symlink_to(tmp_path / "outside.py")
    (project / "own.py").write_text("def score(row, text):\n    return 1\n")
    (project / "broken.py").write_text("def score(:\n")
    (project / "empty.py").write_text("")
    with pytest.raises(ConfigError) as err:
        convention("python", {"function": function}, project)
    assert message in str(err.value)
    assert "[[convention]] 'rule'" in str(err.value)


def test_two_projects_do_not_share_a_module(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    one = own(first, "def score(row, text):\n    return 1\n")
    two = own(second, "def score(row, text):\n    return 0\n")
    assert (one.check(row(), "x").score, two.check(row(), "x").score) == (1.0, 0.0)
