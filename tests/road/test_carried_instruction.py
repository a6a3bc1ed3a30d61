"""What the report says an arm carries is what its setting put before the model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from metier.arms import FewShotArm, RetrievalArm
from metier.core.arm_config import ArmConfig
from metier.road.session import Session
from metier.road.trials import arm_recipe

WORDINGS = {"one": "# Our rules\nBe kind."}


def recipe(kind: str, instruction: str | None, wordings: dict[str, str]) -> FewShotArm | RetrievalArm:
    """The recipe of an arm, from a session without a model."""
    rendered = SimpleNamespace(golds=[])
    session = SimpleNamespace(
        grader=None, handle=None, wordings=wordings, rendered=rendered, replier=lambda _handle, _golds: None
    )
    config = ArmConfig(kind=kind, instruction=instruction)  # type: ignore[arg-type]  # names of the tables below
    plan: Any = SimpleNamespace(few_shot_k=(1,), retrieval_k=(1,))
    found = arm_recipe(cast("Session", session), config, plan, cast("Any", None))
    assert isinstance(found, FewShotArm | RetrievalArm)
    return found


@pytest.mark.parametrize("kind", ["few_shot", "retrieval"])
@pytest.mark.parametrize(
    ("setting", "carries", "text"),
    [
        (None, "full", WORDINGS["one"]),
        ("full", "full", WORDINGS["one"]),
        ("short", "short", "Our rules"),
        ("none", "none", ""),
    ],
)
def test_an_arm_of_examples_carries_what_its_setting_says(
    kind: str, setting: str | None, carries: str, text: str
) -> None:
    found = recipe(kind, setting, WORDINGS)
    assert (found.carries, found.instruction) == (carries, text)


@pytest.mark.parametrize("kind", ["few_shot", "retrieval"])
def test_an_arm_without_guidelines_to_carry_says_none(kind: str) -> None:
    assert recipe(kind, "short", {}).carries == "none"
