"""The arms over a language model, with a tiny random one: what is put before it, chosen, logged and restored."""

from dataclasses import replace

import pytest

from metier.arms import FewShotArm, PromptArm, Replier, RetrievalArm, TunedArm
from metier.arms.replier import with_instruction
from metier.core.errors import DataError
from metier.core.rows import Role
from metier.core.trials import SkipReason
from tests.arms.builders import grader, row, rows, with_golds

TRAIN = rows([(f"Where is order {i}?", f"Order {i} is late.") for i in range(6)])
DEV = rows([(f"Where is my order {i}?", f"Order {i} is here.") for i in range(20, 24)])
LENGTH = grader(lambda row, text: len(text) % 11 / 11)  # any function of the reply that tells candidates apart
LONG = "Answer kindly. " * 900


@pytest.fixture(scope="module")
def replier(tmp_path_factory):
    from metier.engine import close, load
    from metier.models import make_tiny_model
    from metier.render import Renderer

    folder = make_tiny_model(
        tmp_path_factory.mktemp("tiny"), texts=[r.prompt_text for r in TRAIN], width=32, num_layers=1
    )
    handle = load(folder, dtype="fp32", threads=1)
    yield Replier(handle, Renderer(folder), max_reply_tokens=6, max_batch=1)
    close(handle)


def recipes(replier, instruction="Be brief."):
    return {
        "prompt": PromptArm("prompt", replier, LENGTH, {"one": instruction, "two": f"{instruction} Be kind."}),
        "few_shot": FewShotArm("few_shot", replier, LENGTH, instruction, (1, 2)),
        "retrieval": RetrievalArm("retrieval", replier, LENGTH, instruction, (1, 3)),
    }


TRIED = {
    "prompt": ["one", "two"],
    "few_shot": [f"set {s}, k={k}" for s in (1, 2, 3) for k in (1, 2)],
    "retrieval": ["k=1", "k=3"],
}
KINDS = list(TRIED)


def fit(recipe, train=TRAIN, dev=DEV, seed=3):
    return recipe.fit(train, dev, seed=seed)


