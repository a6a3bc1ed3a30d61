"""The project files of the public data sets load, and every setting in them is one the product knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier.conventions import make_conventions
from metier.core.project_file import load_project_file

PROJECTS = Path(__file__).resolve().parents[2] / "benchmarks" / "projects"
NAMES = ("bitext_support", "mts_dialog", "mts_dialog_header")


@pytest.mark.parametrize("name", NAMES)
def test_the_project_loads_with_its_conventions_and_guidelines(name: str) -> None:
    config = load_project_file(PROJECTS / name)
    assert {c.name for c in make_conventions(config.convention, PROJECTS / name)}
    assert config.project.guidelines
    assert all((PROJECTS / name / path).read_text(encoding="ascii").strip() for path in config.project.guidelines)
    assert [arm.kind for arm in config.arm] == ["prompt", "few_shot", "retrieval", "small", "tuned"]


@pytest.mark.parametrize("name", NAMES)
def test_the_data_files_are_found_beside_the_repository(name: str) -> None:
    config = load_project_file(PROJECTS / name)
    files = [PROJECTS / name / path for path in (*config.data.files, *config.split.holdout_files)]
    if not any(path.is_file() for path in files):
        pytest.skip("the public data is not beside the repository")
    assert [path for path in files if not path.is_file()] == []
