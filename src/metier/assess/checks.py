"""Cross-checks shown beside the verdict, which never decide: mid-p McNemar and bootstrap-t."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metier.assess.scores import ScoreTable
from metier.core.seeds import generator
from metier.core.stats import bootstrap_t, mcnemar_mid_p

__all__ = ["cross_checks"]


def cross_checks(scores: ScoreTable, *, alpha: float, seed: int) -> tuple[Mapping[str, Any], ...]:  # Any: JSON values
    """For each comparator: the mid-p value of "no difference" and bootstrap-t bounds at `alpha` each.

    `mid_p` is None for scores that are not yes-no and for rows that share groups (it takes rows as independent);
    the bounds are None where all differences are equal.
    """
    alone = len(set(scores.group_N.tolist())) == scores.num_rows
    checks = []
    for name, rival_N in scores.rivals.items():
        gains, losses = int((scores.tuned_N > rival_N).sum()), int((scores.tuned_N < rival_N).sum())
        rng = generator(seed, "bootstrap_t", name)
        bounds = bootstrap_t(scores.tuned_N - rival_N, scores.group_N, alpha=alpha, rng=rng)
        checks.append(
            {
                "versus": name,
                "gains": gains,
                "losses": losses,
                "mid_p": mcnemar_mid_p(gains, losses) if scores.binary and alone else None,
                "bootstrap_low": bounds.low if bounds is not None else None,
                "bootstrap_high": bounds.high if bounds is not None else None,
                "side_alpha": alpha,
            }
        )
    return tuple(checks)
