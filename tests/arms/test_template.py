"""Reply templates mined from gold replies: which there are, which is chosen, and what is filled in."""

from __future__ import annotations

import pytest

from metier.arms import TemplateArm
from metier.arms.slots import fewest_open
from metier.arms.template import form, mine, num_products
from metier.core.arm_config import ArmConfig
from metier.core.errors import ConfigError, DataError
from metier.core.trials import FittedArm, SkipReason
from tests.arms.builders import EXACT, row, rows, with_golds

NAMES = ("Ana", "Bo", "Cai", "Dee")
LATE = [(f"Order LK-{i} is late. Thanks, {n}", f"Hello {n}, LK-{i} is on its way.") for i, n in enumerate(NAMES)]
BROKEN = [
    (f"Order LK-{i} is broken. Thanks, {n}", f"Hello {n}, we replace LK-{i}.") for i, n in enumerate(NAMES[:3], 40)
]
ONCE = [("Order LK-90 is blue. Thanks, Eli", "Hello Eli, so it is.")]
TRAIN = rows(LATE + BROKEN + ONCE)
ASKED = [
    row("Order LK-77 is late. Thanks, Fay", "Hello Fay, LK-77 is on its way.", number=77),
    row("Order LK-78 is broken. Thanks, Gus", "Hello Gus, we replace LK-78.", number=78),
]


@pytest.fixture(scope="module")
def arm() -> FittedArm:
    return TemplateArm("t", EXACT).fit(TRAIN, ASKED, seed=3)


def texts(fitted: FittedArm, asked: list) -> list[str]:
    return [reply.text for reply in fitted.reply(asked)]


def test_the_case_chooses_the_template_and_its_values_are_those_of_the_prompt(arm: FittedArm) -> None:
    assert texts(arm, ASKED) == [asked.gold for asked in ASKED]
    assert texts(arm, with_golds(ASKED, "another 9")) == texts(arm, ASKED), "the gold of a row asked is never read"
    assert [reply.text for reply in arm.reply_each(ASKED)] == texts(arm, ASKED)
    assert {(reply.tokens_in, reply.tokens_out) for reply in arm.reply(ASKED)} == {(0, 0)}
    assert arm.reply([]) == []


def test_a_form_that_was_written_once_is_no_template(arm: FittedArm) -> None:
    mined = mine(TRAIN)
    assert (mined.num_templates, mined.number_N.tolist()) == (2, [0, 0, 0, 0, 1, 1, 1])
    assert texts(arm, [row("Order LK-91 is blue. Thanks, Hal", "?")])[0] != "Hello Hal, so it is."
    assert [each.gold for each in mined.most_frequent(1).rows] == [gold for _, gold in LATE]
    assert form("Hello Ana,\n LK-1 is  late.") == form("Hello Bo, LK-22 is late.") != form("Hello Bo, LK-22 is here.")


def test_what_was_tried_is_told_and_fewer_templates_than_wanted_are_tried_once(arm: FittedArm) -> None:
    names = [choice.name for choice in arm.chosen_from]
    assert names == [f"templates=2, strength={strength}" for strength in (1, 10, 100)]
    assert {choice.num_rows for choice in arm.chosen_from} == {2}
    assert num_products(TRAIN) == 3 * 2 * 7
    many = rows([(f"{word} {i}", f"The {word} reply.") for word in map(chr, range(97, 109)) for i in range(3)])
    tried = TemplateArm("t", EXACT).fit(many, many[:5], seed=0).chosen_from
    assert [choice.name for choice in tried][::3] == ["templates=10, strength=1", "templates=12, strength=1"]
    assert num_products(many) == 3 * (10 * 30 + 12 * 36)


def test_restored_it_is_the_same_arm_and_other_rows_are_another(arm: FittedArm) -> None:
    again = TemplateArm("t", EXACT).restore(TRAIN, arm.describe())
    assert (again.fingerprint, again.describe(), again.chosen_from) == (
        arm.fingerprint,
        arm.describe(),
        arm.chosen_from,
    )
    assert texts(again, ASKED) == texts(arm, ASKED)
    assert TemplateArm("t", EXACT).restore(TRAIN[:-1], arm.describe()).fingerprint != arm.fingerprint
    assert "Hello" not in str(arm.describe()), "no reply of a person lies in the stage folder"


def test_what_it_needs() -> None:
    arm = TemplateArm("t", EXACT)
    assert arm.needs([], []) is SkipReason.NO_TRAIN_ROWS
    assert arm.needs(rows([("a", "x"), ("b", "y")] * 3, label=True), []) is SkipReason.LABELS_ONLY
    assert arm.needs(rows(LATE), []) is SkipReason.NO_TEMPLATES
    assert arm.needs(rows(LATE + BROKEN[:2]), []) is SkipReason.NO_TEMPLATES, "two rows make no template"
    assert arm.needs(TRAIN, []) is None
    with pytest.raises(DataError, match="3 candidates and 0 dev rows"):
        arm.fit(TRAIN, [], seed=0)


def test_of_the_nearest_replies_the_first_without_an_open_value_is_filled() -> None:
    # The old prompt's order number has no counterpart in a prompt without one.
    cases = [("To LK-1.", "LK-1 from Ana Lima"), ("Dear Ana Lima.", "from Ana Lima"), ("Bye Ana Lima.", "Ana Lima")]
    assert fewest_open(cases, "from Bo Ek").text == "Dear Bo Ek."
    assert fewest_open(cases[:1], "from Bo Ek") == ("To LK-1.", 1)


@pytest.mark.parametrize("settings", [{"k": (1,)}, {"near": ("meaning",)}, {"instruction": "full"}])
def test_settings_without_effect_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="an arm of kind 'template' (shows no|compares no|carries no) .*; drop"):
        ArmConfig(kind="template", **settings)
