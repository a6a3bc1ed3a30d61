"""`[[arm]]`: the alternatives a project names, and the endpoint that one of them may ask."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from metier.core.config import Settings
from metier.core.errors import ConfigError
from metier.core.ranges import above, at_least, calendar_day, plain_name

__all__ = ["NO_MODEL_KINDS", "TUNED_KINDS", "ArmConfig", "ArmKind", "EndpointConfig"]

ArmKind = Literal[
    "prompt", "few_shot", "retrieval", "small", "encoder", "template", "endpoint", "tuned", "tuned_retrieval"
]
NO_MODEL_KINDS = ("small", "encoder", "template")
"""Kinds that run no language model: no prompt, no tokens, no instruction."""
TUNED_KINDS = ("tuned", "tuned_retrieval")
"""Kinds that need the tuning of this run: no comparators."""
OTHER_BASE_KINDS = ("prompt", "few_shot", "retrieval")
"""Arms that may ask another model than the base: those that prompt one and tune none."""
ASKED = ("url", "model", "temperature")
"""What of an endpoint changes a reply."""

_CARRIES = {
    **dict.fromkeys(("prompt", "endpoint"), "every wording of [project] guidelines in turn"),
    **dict.fromkeys(NO_MODEL_KINDS, "no instruction"),
    "tuned_retrieval": "what the arm of kind 'tuned' carries",
}
"""What the arms carry for which nobody can choose it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointConfig(Settings):
    """`[arm.endpoint]`: a chat model behind an OpenAI-compatible address. Your rows are sent there."""

    url: str
    """Address up to and with the version, as https://api.example.com/v1."""
    model: str
    """Name of the model there."""
    key: str
    """Environment variable with the key of this address; the key itself never stands in a file."""
    max_money: float
    """Most that all answers together may cost, in the price table's currency; no default."""
    token_in: float
    """Price of a million prompt tokens."""
    token_out: float
    """Price of a million reply tokens."""
    date: str = ""
    """Day the prices were looked up, as 2026-11-23; empty marks them assumed."""
    source: str = "assumed"
    """Where the prices are from."""
    temperature: float = 0.0
    """Randomness of the replies; 0 asks for the likeliest."""
    timeout_s: float = 120.0
    """Seconds a whole answer may take, from the request to its last word; after them it counts as lost."""
    concurrency: int = 1
    """Requests on their way at once; the latency in the report is that of this many."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url is {self.url!r}; expected an address that begins with https:// or http://.")
        if not self.model or not self.key:
            raise ConfigError("model and key must not be empty; key names an environment variable.")
        for name in ("max_money", "token_in", "token_out", "temperature"):
            at_least(name, getattr(self, name), 0)  # getattr: the names stand one line above
        above("timeout_s", self.timeout_s, 0)
        at_least("concurrency", self.concurrency, 1)
        calendar_day("date", self.date)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmConfig(Settings):
    """`[[arm]]`: one alternative under assessment."""

    kind: ArmKind
    """prompt, few_shot, retrieval, small, encoder, template, endpoint, tuned or tuned_retrieval."""
    name: str = ""
    """Name in reports; the kind when empty."""
    instruction: Literal["full", "short", "none"] | None = None
    """Which instruction the arm carries (few_shot, retrieval: full by default; tuned: none by default)."""
    k: tuple[int, ...] = ()
    """Numbers of examples to choose among on dev (few_shot, retrieval, tuned_retrieval)."""
    near: tuple[Literal["words", "meaning"], ...] = ("words",)
    """How rows are compared, each tried on dev (retrieval, tuned_retrieval, small): TF-IDF, or sentence embeddings."""
    endpoint: EndpointConfig | None = None
    """What is asked (endpoint)."""
    base: str = ""
    """Another model that answers, named as in [base] (prompt, few_shot, retrieval); empty: the base itself."""

    def __post_init__(self) -> None:
        if self.name:
            plain_name("name", self.name)
        if self.k and self.kind not in ("few_shot", "retrieval", "tuned_retrieval"):
            raise ConfigError(
                f"k is {list(self.k)}, but an arm of kind {self.kind!r} shows no examples; drop the setting."
            )
        if self.near != ("words",) and self.kind not in ("retrieval", "tuned_retrieval", "small"):
            raise ConfigError(
                f"near is {list(self.near)}, but an arm of kind {self.kind!r} compares no rows; drop the setting."
            )
        if not self.near or len(set(self.near)) < len(self.near):
            raise ConfigError(f"near is {list(self.near)}; expected 'words', 'meaning' or both, each once.")
        if min(self.k, default=1) < 1:
            raise ConfigError(
                f"k is {list(self.k)}; expected 1 or more examples each. Add an arm of kind 'prompt' for none at all."
            )
        if self.base and self.kind not in OTHER_BASE_KINDS:
            raise ConfigError(
                f"base is {self.base!r}, but an arm of kind {self.kind!r} asks no other model; drop the setting, or "
                f"make the arm one of {', '.join(OTHER_BASE_KINDS)}."
            )
        if (self.endpoint is not None) != (self.kind == "endpoint"):
            told = "needs a table [arm.endpoint] with url and model" if self.endpoint is None else "asks no endpoint"
            raise ConfigError(
                f"an arm of kind {self.kind!r} {told}; {'add it' if self.endpoint is None else 'drop it'}."
            )
        if self.instruction is not None and self.kind in _CARRIES:
            carries = _CARRIES[self.kind]
            raise ConfigError(
                f"instruction is {self.instruction!r}, but an arm of kind {self.kind!r} carries {carries}; "
                "drop the setting."
            )

    def as_question(self) -> dict[str, Any]:  # Any: JSON values
        """What of the arm is part of the question: another key, cap or time-out asks nothing else."""
        values = asdict(self)
        endpoint, near = values.pop("endpoint"), values.pop("near")
        if endpoint is not None:
            values["endpoint"] = {name: endpoint[name] for name in ASKED}
        if not self.base:
            del values["base"]
        if near != ("words",):  # what stood before there was a choice keeps its hash
            values["near"] = list(near)
        return values
