"""What one run of the road holds in its hands: settings, workspace, ledger, grader, model, progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.arms import Replier, read_wordings
from metier.core.errors import DataError, ModelError
from metier.core.hashing import file_sha256, value_hash
from metier.core.project_file import ProjectConfig
from metier.core.settings import PriceConfig
from metier.road.calls import StoredCalls
from metier.road.grading_code import files_imported
from metier.road.progress import Progress
from metier.road.workspace import Stage, Workspace

if TYPE_CHECKING:
    from metier.conventions import Convention
    from metier.engine import Handle
    from metier.engine.load import DtypeName
    from metier.evaluate import Grader
    from metier.ledger import Ledger, ObjectStore, SubjectKeys
    from metier.models import BaseModel
    from metier.render import RenderedRow, Renderer
    from metier.road.rendered import Rendered

__all__ = ["Session"]

REPLY_HEADROOM = 1.15
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
    dtype: str = ""
    """Precision of the products; the plan fixes it, so that a resumed run computes with the same."""

    rendered: Rendered | None = None
    """Train and dev as tokens, once they are; see `metier.road.rendered`."""

    stages: dict[str, Stage] = field(default_factory=dict)
    """Every stage this run has used, by name."""

    other_bases: dict[str, BaseModel] = field(default_factory=dict)
    """Files of other models that arms ask, by the name they give them; see `metier.road.other_bases`."""

    other_repliers: dict[str, Replier] = field(default_factory=dict)
    """Those models in memory."""

    def stage(
        self,
        name: str,
        *,
        version: int,
        inputs: Any,  # Any: whatever json accepts
        config: Any,  # Any: whatever json accepts
        work: Callable[[Path], None],
        resumable: bool = False,
        processes: int = 1,
    ) -> Stage:  # Any: inputs and config are whatever json accepts
        """The finished stage, computed now or found; see `Workspace.stage`."""
        stage = self.workspace.stage(
            name,
            version=version,
            inputs=inputs,
            config=config,
            work=work,
            resumable=resumable,
            processes=processes,
        )
        self.stages[name] = stage
        return stage

    @cached_property
    def subject_keys(self) -> SubjectKeys:
        """The keys of the persons rows are about."""
        from metier.ledger import SubjectKeys

        return SubjectKeys.open(self.project_dir)

    def is_erased(self, subject: str) -> bool:
        """Whether a person was erased from this project."""
        return self.subject_keys.is_destroyed(self.subject_keys.hash_of(subject))

    @cached_property
    def restored(self) -> frozenset[str]:
        """`origin_id` of rows a person put back after cleaning had set them aside."""
        from metier.ledger import restored_rows

        return restored_rows(self.ledger)

    def calls(self, arm: str) -> StoredCalls:
        """The answers of an endpoint to an arm so far; what a killed run left open is booked and told."""
        found = StoredCalls(self.workspace.calls_dir / f"{arm}.jsonl", self.key)
        told = found.book_killed()
        if told:
            self.progress.say(f"{arm}: {told}")
        return found

    def price_of(self, arm: str) -> PriceConfig:
        """The price table for an arm's requests: an endpoint's tokens have their own prices."""
        price = self.config.price
        asked = next((c.endpoint for c in self.config.arm if (c.name or c.kind) == arm and c.endpoint), None)
        return price if asked is None else replace(price, token_in=asked.token_in, token_out=asked.token_out)

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
    def wordings(self) -> dict[str, str]:
        """The full guidelines by wording; empty when the project has neither guidelines nor conventions."""
        from metier.conventions import describe

        return read_wordings(self.project_dir, self.config.project.guidelines, describe(self.conventions))

    @cached_property
    def own_code(self) -> dict[str, str]:
        """SHA-256 of every Python file of the project that grades replies, by its name; helpers it imports included."""
        named = [c.args.get("function", "") for c in self.config.convention if c.check == "python"]
        paths = files_imported(self.project_dir, [str(function).partition(":")[0] for function in named])
        root = self.project_dir.resolve()
        return {path.relative_to(root).as_posix(): file_sha256(path) for path in paths}

    @cached_property
    def question(self) -> dict[str, Any]:
        """What the verdict is about: the question's tables, what a group and a time are, and the code that grades."""
        data = self.config.data
        columns = {"groups": list(data.groups), "time": data.time, "attributes": list(data.attributes)}
        return {**self.config.question(), "columns": columns, "code": self.own_code}

    @property
    def question_hash(self) -> str:
        """SHA-256 of `question`."""
        return value_hash(self.question)

    @property
    def group_column(self) -> str:
        """The kind of group whose rows move together in every interval; the first of `data.groups`."""
        return self.config.data.groups[0] if self.config.data.groups else ""

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
        from metier.tune import place_of

        place = place_of(self.config.tune)
        return load(self.base, seed=self.config.project.seed, dtype=self.wanted_dtype, **place._asdict())

    @property
    def wanted_dtype(self) -> DtypeName:
        """Precision to load with: what the plan fixed, else the setting."""
        known: dict[str, DtypeName] = {"bf16": "bf16", "fp32": "fp32"}
        return known.get(self.dtype, self.config.tune.product_dtype)

    @property
    def dtype_name(self) -> str:
        """Precision the base was loaded in: bf16 or fp32."""
        return {"torch.bfloat16": "bf16", "torch.float32": "fp32"}[str(self.handle.dtype)]

    def tuned_handle(self, tuned_dir: Path) -> Handle:
        """The base with an adapter, or a model whose weights were all tuned.

        Raises:
            ModelError: what is in the folder was tuned from another base, or changes nothing.
        """
        from metier.engine import load_tuned
        from metier.tune import place_of

        base_sha256, place = self.handle.base_sha256, place_of(self.config.tune)
        handle = load_tuned(self.base, tuned_dir, base_sha256=base_sha256, dtype=self.wanted_dtype, place=place)
        if handle.fingerprint == self.handle.fingerprint:
            raise ModelError(f"{tuned_dir}: the tuned model has its base's fingerprint; what was tuned is not loaded.")
        return handle

    def replier(self, handle: Handle, golds: Sequence[RenderedRow]) -> Replier:
        """A replier whose reply limit follows the gold replies of train and dev."""
        return Replier(handle, self.renderer, max_reply_tokens(golds))


def max_reply_tokens(golds: Sequence[RenderedRow]) -> int:
    """Longest reply a model may write, in tokens: the 99th percentile of the gold replies with headroom.

    At least 8, so that a task of one-word labels still lets a wrong, longer answer show itself.

    Raises:
        DataError: no rows.
    """
    lengths = sorted(row.num_trained for row in golds)
    if not lengths:
        raise DataError("no row of train or dev can be rendered, so no reply length is known; see `metier check`.")
    return max(8, round(lengths[int(0.99 * (len(lengths) - 1))] * REPLY_HEADROOM))
