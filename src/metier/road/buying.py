"""What an endpoint will be asked and what that costs, told and held against `max_money` before the first request.

    bought: about 54 requests of 61 + 9 tokens, USD 0.0019 (at most 0.0051 with the longest replies); max_money is 1

Tokens are those of the base's tokenizer, and replies are taken to be as long as the gold replies: another model counts
and writes differently, so this is an estimate. What is spent is held to `max_money` request by request all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metier.arms import EndpointReplier, PromptArm
from metier.arms.choosing import FINALISTS, SCREEN_ROWS
from metier.arms.replier import with_instruction
from metier.core.arm_config import ArmConfig, EndpointConfig
from metier.core.errors import GateClosed, counted
from metier.road.cut import Parts
from metier.road.rendered import render_parts
from metier.road.session import Session, max_reply_tokens

__all__ = ["Forecast", "bought_money", "forecasts", "require_money"]

COUNTED_ROWS = 40
"""Dev prompts whose tokens are counted, spread over dev."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What one endpoint arm will be asked, from nothing to the verdict."""

    arm: str
    num_dev: int
    """Requests about dev rows: every wording on a few, the best two on the rest."""
    num_holdout: int
    """Requests about hold-out rows."""
    tokens_in: float
    """Tokens of a prompt, mean over wordings and dev rows, counted by the base's tokenizer."""
    tokens_out: float
    """Tokens of a reply: the mean of the gold replies."""
    request: float
    """What one request costs by these."""
    longest: float
    """What one request costs whose reply runs into the limit."""
    max_money: float
    currency: str

    @property
    def money(self) -> float:
        """What all of them cost."""
        return (self.num_dev + self.num_holdout) * self.request

    def as_text(self, *, num_known: int = 0) -> str:
        """The forecast for a person, without requests that are answered."""
        num = self.left(num_known)
        return (
            f"{self.arm}: about {counted(num, 'request')} of {self.tokens_in:.0f} + {self.tokens_out:.0f} tokens, "
            f"{self.currency} {num * self.request:.4f} (at most {num * self.longest:.4f} with the longest replies); "
            f"max_money is {self.max_money:g}"
        )

    def left(self, num_known: int) -> int:
        """Requests that are still to be sent, if so many about dev rows are answered and none about the hold-out."""
        return max(0, self.num_dev - num_known) + self.num_holdout


def forecasts(session: Session, parts: Parts) -> list[Forecast]:
    """What every endpoint arm of the project will be asked."""
    return [_forecast(session, parts, arm, arm.endpoint) for arm in session.config.arm if arm.endpoint is not None]


def bought_money(session: Session, parts: Parts) -> float:
    """What the answers of all endpoint arms cost, in the table's currency; before anything else is computed.

    Raises:
        GateClosed: one of them, not asked yet, would cost more than its `max_money`.
    """
    found = forecasts(session, parts)
    for one in found:
        if not session.calls(one.arm).spent:
            _require(one, spent=0.0, num_known=0)
    return sum(one.money for one in found)


def require_money(session: Session, parts: Parts, config: ArmConfig, recipe: PromptArm) -> None:
    """Tell what an endpoint arm will still be asked, and pass only where its `max_money` is enough for that.

    Raises:
        GateClosed: it is not.
    """
    if config.endpoint is None or not isinstance(recipe.replier, EndpointReplier):
        return
    found = _forecast(session, parts, config, config.endpoint)
    talks = [with_instruction(row, text) for text in recipe.wordings.values() for row in parts.dev]
    num_known = recipe.replier.num_known(talks)
    session.progress.say(found.as_text(num_known=num_known))
    _require(found, spent=recipe.replier.calls.spent, num_known=num_known)


def _require(found: Forecast, *, spent: float, num_known: int) -> None:
    num = found.left(num_known)
    if spent + num * found.request <= found.max_money:
        return
    raise GateClosed(
        f"{found.as_text(num_known=num_known)}, and {spent:.4f} is spent. Nothing more was asked: raise [arm.endpoint] "
        f"max_money to {1.2 * (spent + num * found.request):.2g} or more, hold out fewer rows, or drop the arm."
    )


def _forecast(session: Session, parts: Parts, arm: ArmConfig, asked: EndpointConfig) -> Forecast:
    golds, wordings = render_parts(session, parts).golds, list(session.wordings.values())
    num_dev, limit = len(parts.dev), max_reply_tokens(golds)
    screened = min(SCREEN_ROWS, num_dev)
    tokens_in = _prompt_tokens(session, parts, wordings)
    tokens_out = float(np.mean([row.num_trained for row in golds]))
    request, longest = (
        (tokens_in * asked.token_in + out * asked.token_out) / 1e6 for out in (tokens_out, max(limit, tokens_out))
    )
    return Forecast(
        arm=arm.name or arm.kind,
        num_dev=len(wordings) * screened + min(FINALISTS, len(wordings)) * (num_dev - screened),
        num_holdout=parts.num_holdout if wordings else 0,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        request=request,
        longest=longest,
        max_money=asked.max_money,
        currency=session.config.price.currency,
    )


def _prompt_tokens(session: Session, parts: Parts, wordings: Sequence[str]) -> float:
    """Mean tokens of a prompt behind a wording; 0 where the arm does not run for want of one."""
    places = np.unique(np.linspace(0, len(parts.dev) - 1, min(COUNTED_ROWS, len(parts.dev))).astype(int))
    prompts = [with_instruction(parts.dev[int(place)], text) for text in wordings for place in places]
    return float(np.mean([len(session.renderer.prompt_tokens(talk, ())) for talk in prompts])) if prompts else 0.0
