"""One finished run for the whole session; a test that damages it takes a copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.road.running import Ran, copy_of, metier, one_core
from tests.road.small_project import PROJECT, write_project


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model cache of these tests alone."""
    return tmp_path_factory.mktemp("model-cache")


@pytest.fixture(autouse=True)
def on_one_core(request: pytest.FixtureRequest, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if "real_base" not in request.keywords:
        monkeypatch.setenv("METIER_CACHE", str(cache_dir))
    with one_core():
        yield


def finished(project_dir: Path, cache_dir: Path) -> Ran:
    """What `metier run --json` printed, outside any test."""
    with pytest.MonkeyPatch.context() as patch, one_core():
        patch.setenv("METIER_CACHE", str(cache_dir))
        ran = metier("run", "-C", project_dir, "--json")
    assert ran.code == 0, ran.err
    return ran


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> tuple[Path, Ran]:
    """A project with every arm after its first run, and what that printed. Never changed: copy it."""
    project_dir = write_project(tmp_path_factory.mktemp("finished") / "project", text=PROJECT)
    return project_dir, finished(project_dir, cache_dir)


@pytest.fixture(scope="session")
def finished_project(first_run: tuple[Path, Ran]) -> Path:
    return first_run[0]


@pytest.fixture
def project(finished_project: Path, tmp_path: Path) -> Path:
    """A copy of the finished project."""
    return copy_of(finished_project, tmp_path / "project")


@pytest.fixture(scope="session")
def keyed_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lean project with its keys and nothing else: copies of it have the same row ids. Never changed."""
    from metier.ledger import project_key, seal_key

    project_dir = write_project(tmp_path_factory.mktemp("keyed") / "project")
    project_key(project_dir)
    seal_key(project_dir)
    return project_dir


@pytest.fixture(scope="session")
def lean_project(keyed_project: Path, tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """A finished run without few-shot and retrieval, for tests that run again. Never changed: copy it."""
    project_dir = copy_of(keyed_project, tmp_path_factory.mktemp("lean") / "project")
    finished(project_dir, cache_dir)
    return project_dir


@pytest.fixture
def lean(lean_project: Path, tmp_path: Path) -> Path:
    """A copy of the finished lean project."""
    return copy_of(lean_project, tmp_path / "lean")


@pytest.fixture
def fresh(keyed_project: Path, tmp_path: Path) -> Path:
    """The lean project, never run, with the keys that `lean_project` has."""
    return copy_of(keyed_project, tmp_path / "fresh")
