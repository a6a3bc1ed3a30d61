"""Models that arms ask beside the base: prompted like it, never tuned. Quality against size, on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metier.arms import Replier
from metier.core.arm_config import ArmConfig
from metier.road.cut import Parts
from metier.road.session import Session, max_reply_tokens

if TYPE_CHECKING:
    from metier.models import BaseModel

__all__ = ["base_of", "num_weights_of", "others", "replier_on", "times_as_large"]

BYTES_OF_WEIGHT = 2
"""In bf16; what is computed in fp32 is no larger than the base then, whose peak is measured."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A model of an arm and its size."""

    base: BaseModel
    num_weights: int

    @property
    def gib(self) -> float:
        """What its weights take in memory."""
        return self.num_weights * BYTES_OF_WEIGHT / 2**30


def base_of(session: Session, config: ArmConfig) -> BaseModel:
    """The model an arm asks: its own, or the project's base."""
    from metier.models import resolve

    if not config.base:
        return session.base
    if config.base not in session.other_bases:
        session.other_bases[config.base] = resolve(config.base, project_dir=session.project_dir)
    return session.other_bases[config.base]


def num_weights_of(folder: Path) -> int:
    """The size of a model in weights."""
    from metier.engine import num_weights

    return num_weights(folder)


def others(session: Session) -> dict[str, Sized]:
    """Every other model that arms ask, by the name they give it."""
    found = {}
    for config in session.config.arm:
        if config.base and config.base not in found:
            base = base_of(session, config)
            found[config.base] = Sized(base, num_weights_of(base.dir))
    return found


def times_as_large(session: Session) -> dict[str, float]:
    """Size of every other model over that of the base: seconds are taken to grow with it."""
    sizes = others(session)
    mine = num_weights_of(session.base.dir) if sizes else 1
    return {name: sized.num_weights / mine for name, sized in sizes.items()}


def replier_on(session: Session, config: ArmConfig, parts: Parts) -> Replier:
    """What answers for an arm that asks another model; the model is loaded once and kept.

    Its reply limit follows the gold replies of train and dev as its own tokenizer cuts them.
    """
    from metier.engine import load
    from metier.render import Renderer
    from metier.tune import place_of

    if config.base not in session.other_repliers:
        base, tune = base_of(session, config), session.config.tune
        renderer = Renderer(base.dir)
        rows = [*parts.train, *parts.dev]
        golds = renderer.render_rows(rows, max_row_tokens=tune.max_row_tokens).kept
        place, seed = place_of(tune), session.config.project.seed
        handle = load(base, seed=seed, dtype=session.wanted_dtype, **place._asdict())
        session.other_repliers[config.base] = Replier(handle, renderer, max_reply_tokens(golds))
    return session.other_repliers[config.base]
