"""What `pip install` puts on a machine without the checkout: all of the package, and the examples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metier.core.project_file import load_project_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as built into a wheel; pip fetches the build backend, nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, "--target", str(folder), str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def files_under(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", ".metier"} & set(path.parts)
    }


def test_init_makes_the_example_project_from_an_installed_package(installed: Path, tmp_path: Path) -> None:
    code = "import metier, sys; from metier.cli import main; sys.stderr.write(metier.__file__); sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "init", "desk", "--from", "support", "--json"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, str(installed / "metier" / "__init__.py"))
    assert json.loads(done.stdout) == {"project": "desk", "from": "support"}
    assert files_under(tmp_path / "desk") == files_under(ROOT / "examples" / "support") - {"planted.json"}
    assert load_project_file(tmp_path / "desk").project.name == "lanternkeep-support"


def test_a_wheel_holds_every_file_of_the_package_and_not_the_answer_key_of_an_example(installed: Path) -> None:
    inside = files_under(installed / "metier")
    assert files_under(ROOT / "src" / "metier") <= inside
    assert {"py.typed", "core/schemas/row.json", "models/models.toml", "web/templates/report.css"} <= inside
    assert "examples/support/planted.json" not in inside
