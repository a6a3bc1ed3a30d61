import csv
from pathlib import Path

import numpy as np
import pytest

from metier.arms import SmallArm
from metier.arms.nearest import NearestRows
from metier.core.errors import DataError
from metier.core.trials import SkipReason
from tests.arms.builders import EXACT, row, rows, with_golds

LABELLED = rows([(f"my {w} number {i} is broken" if i % 2 else f"refund money {w} {i}", "fault" if i % 2 else "money") for i, w in enumerate("abcdefghij")], label=True)  # fmt: skip
TICKETS = rows(
    [
        (f"Where is order LK-{i}? Thanks, {n}", f"Hello {n}, LK-{i} is late.")
        for i, n in enumerate(["Ana", "Bo", "Cy", "Di"])
    ]
)
ASKED = [row("Where is order LK-77? Thanks, Eve", "Hello Eve, LK-77 is late.", number=77)]


def fit(train, dev):
    return SmallArm("small", EXACT).fit(train, dev, seed=3)


def texts(arm, asked):
    return [reply.text for reply in arm.reply(asked)]


def test_labels_are_learned_and_every_setting_is_scored_on_all_dev_rows() -> None:
    dev = rows([("the lamp is broken", "fault"), ("I want money", "money")] * 15, label=True)
    arm = fit(LABELLED, dev)
    assert texts(arm, dev) == [r.gold for r in dev]
    assert [c.num_rows for c in arm.chosen_from] == [30] * 6
    assert arm.describe()["setting"]["model"] == "classifier"


def test_nearly_as_many_labels_as_rows_are_learned_without_a_warning() -> None:
    """A warning fails a test here; on a user's screen it would speak of regression."""
    words = "abcdefghijklmnopqrstuvwxyz"
    train = rows([(f"my {w} is broken", f"fault {w}") for w in words] + [("my a is torn", "fault a")], label=True)
    asked = rows([("b is broken", "fault b")], label=True)
    assert texts(fit(train, asked), asked) == ["fault b"]


def test_replies_are_the_nearest_ones_with_this_prompts_values() -> None:
    arm = fit(TICKETS, ASKED)
    assert texts(arm, ASKED) == ["Hello Eve, LK-77 is late."]
    assert {c.name: c.score for c in arm.chosen_from if "slots=False" in c.name} == {
        "model=nearest, analyzer=word, slots=False, masked=False": 0.0,
        "model=nearest, analyzer=char_wb, slots=False, masked=False": 0.0,
    }


def test_of_alike_cases_the_one_with_closer_numbers_answers() -> None:
    train = rows([("It came 90 days ago, refund", "No."), ("It came 3 days ago, refund", "Yes.")])
    dev = [row("It came 5 days ago, refund", "Yes."), row("It came 70 days ago, refund", "No.", number=1)]
    assert texts(fit(train, dev), dev) == ["Yes.", "No."]


def test_a_reply_whose_values_all_have_counterparts_goes_before_a_nearer_one() -> None:
    train = rows(
        [("lamp broken badly, thanks, Ana Lima", "Dear Ana Lima."), ("lamp dented, see a@b.org", "To a@b.org.")]
    )
    asked = [row("lamp broken badly, see x@y.org", "?")]
    setting = {"model": "nearest", "analyzer": "word", "slots": True, "masked": False}
    arm = SmallArm("small", EXACT).restore(train, {"setting": setting, "tried": []})
    assert NearestRows.build(train).nearest(asked, 1) == [train[:1]]
    assert texts(arm, asked) == ["To x@y.org."]


@pytest.mark.parametrize(("train", "dev"), [(LABELLED, LABELLED[:2]), (TICKETS, ASKED)], ids=["labels", "replies"])
def test_the_gold_of_the_rows_asked_is_never_looked_at(train, dev) -> None:
    arm = fit(train, dev)
    assert texts(arm, with_golds(dev, "another gold 999")) == texts(arm, dev)


@pytest.mark.parametrize(("train", "dev"), [(LABELLED, LABELLED[:2]), (TICKETS, ASKED)], ids=["labels", "replies"])
def test_restored_it_is_the_same_arm(train, dev) -> None:
    arm = fit(train, dev)
    again = SmallArm("small", EXACT).restore(train, arm.describe())
    assert (again.fingerprint, again.describe()) == (arm.fingerprint, arm.describe())
    assert texts(again, dev) == texts(arm, dev)
    assert again.chosen_from == arm.chosen_from


def test_other_train_rows_give_another_fingerprint() -> None:
    assert fit(TICKETS, ASKED).fingerprint != fit(TICKETS[:3], ASKED).fingerprint


def test_what_it_needs() -> None:
    arm = SmallArm("small", EXACT)
    assert arm.needs([], []) is SkipReason.NO_TRAIN_ROWS
    assert arm.needs(rows([("a", "x"), ("b", "x")], label=True), []) is SkipReason.ONE_CLASS
    assert arm.needs(rows([("a", "x"), ("b", "x")]), []) is None  # replies may all be the same
    assert arm.needs(LABELLED, []) is None


def test_no_dev_rows_is_an_error_and_no_rows_asked_is_none() -> None:
    with pytest.raises(DataError, match="6 candidates and 0 dev rows"):
        fit(TICKETS, [])
    assert fit(TICKETS, ASKED).reply([]) == []
    assert fit(LABELLED, LABELLED[:2]).reply([]) == []


def test_one_train_row_answers_everything() -> None:
    assert texts(fit(TICKETS[:1], ASKED), ASKED) == ["Hello Eve, LK-77 is late."]


def test_no_tokens_of_a_language_model_are_counted() -> None:
    reply = fit(TICKETS, ASKED).reply(ASKED)[0]
    assert (reply.tokens_in, reply.tokens_out, reply.logprob, reply.finish) == (0, 0, None, "stop")
    assert reply.seconds > 0


DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "banking77"


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/banking77")
def test_on_banking77_it_is_a_strong_rival() -> None:
    def read(name: str, every: int):
        with (DATA / name).open(newline="") as file:
            pairs = [tuple(line.values())[:2] for line in csv.DictReader(file)]
        keep = {label for _, label in pairs}
        keep = set(sorted(keep)[:4])
        return rows([p for p in pairs if p[1] in keep][::every], label=True)

    train, dev = read("train.csv", 8), read("test.csv", 4)
    arm = fit(train, dev)
    score = np.mean([s.score for s in EXACT.score_all(dev, texts(arm, dev))])
    assert score > 0.85  # guessing is right once in four
