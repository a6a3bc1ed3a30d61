"""Direct preference optimisation, read top to bottom: of two replies to a prompt, the better one is made likelier.

    >>> result = tune_pairs(train, dev, config, base=base, out_dir=Path("dpo"), seed=0, start=adapter)  # doctest: +SKIP
    >>> result.dev_curve[0]  # doctest: +SKIP
    (0, 0.6931471805599453)

An example is a pair of rendered rows, chosen and rejected, with one prompt; trained are the last replies alone. The
loss compares how far each reply's log-probability has moved from the reference, which is the model the run starts
from: computed once, before the first step, and stored beside the checkpoint.

Shapes: P trained tokens, R rows, G pairs; row 2 g is chosen and row 2 g + 1 rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from metier.core.errors import ConfigError, StoreError
from metier.core.folders import read_json, write_json
from metier.core.tune_config import DpoConfig, TuneConfig
from metier.engine import Batch, Custom, Handle, RowLogps, StepStats, logprobs, make_batch
from metier.tune.examples import Examples, within_limit
from metier.tune.processes import Job, tune_in_processes, wants_processes
from metier.tune.result import Options, TuneResult
from metier.tune.running import require_objective, run_objective
from metier.tune.schedule import default_lr

if TYPE_CHECKING:
    from metier.models import BaseModel
    from metier.render import RenderedPair

__all__ = ["Preference", "Rewards", "pair_losses", "tune_pairs"]

LR_RATIO = 0.1
"""Share of the learning rate of sft: the replies are learned already, and a step here moves whole replies at once."""
REFERENCE_NAME = "reference.json"


def tune_pairs(
    train: Sequence[RenderedPair],
    dev: Sequence[RenderedPair],
    config: TuneConfig,
    *,
    base: BaseModel | Path,
    out_dir: Path,
    seed: int,
    options: Options | None = None,
) -> TuneResult:
    """Tune an adapter on pairs; the checkpoint with the lowest pair loss on `dev` is the result.

    `options.start` is the adapter to go on from, usually that of `tune`; without one the reference is the base.
    Passes and learning rate are those of `config.dpo`; where it names no rate, a tenth of `config.lr`, or of what the
    rule gives sft where that is 0. What of `config` would have no effect on pairs is
    refused. A finished `out_dir` of the same run is returned as it is; an unfinished one is resumed.

    Raises:
        DataError: no train or dev pair is left, or a row has no trained token.
        ConfigError: the settings are for another objective, or the adapter to start from has another form.
        ModelError: the loss is not finite (step and rows are named), or training changed nothing.
        StoreError: the disk is full; the last checkpoint is intact.
    """
    require_objective(config, "dpo", instead="tune(...)")
    _refuse_settings_of_sft(config)
    options = options or Options()
    examples, dev_examples = [pair.rows for pair in train], [pair.rows for pair in dev]
    if wants_processes(config):
        return tune_in_processes(
            Job(train=examples, dev=dev_examples, config=config, base=base, out_dir=out_dir, seed=seed, options=options)
        )
    kept = within_limit(examples, config, part="train")
    kept_dev = within_limit(dev_examples, config, part="dev")
    settings = config.dpo or DpoConfig()
    return run_objective(
        Preference(kept, kept_dev, settings, method=config.method, rank=config.rank),
        replace(config, dpo=settings, passes=settings.passes, lr=settings.lr or LR_RATIO * config.lr),
        base=base,
        out_dir=out_dir,
        seed=seed,
        options=options,
        dropped=[pair.row_id for pair in train if max(len(row.tokens) for row in pair.rows) > config.max_row_tokens],
    )


def _refuse_settings_of_sft(config: TuneConfig) -> None:
    """Raise `ConfigError` for passes and a learning rate of the gold replies, which pairs do not take."""
    settings = config.dpo or DpoConfig()
    if config.passes:
        raise ConfigError(
            f"tune.passes is {config.passes:g}, but pairs are seen tune.dpo.passes = {settings.passes:g} times; leave "
            "tune.passes at 0 here."
        )
    if config.lr and settings.lr:
        raise ConfigError(
            f"tune.lr is {config.lr:g} and tune.dpo.lr {settings.lr:g}; pairs are learned at the latter. Leave one at "
            "0: without tune.dpo.lr a tenth of tune.lr is taken."
        )


class Rewards(NamedTuple):
    """How far each reply of each pair has moved from the reference."""

    chosen_G: Tensor
    rejected_G: Tensor

    @property
    def margin(self) -> float:
        """Mean of chosen minus rejected."""
        return float((self.chosen_G - self.rejected_G).mean())

    @property
    def accuracy(self) -> float:
        """Share of pairs whose chosen reply has the higher reward, 0-1."""
        return float((self.chosen_G > self.rejected_G).double().mean())


class Preference:
    """The objective: the loss of pairs, their reference and their rewards."""

    has_reference = True

    def __init__(self, train: Examples, dev: Examples, settings: DpoConfig, *, method: str, rank: int = 1) -> None:
        self.train, self.dev, self.settings, self.method, self.rank = train, dev, settings, method, rank
        self.dev_batch = make_batch([row for example in dev for row in example])
        self.reference_R = {"train": torch.empty(0), "dev": torch.empty(0)}

    def default_lr(self, width: int, *, num_steps: int) -> float:
        """A tenth of the learning rate the rule gives sft."""
        return LR_RATIO * default_lr(width, method=self.method, num_steps=num_steps, rank=self.rank)

    def prepare(self, handle: Handle, out_dir: Path, *, resumed: bool) -> None:
        """The reference: log-probability of every reply under the weights of the start, stored in the run's folder.

        Raises:
            StoreError: an unfinished run has lost it.
        """
        path = out_dir / REFERENCE_NAME
        if not resumed:
            sums = {"train": self._score(handle, self.train), "dev": self._score(handle, self.dev)}
            if handle.ranks.is_first:
                write_json(path, {part: sum_R.tolist() for part, sum_R in sums.items()})
            handle.ranks.wait()
        if not path.exists():
            raise StoreError(f"{path}: not there; the run cannot go on without it. Delete {out_dir} to start again.")
        stored = read_json(path)
        self.reference_R = {part: torch.tensor(stored[part], dtype=torch.float64) for part in ("train", "dev")}

    def loss(self, examples: Sequence[int]) -> Custom:
        """The mean pair loss of a step of these pairs."""
        reference_R = self._reference(examples)

        def mean_loss(shown: RowLogps) -> tuple[Tensor, Tensor]:
            return pair_losses(shown, reference_R[list(shown.rows)], self.settings, num_pairs=len(examples))

        return Custom(fn=mean_loss, rows_together=2)

    def measures(self, examples: Sequence[int], stats: StepStats) -> dict[str, float]:
        """Rewards of the step's pairs before the step."""
        assert stats.logp_T is not None, "forward_backward gives log-probabilities"
        batch = make_batch([row for i in examples for row in self.train[i]])
        rewards = self.rewards(reply_sums(batch, stats.logp_T), self._reference(examples))
        return {
            "tune/reward_chosen": float(rewards.chosen_G.mean()),
            "tune/reward_rejected": float(rewards.rejected_G.mean()),
            "tune/reward_margin": rewards.margin,
            "tune/reward_accuracy": rewards.accuracy,
        }

    def score_dev(self, handle: Handle) -> tuple[float, dict[str, float]]:
        """The mean pair loss of dev in nats, and its rewards."""
        logp_T = logprobs(handle, self.dev_batch).result()
        reference_R = self.reference_R["dev"]
        loss_G, _ = pair_losses(whole_rows(self.dev_batch, logp_T), reference_R, self.settings, num_pairs=len(self.dev))
        rewards = self.rewards(reply_sums(self.dev_batch, logp_T), reference_R)
        return float(loss_G.sum()), {
            "tune/dev_reward_margin": rewards.margin,
            "tune/dev_reward_accuracy": rewards.accuracy,
        }

    def rewards(self, sum_R: Tensor, reference_R: Tensor) -> Rewards:
        """Beta times how far each reply's log-probability lies from the reference."""
        reward_R = self.settings.beta * (sum_R - reference_R)
        return Rewards(reward_R[0::2], reward_R[1::2])

    def _reference(self, examples: Sequence[int]) -> Tensor:
        """Of the rows of these train pairs."""
        return self.reference_R["train"][[row for i in examples for row in (2 * i, 2 * i + 1)]]

    def _score(self, handle: Handle, examples: Examples) -> Tensor:
        """Log-probability of every reply now, (R,) fp64."""
        batch = make_batch([row for example in examples for row in example])
        return reply_sums(batch, logprobs(handle, batch).result())


