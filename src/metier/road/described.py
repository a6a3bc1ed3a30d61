"""A finished tuning for the report: settings as they were in the end, what was chosen and why, steps, pairs, search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from metier.core.tune_config import LINEAR_NAMES, DpoConfig, TuneConfig

__all__ = ["described_tuning"]

OF_ADAPTERS = ("rank", "alpha", "targets")


def described_tuning(
    config: TuneConfig,
    *,
    sft: Mapping[str, Any],
    last: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]],
    num_train_rows: int,
) -> dict[str, Any]:  # Any: JSON values
    """The facts by name; `sft` and `last` are what the first and the last stage recorded, the same one without dpo.

    Settings that derive are told with their value, settings that have no effect are left out. The curve of the
    report, `best_step`, `num_steps` and `last_step` are those of the last stage.
    """
    values = {**asdict(config), "targets": list(config.targets or LINEAR_NAMES)}
    values |= {"lr": sft["lr"], "step_tokens": sft["step_tokens"], "num_train_rows": num_train_rows}
    values["searched_lr"] = [trial["lr"] for trial in trials]
    if config.method == "full":
        values = {name: value for name, value in values.items() if name not in OF_ADAPTERS}
    told: dict[str, Any] = {"config": values, **_steps(last)}
    if config.objective == "dpo":
        values["dpo"] = {**asdict(config.dpo or DpoConfig()), "lr": last["lr"], "step_tokens": last["step_tokens"]}
        told |= {"pairs": dict(last["pairs"]), "sft": {**_steps(sft), "dev_curve": list(sft["dev_curve"])}}
    else:
        del values["dpo"]
    if trials:
        told["search"] = [{"lr": trial["lr"], "dev_loss_nats": trial["dev_loss_nats"]} for trial in trials]
    chosen = {name: value for name, value in last["execution"].items() if isinstance(value, Mapping)}
    return {**told, "execution": {name: f"{value['name']} ({value['reason']})" for name, value in chosen.items()}}


def _steps(facts: Mapping[str, Any]) -> dict[str, int]:
    return {name: facts[name] for name in ("best_step", "last_step", "num_steps")}
