"""What one run of the road holds in its hands: settings, workspace, ledger, grader, model, progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from metier.arms import Replier
from metier.core.errors import ModelError
from metier.core.project_file import ProjectConfig
from metier.core.rows import Row
from metier.road.progress import Progress
from metier.road.workspace import Workspace

if TYPE_CHECKING:
    from metier.conventions import Convention
    from metier.engine import Handle
    from metier.evaluate import Grader
    from metier.ledger import Ledger, ObjectStore
    from metier.models import BaseModel
    from metier.render import Renderer

__all__ = ["Session"]

REPLY_HEADROOM = 1.25
"""A reply may be this much longer than the 99th percentile of the gold replies, in tokens."""


@dataclass
class Session:
    """One run; everything heavy is loaded on first use and kept."""

    config: ProjectConfig
    workspace: Workspace
    ledger: Ledger
    store: ObjectStore
    key: bytes
    progress: Progress = field(default_factory=Progress)

    @property
    def project_dir(self) -> Path:
        """The project folder."""
        return self.workspace.project_dir

    @cached_property
    def conventions(self) -> tuple[Convention, ...]:
        """What a good reply obeys."""
        from metier.conventions import make_conventions

        return make_conventions(self.config.convention, self.project_dir)

    @cached_property
    def grader(self) -> Grader:
        """The one grader of every arm."""
        from metier.evaluate import make_grader

        return make_grader(self.config, self.project_dir)

    @cached_property
    def base(self) -> BaseModel:
        """The base model's files, fetched and converted when the cache has none."""
        from metier.models import resolve

        base = self.config.base
        return resolve(base.name, revision=base.revision, project_dir=self.project_dir)

    @cached_property
    def renderer(self) -> Renderer:
        """The base's template and tokenizer."""
        from metier.render import Renderer

        return Renderer(self.base.dir)

    @cached_property
    def handle(self) -> Handle:
        """The base in memory."""
        from metier.engine import load

        return load(self.base, seed=self.config.project.seed, dtype=self.config.tune.product_dtype)

    def tuned_handle(self, adapter_dir: Path) -> Handle:
        """The base with an adapter; the base weights are shared.

        Raises:
            ModelError: the adapter was trained on another base or changes nothing.
        """
        from metier.engine import load

        handle = load(
            self.base, adapter=adapter_dir, seed=self.config.project.seed, dtype=self.config.tune.product_dtype
        )
        if handle.fingerprint == self.handle.fingerprint:
            raise ModelError(f"{adapter_dir}: the tuned model has the fingerprint of its base; the adapter was not loaded.")
        return handle

    def replier(self, handle: Handle, golds: Sequence[Row]) -> Replier:
        """A replier whose reply limit follows the gold replies of train and dev."""
        return Replier(handle, self.renderer, max_reply_tokens(self.renderer, golds))


def max_reply_tokens(renderer: Renderer, rows: Sequence[Row]) -> int:
    """Longest reply a model may write, in tokens: the 99th percentile of the gold replies with headroom.

    At least 8, so that a task of one-word labels still lets a wrong, longer answer show itself.
    """
    lengths = sorted(len(renderer.reply_tokens(row.gold)) for row in rows)
    if not lengths:
        return 64
    return max(8, round(lengths[min(len(lengths) - 1, int(0.99 * len(lengths)))] * REPLY_HEADROOM))