def whole_rows(batch: Batch, logp_T: Tensor) -> RowLogps:
    """All rows of a batch as a custom loss sees them."""
    is_first_T = torch.zeros(batch.num_tokens, dtype=torch.bool)
    is_first_T[list(batch.row_start_R[:-1])] = True  # a row's first token is never predicted, whatever its weight
    place_P = torch.nonzero((batch.weight_T != 0) & ~is_first_T)[:, 0]
    starts = torch.searchsorted(place_P, torch.tensor(batch.row_start_R))
    rows = tuple(range(len(batch.row_id_R)))
    return RowLogps(rows, tuple(starts.tolist()), logp_T[place_P], batch.weight_T[place_P])


def reply_sums(batch: Batch, logp_T: Tensor) -> Tensor:
    """Log-probability of every row's reply, nats, (R,) fp64."""
    return _row_sums(whole_rows(batch, logp_T))


def _row_sums(shown: RowLogps) -> Tensor:
    """Sum of the trained tokens of every row, (R,) fp64."""
    sum_R = torch.zeros(len(shown.rows), dtype=torch.float64)
    return sum_R.index_add_(0, shown.row_of_token().cpu(), shown.logp_P.double().cpu())


def pair_losses(shown: RowLogps, reference_R: Tensor, settings: DpoConfig, *, num_pairs: int) -> tuple[Tensor, Tensor]:
    """(The loss of every pair over `num_pairs`, the gradient of their sum by each token's log-probability).

    `reference_R` holds the reference log-probability of each shown row's reply.

    Source: Rafailov et al. 2023, "Direct preference optimization", equation 7; label smoothing as its authors' note on
    conservative DPO; ipo as Azar et al. 2023, equation 17, over the mean a token of each reply, as its authors say it
    is to be computed and TRL 1.16 computes it.
    """
    num_R = torch.tensor(shown.start_R).diff().double()
    scale_R = 1 / num_R if settings.length_normalised or settings.loss == "ipo" else torch.ones_like(num_R)
    moved_R = (_row_sums(shown) - reference_R) * scale_R
    delta_G = moved_R[0::2] - moved_R[1::2]
    if settings.loss == "ipo":
        off_G = delta_G - 1 / (2 * settings.beta)
        loss_G, slope_G = off_G.square(), 2 * off_G
    else:
        beta, eps = settings.beta, settings.label_smoothing
        loss_G = -(1 - eps) * logsigmoid(beta * delta_G) - eps * logsigmoid(-beta * delta_G)
        slope_G = beta * (torch.sigmoid(beta * delta_G) - (1 - eps))
    slope_R = torch.stack([slope_G, -slope_G], 1).flatten() * scale_R / num_pairs
    return loss_G / num_pairs, slope_R[shown.row_of_token().cpu()].to(shown.logp_P)
