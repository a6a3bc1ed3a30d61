"""The code that grades replies is named by its hash, with every file of the project it imports."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from metier.core.project_file import load_project_file
from metier.road.grading_code import files_imported
from metier.road.ground import read_and_check
from metier.road.run import open_session
from tests.road.small_project import LEAN, write_project

OWN = LEAN.replace(
    '[[convention]]\nname = "greeting"',
    '[[convention]]\nname = "signed"\ncheck = "python"\nargs = { function = "rules:signed" }\n\n'
    '[[convention]]\nname = "greeting"',
)
RULE = '''
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from ending_of_a_test import MARK


def signed(row, text):
    """End with a full stop."""
    return 1.0 if text.endswith(MARK) else 0.0
'''


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def names(folder: Path, *modules: str) -> list[str]:
    return [path.relative_to(folder.resolve()).as_posix() for path in files_imported(folder, modules)]


def ground_of(project: Path) -> tuple[str, str]:
    """Hashes of the first stage and of the question."""
    with open_session(project, load_project_file(project), what="test") as session:
        read_and_check(session)
        return session.stages["ground"].hash, session.question_hash


def test_a_helper_edited_between_two_runs_is_another_stage_and_another_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    project = write_files(
        write_project(tmp_path / "project", text=OWN), {"rules.py": RULE, "ending_of_a_test.py": 'MARK = "."\n'}
    )
    first = ground_of(project)
    assert ground_of(project) == first
    (project / "ending_of_a_test.py").write_text('MARK = "."  # a full stop\n', encoding="utf-8")
    stage, question = ground_of(project)
    assert stage != first[0] and question != first[1]


def test_every_form_of_import_is_followed_and_files_nobody_imports_are_not(tmp_path: Path) -> None:
    files = {
        "rules.py": "import json\nimport pack.deep.one, plain\nfrom pack import two\n",
        "plain.py": "def f():\n    from lazy import *\n",
        "lazy.py": "import rules\n",
        "pack/__init__.py": "",
        "pack/two.py": "from . import three\nfrom .deep import four\n",
        "pack/three.py": "",
        "pack/deep/__init__.py": "",
        "pack/deep/one.py": "from ..five import LIMIT\nimport six\n",
        "pack/deep/four.py": "",
        "pack/five.py": "LIMIT = 3\n",
        "six.py": "not Python (",
        "unused.py": "import rules\n",
    }
    assert names(write_files(tmp_path, files), "rules") == sorted(set(files) - {"unused.py"})


def test_a_file_outside_the_project_is_not_of_the_project(tmp_path: Path) -> None:
    write_files(tmp_path, {"outside.py": "", "project/rules.py": "import outside\nimport linked\n"})
    (tmp_path / "project/linked.py").symlink_to(tmp_path / "outside.py")
    assert names(tmp_path / "project", "rules") == ["rules.py"]
    assert names(tmp_path / "project", "gone", "") == []
