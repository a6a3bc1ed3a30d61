"""Supervised tuning, read top to bottom: the gold replies are learned, token by token.

    >>> result = tune(train, dev, TuneConfig(), base=base, out_dir=Path("tune"), seed=0)  # doctest: +SKIP
    >>> result.adapter_dir, result.best_step  # doctest: +SKIP
    (PosixPath('tune/adapter'), 120)

An example is one rendered row; the loss of a step is the weighted negative log-likelihood over the trained weight of
the whole step. How a run goes, and goes on after a kill, is in `running.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from metier.core.tune_config import TuneConfig
from metier.engine import Handle, Linear, StepStats, logprobs, make_batch
from metier.tune.examples import Examples, within_limit
from metier.tune.processes import Job, tune_in_processes, wants_processes
from metier.tune.result import Options, TuneResult
from metier.tune.running import planned_steps, require_objective, run_objective
from metier.tune.schedule import DEFAULT_PASSES, default_lr

if TYPE_CHECKING:
    from metier.models import BaseModel
    from metier.render import RenderedRow

__all__ = ["rule_lr", "tune"]


def tune(
    train: Sequence[RenderedRow],
    dev: Sequence[RenderedRow],
    config: TuneConfig,
    *,
    base: BaseModel | Path,
    out_dir: Path,
    seed: int,
    threads: int | None = None,
    options: Options | None = None,
) -> TuneResult:
    """Tune an adapter on `train`; the checkpoint with the lowest loss on `dev` is the result.

    A finished `out_dir` of the same rows, settings and base is returned as it is; an unfinished one is resumed.

    Raises:
        ConfigError: the settings are for another objective.
        DataError: no train or dev row is left, or a row has no trained token.
        ModelError: the loss is not finite (step and rows are named), or training changed nothing.
        StoreError: the disk is full; the last checkpoint is intact.
    """
    require_objective(config, "sft", instead="tune_pairs(...)")
    options = options or Options()
    options = replace(options, threads=threads or options.threads)
    examples, dev_examples = [(row,) for row in train], [(row,) for row in dev]
    if wants_processes(config):
        return tune_in_processes(
            Job(train=examples, dev=dev_examples, config=config, base=base, out_dir=out_dir, seed=seed, options=options)
        )
    kept = within_limit(examples, config, part="train")
    kept_dev = within_limit(dev_examples, config, part="dev")
    return run_objective(
        Likelihood(kept, kept_dev, method=config.method, rank=config.rank),
        replace(config, passes=config.passes or DEFAULT_PASSES),
        base=base,
        out_dir=out_dir,
        seed=seed,
        options=options,
        dropped=[row.row_id for row in train if len(row.tokens) > config.max_row_tokens],
    )


def rule_lr(train: Sequence[RenderedRow], config: TuneConfig, *, width: int, seed: int) -> float:
    """The peak learning rate `tune` takes on these rows where `config.lr` is 0.

    Raises:
        DataError: no row within the limit.
    """
    kept = within_limit([(row,) for row in train], config, part="train")
    _, steps = planned_steps(kept, replace(config, passes=config.passes or DEFAULT_PASSES), seed=seed)
    return default_lr(width, method=config.method, num_steps=len(steps), rank=config.rank)


class Likelihood:
    """The objective: make the trained tokens of every row likely."""

    has_reference = False

    def __init__(self, train: Examples, dev: Examples, *, method: str, rank: int = 1) -> None:
        self.train, self.dev, self.method, self.rank = train, dev, method, rank
        self.dev_batch = make_batch([row for example in dev for row in example])

    def default_lr(self, width: int, *, num_steps: int) -> float:
        """Peak learning rate where the settings name none."""
        return default_lr(width, method=self.method, num_steps=num_steps, rank=self.rank)

    def prepare(self, handle: Handle, out_dir: Path, *, resumed: bool) -> None:  # the protocol's form
        """Nothing is fixed beforehand."""

    def loss(self, examples: Sequence[int]) -> Linear:  # noqa: ARG002  # the protocol's form
        """The weighted mean over the step, however it is cut into batches."""
        return Linear()

    def measures(self, examples: Sequence[int], stats: StepStats) -> dict[str, float]:  # noqa: ARG002  # the protocol's form
        """The loss says it all."""
        return {}

    def score_dev(self, handle: Handle) -> tuple[float, dict[str, float]]:
        """Mean negative log-likelihood of the dev rows' trained tokens, nats, by weight."""
        logp_T = logprobs(handle, self.dev_batch).result().double()
        weight_T = self.dev_batch.weight_T.double()
        # The first token of a row is never predicted, whatever its weight.
        weight_T[list(self.dev_batch.row_start_R[:-1])] = 0
        return float(-(logp_T * weight_T).sum() / weight_T.sum()), {}
