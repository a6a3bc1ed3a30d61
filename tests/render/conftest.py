"""A tokenizer with one token a byte, so that expected tokens can be written by hand."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from metier.models import make_tiny_model
from metier.render import Renderer


@pytest.fixture(scope="session")
def byte_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("bytes") / "model", texts=["x"], vocab_size=259)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    texts = ["Where is order 4411? It left on Monday, the user was told.", "assistant system user"]
    return Renderer(make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", texts=texts))


@pytest.fixture
def with_template(byte_dir: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the byte model with another chat template."""

    def make(template: str) -> Path:
        folder = Path(shutil.copytree(byte_dir, tmp_path / "model"))
        (folder / "chat_template.jinja").write_text(template)
        return folder

    return make
