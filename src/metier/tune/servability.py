"""Which servers can load what a run will leave behind, said before the run.

    >>> [(found.server, found.can_serve) for found in servability(TunedForm(method="dora", rank=16))]
    [('vLLM', False), ('llama.cpp', False)]

The rules are in `tables/servers.toml`, each with its source and date; nothing is tried out here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["Servable", "TunedForm", "servability"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedForm:
    """What decides whether a server can load a tuned model."""

    method: str
    rank: int = 0
    """Rank of the adapter; 0 where whole weights are trained."""
    modules_to_save: tuple[str, ...] = ()
    """Modules stored whole beside the low-rank parts."""
    num_new_tokens: int = 0
    """Tokens the tokenizer gained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Servable:
    """One server's answer."""

    server: str
    can_serve: bool
    why: str
    change: str
    """What to do: an option of the server, or another setting."""
    source: str
    date: str

    def as_text(self) -> str:
        """The answer in a line."""
        said = f"{self.server}: {'yes' if self.can_serve else 'no'}, {self.why}"
        return f"{said}; {self.change}" if self.change else said


@cache
def _rules() -> tuple[Mapping[str, Any], ...]:
    text = files("metier.tune").joinpath("tables", "servers.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["rule"])


BREAKS: dict[str, Callable[[TunedForm, Mapping[str, Any]], bool]] = {
    "max_rank": lambda form, rule: form.rank > max(rule["values"]),
    "dora": lambda form, _: form.method == "dora",
    "rslora": lambda form, _: form.method == "rslora",
    "modules_to_save": lambda form, _: bool(form.modules_to_save),
    "new_tokens": lambda form, _: form.num_new_tokens > 0,
}
"""Whether a form breaks a rule, by the rule's `limit`; whole models break none."""


def servability(form: TunedForm) -> tuple[Servable, ...]:
    """Every known server's answer, in the order of the table."""
    return tuple(_answer(server, form) for server in dict.fromkeys(rule["server"] for rule in _rules()))


def _answer(server: str, form: TunedForm) -> Servable:
    rules = [rule for rule in _rules() if rule["server"] == server]
    if form.method == "full":
        change = "" if server == "vLLM" else "convert it with convert_hf_to_gguf.py first"
        return Servable(server=server, can_serve=True, why="a whole model in safetensors", change=change,
                        source=rules[0]["source"], date=rules[0]["date"])  # fmt: skip
    broken = next((rule for rule in rules if BREAKS[rule["limit"]](form, rule)), None)
    if broken is not None:
        said = {name: broken[name] for name in ("why", "change", "source", "date")}
        return Servable(server=server, can_serve=False, **said)
    ranks = next((rule for rule in rules if rule["limit"] == "max_rank"), None)
    change = "convert it with convert_lora_to_gguf.py first"
    if ranks is not None:
        needed = min(value for value in ranks["values"] if value >= form.rank)
        change = f"start it with --enable-lora --max-lora-rank {needed}"
    rule = ranks or rules[0]
    why = f"an adapter of rank {form.rank} in PEFT's format"
    return Servable(server=server, can_serve=True, why=why, change=change, source=rule["source"], date=rule["date"])
