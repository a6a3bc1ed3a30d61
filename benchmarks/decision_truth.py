"""Made-up scores whose truth is known, and the rate at which a verdict about them is wrong.

Every arm answers a row right with its true share; rows are hard or easy for all arms, rows of a group for all and for
each arm. A graded score is the share of several checks obeyed, so its true mean is exact as well.
"""

# Shapes: A arms, the tuned one first; N rows, C groups, M checks.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from metier.assess import CostRatio, Decision, ScoreTable, decide
from metier.core.report import Outcome
from metier.core.settings import DecisionConfig

MARGIN = 0.03
QUESTION = DecisionConfig(margin=MARGIN)
LEVEL = 0.72  # share of rows the best rival gets right
ROW_CORRELATION = 0.5  # of the latent difficulty: rows are hard or easy for every arm
NUM_CHECKS = 4  # of a graded score
ALPHA = 0.05
WORTH, NOT, OPEN = Outcome.WORTH_IT, Outcome.NOT_WORTH_IT, Outcome.NEED_HOLDOUT_ROWS


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One simulated rate, 0-1."""

    table: str
    case: str
    rate: float
    reps: int
    bound: float | None
    """What it must not exceed, or must reach; None: shown for comparison, nothing is claimed."""
    at_least: bool = False
    """Whether the bound is to be reached."""

    @property
    def limit(self) -> float | None:
        """The bound with three Monte-Carlo standard errors of room."""
        if self.bound is None:
            return None
        room = 3 * (self.bound * (1 - self.bound) / self.reps) ** 0.5
        return self.bound - room if self.at_least else self.bound + room

    @property
    def holds(self) -> bool:
        if self.limit is None:
            return True
        return self.rate >= self.limit if self.at_least else self.rate <= self.limit


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the rows of a case are like."""

    graded: bool = False
    group_rows: int = 1
    """Rows of a group, mean."""
    sigma: float = 0.0
    """Spread of the group sizes, log-normal."""

    def __str__(self) -> str:
        scores = "graded" if self.graded else "yes-no"
        sizes = "unequal " if self.sigma else ""
        return scores if self.group_rows == 1 else f"{scores}, {sizes}groups of {self.group_rows}"


def arms(rng: np.random.Generator, num_rows: int, shares: Sequence[float]) -> np.ndarray:
    """Yes-no scores, one line an arm, with the given true shares and rows that are hard or easy for all."""
    common_N = rng.standard_normal(num_rows)
    own = rng.standard_normal((len(shares), num_rows))
    latent = np.sqrt(ROW_CORRELATION) * common_N + np.sqrt(1 - ROW_CORRELATION) * own
    return (latent < ndtri(np.array(shares))[:, None]).astype(float)


def drawn(
    rng: np.random.Generator, num_rows: int, shares: Sequence[float], kind: Kind
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (A, N) and groups (N) of about `num_rows` rows: whole groups, no fewer rows where all are equal."""
    if kind.group_rows == 1:
        size_C = np.ones(num_rows, dtype=int)
    else:
        size_C = group_sizes(rng, -(-num_rows // kind.group_rows), kind.sigma, kind.group_rows)
    group_N, num_arms = np.repeat(np.arange(len(size_C)), size_C), len(shares)
    if kind.group_rows == 1 and not kind.graded:
        return arms(rng, num_rows, shares), group_N
    latent = np.sqrt(0.25) * rng.standard_normal(len(group_N)) + np.zeros((num_arms, 1))
    latent += np.sqrt(0.1) * rng.standard_normal(len(size_C))[group_N]
    latent += np.sqrt(0.15) * rng.standard_normal((num_arms, len(size_C)))[:, group_N]
    latent += np.sqrt(0.2) * rng.standard_normal((num_arms, len(group_N)))
    num_checks = NUM_CHECKS if kind.graded else 1
    own = np.sqrt(0.3) * rng.standard_normal((num_checks, num_arms, len(group_N)))
    return (latent + own < ndtri(np.array(shares))[:, None]).mean(axis=0), group_N


def group_sizes(rng: np.random.Generator, num_groups: int, sigma: float, mean_size: float = 12.0) -> np.ndarray:
    """Log-normal group sizes of at least one row."""
    raw = rng.lognormal(0.0, sigma, num_groups)
    return np.maximum(1, np.round(raw / raw.mean() * mean_size)).astype(int)


def discordant(rng: np.random.Generator, num_rows: int, share: float, change: float) -> tuple[np.ndarray, np.ndarray]:
    """Yes-no scores of two arms that differ on `share` of the rows, with a true change of the first."""
    draw = rng.random(num_rows)
    first, second = draw < (share + change) / 2, (draw >= (share + change) / 2) & (draw < share)
    return first.astype(float), second.astype(float)


def table_of(score_AN: np.ndarray, groups: np.ndarray | None = None, *, binary: bool = True) -> ScoreTable:
    """The scores of all arms as `decide` takes them."""
    return ScoreTable.of(
        tuned=score_AN[0],
        rivals={f"rival {k}": score_AN[k] for k in range(1, len(score_AN))},
        groups=np.arange(score_AN.shape[1]) if groups is None else groups,
        binary=binary,
    )


def decision(
    question: DecisionConfig,
    score_AN: np.ndarray,
    groups: np.ndarray,
    kind: Kind,
    *,
    alpha: float = ALPHA,
    cost: CostRatio | None = None,
) -> Decision:
    """The public verdict over drawn scores."""
    table = table_of(score_AN, groups, binary=not kind.graded)
    return decide(question, table, alpha_this_look=alpha, cost_ratio=cost)


def verdict(score_AN: np.ndarray, *, alpha: float = ALPHA) -> Outcome:
    """The outcome for yes-no scores of rows that stand alone."""
    return decide(QUESTION, table_of(score_AN), alpha_this_look=alpha).verdict.outcome
