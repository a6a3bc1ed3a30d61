"""Which trials are still to be run before a decision: today one final fit an arm. `road` runs them."""

from __future__ import annotations

from collections.abc import Sequence

from metier.core.project_file import ProjectConfig
from metier.core.seeds import derived_seed
from metier.core.trials import Purpose, Trial, TrialResult

__all__ = ["wanted_trials"]


def wanted_trials(config: ProjectConfig, results: Sequence[TrialResult]) -> list[Trial]:
    """The trials that are missing, in the order of the arms: a final one, on all train rows, for each arm."""
    done = {r.trial.arm for r in results if r.trial.purpose is Purpose.FINAL and r.trial.base == config.base.name}
    names = [arm.name or arm.kind for arm in config.arm]
    return [
        Trial(
            arm=name,
            base=config.base.name,
            fraction=1.0,
            chain_seed=derived_seed(config.project.seed, "chain"),
            train_seed=derived_seed(config.project.seed, "train", name),
            purpose=Purpose.FINAL,
        )
        for name in names
        if name not in done
    ]
