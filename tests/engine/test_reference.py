"""The check at load: what it remembers, when it looks again, and how much of a base it compares."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from metier.engine import reference
from metier.engine.families import read_shape
from metier.engine.reference import Checked, check_compact, layers_that_fit
from tests.engine.builders import tiny_base


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_base_is_compared_once_and_again_when_its_config_changes(tmp_path: Path) -> None:
    base_dir = tiny_base(tmp_path / "base")
    found = check_compact(base_dir, base_sha256="one")
    assert 0 < found.difference < 1e-5
    assert (found.num_layers, found.of_layers) == (3, 3)
    (base_dir / "model.safetensors").rename(tmp_path / "gone")
    assert check_compact(base_dir, base_sha256="one") == found  # remembered: the weights are not there
    config = json.loads((base_dir / "config.json").read_text())
    (base_dir / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-6}))
    with pytest.raises(Exception, match="found none; only safetensors"):
        check_compact(base_dir, base_sha256="one")
    (tmp_path / "gone").rename(base_dir / "model.safetensors")
    assert check_compact(base_dir, base_sha256="one").difference != found.difference


def test_a_record_that_was_cut_is_made_again(tmp_path: Path, cache: Path) -> None:
    base_dir = tiny_base(tmp_path / "base")
    found = check_compact(base_dir, base_sha256="one")
    (path,) = (cache / "checked").iterdir()
    path.write_text('{"difference":')
    assert check_compact(base_dir, base_sha256="one") == found
    assert json.loads(path.read_text())["of_layers"] == 3


def test_where_memory_is_short_the_first_layers_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base_dir = tiny_base(tmp_path / "base")
    shape = read_shape(base_dir)
    # A layer: 48 x (48 + 16 + 16 + 48) + 48 x 80 x 3 = 17,664 numbers; outside them 97 x 48 = 4,656. Two layers and
    # the embedding, twice in fp32, are 8 x 39,984 = 319,872 bytes, four fifths of 399,840.
    assert layers_that_fit(shape, 399_840) == 2
    assert layers_that_fit(shape, 399_830) == 1
    assert layers_that_fit(shape, 10) == 1
    assert layers_that_fit(shape, None) == layers_that_fit(shape, 1 << 40) == 3
    monkeypatch.setattr(reference, "_free_bytes", lambda: 399_840)
    found = check_compact(base_dir, base_sha256="one")
    assert found.num_layers == 2
    assert found.is_equal
    assert "(2 of 3 layers)" in found.sentence


def test_only_a_difference_below_1e_5_counts_as_none() -> None:
    sizes = {"num_layers": 3, "of_layers": 3}
    assert Checked(difference=9.9e-6, **sizes).is_equal
    assert not Checked(difference=1.0e-5, **sizes).is_equal
    assert not Checked(difference=float("inf"), **sizes).is_equal
    assert Checked(difference=2e-3, **sizes).sentence == (
        "differs from transformers' own forward by 2.0e-03 in fp32 (all layers)"
    )


def test_every_module_the_block_computes_with_belongs_to_what_is_remembered() -> None:
    folder = Path(reference.__file__).parent
    seen: set[str] = set()
    waiting = ["llama", "weight_files", "families"]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            for node in ast.parse((folder / f"{name}.py").read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metier.engine."):
                    waiting.append(node.module.removeprefix("metier.engine."))
    assert sorted(seen) == sorted(reference.BLOCK_SOURCES)