def texts(arm, asked):
    return [(reply.text, reply.tokens_in) for reply in arm.reply(asked)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_is_logged_and_the_best_is_kept(replier, kind: str) -> None:
    arm = fit(recipes(replier)[kind])
    assert [c.name for c in arm.chosen_from] == TRIED[kind]
    score = {c.name: c.score for c in arm.chosen_from}
    told = arm.describe()
    chosen = {"prompt": told.get("wording"), "few_shot": told.get("choice"), "retrieval": f"k={told.get('k')}"}[kind]
    assert score[chosen] == max(score.values())
    assert told["carries"] == "full"


@pytest.mark.parametrize("kind", KINDS)
def test_restored_it_is_the_same_arm(replier, kind: str) -> None:
    recipe = recipes(replier)[kind]
    arm = fit(recipe)
    again = recipe.restore(TRAIN, arm.describe())
    assert (again.fingerprint, again.describe(), again.name) == (arm.fingerprint, arm.describe(), kind)
    assert texts(again, DEV) == texts(arm, DEV)
    assert fit(recipe).describe() == arm.describe()  # the same seed chooses the same


@pytest.mark.parametrize("carries", ["full", "short", "none"])
@pytest.mark.parametrize("kind", ["few_shot", "retrieval"])
def test_an_arm_of_examples_tells_which_instruction_it_carries(replier, kind: str, carries: str) -> None:
    recipe = replace(recipes(replier)[kind], carries=carries)
    arm = fit(recipe)
    assert arm.describe()["carries"] == carries
    assert recipe.restore(TRAIN, arm.describe()).describe() == arm.describe()


@pytest.mark.parametrize("kind", KINDS)
def test_the_gold_of_the_rows_asked_is_never_looked_at(replier, kind: str) -> None:
    arm = fit(recipes(replier)[kind])
    assert texts(arm, with_golds(DEV, "Another gold.")) == texts(arm, DEV)


def test_fingerprints_differ_between_arms_instructions_and_examples(replier) -> None:
    found = [fit(recipes(replier, text)[kind]).fingerprint for kind in KINDS for text in ("Be brief.", "Be long.")]
    found += [
        fit(recipes(replier)["few_shot"], seed=8).fingerprint,
        fit(recipes(replier)["retrieval"], TRAIN[:4]).fingerprint,
    ]
    tuned = TunedArm("tuned", lambda: replier, None)
    found += [fit(tuned).fingerprint, fit(replace(tuned, instruction="Be brief.")).fingerprint]
    assert len(set(found)) == len(found) == 10


def test_what_they_need(replier) -> None:
    for kind in ("few_shot", "retrieval"):
        recipe = recipes(replier)[kind]
        assert recipe.needs([], DEV) is SkipReason.NO_TRAIN_ROWS
        assert recipe.needs(TRAIN, DEV) is None
        assert recipes(replier, LONG)[kind].needs(TRAIN, DEV) is SkipReason.PROMPT_TOO_LONG
    assert PromptArm("p", replier, LENGTH, {}).needs(TRAIN, DEV) is SkipReason.NO_GUIDELINES
    assert TunedArm("t", lambda: replier, None).needs([], DEV) is SkipReason.NO_TRAIN_ROWS


@pytest.mark.parametrize("kind", KINDS)
def test_no_dev_rows_is_an_error(replier, kind: str) -> None:
    with pytest.raises(DataError, match="and 0 dev rows; need at least one each"):
        fit(recipes(replier)[kind], dev=[])


@pytest.mark.parametrize("kind", ["few_shot", "retrieval"])
def test_one_train_row_is_shown_whatever_k(replier, kind: str) -> None:
    arm = fit(recipes(replier)[kind], TRAIN[:1])
    assert {c.name.split(", ")[-1] for c in arm.chosen_from} == {"k=1"}


def contents(talk):
    return [(m.role, m.content) for m in talk]


def test_examples_stand_between_instruction_and_prompt(replier) -> None:
    asked = row("Where is it?", "secret gold", system="You are a shop.")
    assert contents(with_instruction(asked, "Be brief.", TRAIN[:1])) == [
        (Role.SYSTEM, "Be brief.\n\nYou are a shop."),
        (Role.USER, "Where is order 0?"),
        (Role.ASSISTANT, "Order 0 is late."),
        (Role.USER, "Where is it?"),
    ]
    assert contents(with_instruction(asked, None)) == [(Role.SYSTEM, "You are a shop."), (Role.USER, "Where is it?")]


def test_retrieval_shows_the_nearest_row_last(replier) -> None:
    train = rows([("lamp broken", "near"), ("tent wet", "far")])
    arm = fit(RetrievalArm("r", replier, LENGTH, "", (2,)), train)
    asked = row("lamp broken again", "?")
    talk = arm.conversation(asked, arm.index.nearest([asked], 2)[0])
    assert [m.content for m in talk if m.role is Role.ASSISTANT] == ["far", "near"]


def test_examples_that_do_not_fit_are_left_out_the_farthest_first(replier) -> None:
    train = rows([("lamp", "short"), ("lamp lamp", "long " * 1500)])
    arm = fit(RetrievalArm("r", replier, LENGTH, "", (2,)), train)
    talk = arm.conversation(DEV[0], train)
    assert [m.content for m in talk if m.role is Role.ASSISTANT] == ["short"]
    few = fit(FewShotArm("f", replier, LENGTH, "", (2,)), train)
    assert [c.name for c in few.chosen_from] == ["shortest row, k=1"]
    assert few.describe()["shots"] == [train[0].row_id]
    assert [m.content for m in replace(few, shots=train[::-1]).conversation(DEV[0]) if m.role is Role.ASSISTANT] == []


def test_a_prompt_beyond_the_context_gets_an_empty_reply_and_the_others_are_answered(replier) -> None:
    asked = [DEV[0], row(LONG, "?"), DEV[1]]
    replies = replier.reply(asked, [with_instruction(r, None) for r in asked])
    assert (replies[1].text, replies[1].tokens_out, replies[1].finish) == ("", 0, "length")
    assert replies[1].tokens_in > 2048
    alone = replier.reply([DEV[1]], [with_instruction(DEV[1], None)])[0]
    assert (replies[2].text, replies[2].tokens_out) == (alone.text, alone.tokens_out)
    assert 1 <= replies[0].tokens_out <= 6
    assert replier.reply([], []) == []


def test_the_tuned_arm_is_the_same_fitted_and_restored(replier) -> None:
    recipe = TunedArm("tuned", lambda: replier, "Be brief.", carries="short")
    arm = recipe.fit(TRAIN, DEV, seed=5)
    again = recipe.restore(TRAIN, arm.describe())
    assert arm.describe() == {"carries": "short", "tried": []}
    assert (again.fingerprint, texts(again, DEV)) == (arm.fingerprint, texts(arm, DEV))
