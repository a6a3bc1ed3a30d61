"""Label and reply errors: planted ones come first, what cannot be judged is counted, nothing is repeated or dropped."""

from __future__ import annotations

import json

import numpy as np
import pytest

from metier.core.errors import ConfigError, DataError, MissingExtra
from metier.curate import label_errors
from metier.curate.label_errors import rank_label_errors, rank_reply_errors

WORDS = {
    "card": ["card", "arrive", "post", "delivery", "waiting", "plastic", "envelope"],
    "rate": ["exchange", "rate", "currency", "euro", "dollar", "convert", "abroad"],
    "pin": ["pin", "blocked", "code", "forgot", "unlock", "digits", "machine"],
}
SHARED = ["please", "my", "the", "help", "today", "why", "is", "with", "a"]


def sample(num_each: int, seed: int) -> tuple[list[str], list[str]]:
    """Short made-up questions of three kinds."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for label, own in WORDS.items():
        for _ in range(num_each):
            chosen = [*rng.choice(own, 3, replace=False), *rng.choice(SHARED, 4, replace=False)]
            texts.append(" ".join(rng.permutation(chosen)))
            labels.append(label)
    return texts, labels


def flipped(labels: list[str], places: list[int]) -> list[str]:
    """The labels with those at some places moved on to the next kind."""
    kinds = list(WORDS)
    return [kinds[(kinds.index(one) + 1) % 3] if i in places else one for i, one in enumerate(labels)]


def test_flipped_labels_come_first_with_the_label_they_had() -> None:
    texts, labels = sample(40, 1)
    places = [3, 17, 44, 71, 90, 111]
    review = rank_label_errors(texts, flipped(labels, places), seed=0, num_shown=6)
    assert sorted(s.place for s in review.suspects) == places
    assert [s.suggested for s in review.suspects] == [labels[s.place] for s in review.suspects]
    assert [s.score for s in review.suspects] == sorted((s.score for s in review.suspects), reverse=True)
    assert (review.num_rows, review.num_judged, review.not_judged, review.num_likely) == (120, 120, {}, 6)
    for suspect in review.suspects:
        assert 0.5 < suspect.score <= 1
        assert suspect.like not in (None, suspect.place)
        assert labels[suspect.like] == suspect.suggested


def test_reason_names_labels_and_counts_but_no_text() -> None:
    texts, labels = sample(40, 1)
    suspect = rank_label_errors(texts, flipped(labels, [3]), seed=0, num_shown=1).suspects[0]
    assert suspect.why.startswith("Labelled 'rate'; small models that did not see this label give it ")
    assert "'card' " in suspect.why
    assert "of the 25 most similar rows 2" in suspect.why  # 20 or more of 25
    assert not {word for word in texts[3].split() if word not in SHARED and word not in WORDS} & set(
        suspect.why.split()
    )


def test_same_rows_and_seed_give_the_same_list() -> None:
    texts, labels = sample(20, 2)
    wrong = flipped(labels, [5, 25])
    first, second = (rank_label_errors(texts, wrong, seed=7) for _ in range(2))
    assert first == second
    assert len(first.suspects) == 60  # every judged row is ranked when the list is long enough
    assert {s.place for s in first.suspects} == set(range(60))
    compared = [s for s in first.suspects if s.like is not None]
    assert len(compared) > 50
    assert all(wrong[s.like] == s.suggested and s.like != s.place for s in compared)


def test_list_says_what_it_is_in_a_sentence_and_in_json() -> None:
    texts, labels = sample(20, 2)
    review = rank_label_errors([*texts, " ", "x"], [*flipped(labels, [5]), "card", None], seed=7, num_shown=3)
    assert review.not_judged == {"no_label": 1, "no_text": 1}
    assert review.sentence == (
        f"60 of 62 rows judged, about {review.num_likely} labels may be wrong; the 3 most "
        "suspicious are listed for review, none is dropped; 1 not judged: no label; 1 not judged: no text."
    )
    values = json.loads(json.dumps(review.as_json()))
    assert values["suspects"][0]["place"] == 5
    assert values["sentence"] == review.sentence


def test_rare_labels_are_counted_and_not_called_wrong() -> None:
    texts, labels = sample(20, 3)
    review = rank_label_errors([*texts, "card post", "rate euro"], [*labels, "only one", "other one"], seed=0)
    assert review.not_judged == {"too_few_rows": 2}
    assert not {60, 61} & {s.place for s in review.suspects}


@pytest.mark.parametrize(
    ("labels", "reasons"),
    [
        (["a"] * 12, {"one_label": 12}),
        (["a"] * 11 + ["b"], {"too_few_rows": 1, "one_label": 11}),
        ([str(i) for i in range(12)], {"too_few_rows": 12}),
        ([None] * 12, {"no_label": 12}),
    ],
)
def test_nothing_to_compare_with_is_a_result_without_suspects(labels, reasons) -> None:
    review = rank_label_errors([f"text number {i}" for i in range(12)], labels, seed=0)
    assert (review.suspects, review.num_judged, review.num_likely) == ((), 0, None)
    assert review.not_judged == reasons
    assert review.sentence.startswith("None of 12 rows could be judged; ")


def test_two_labels_of_five_rows_are_the_fewest_judged() -> None:
    texts = [f"card post {i}" for i in range(5)] + [f"rate euro {i}" for i in range(5)]
    review = rank_label_errors(texts, ["card"] * 5 + ["rate"] * 5, seed=0)
    assert review.num_judged == 10
    assert review.num_likely == 0


def test_empty_texts_are_counted_and_texts_of_signs_or_one_word_do_not_stop() -> None:
    assert rank_label_errors(["", " \n"] * 10, ["a", "b"] * 10, seed=0).not_judged == {"no_text": 20}
    for text in ("same", "!", "\u200b"):
        review = rank_label_errors([text] * 20, ["a"] * 10 + ["b"] * 10, seed=0)
        assert review.num_judged == 20
        assert np.isfinite([s.score for s in review.suspects]).all()


def test_many_rows_are_judged_in_shards_that_keep_rare_labels_together(monkeypatch) -> None:
    texts, labels = sample(40, 4)
    places = [3, 50, 100]
    monkeypatch.setattr(label_errors, "MAX_LABEL_SHARD", 50)  # three shards
    review = rank_label_errors(texts, flipped(labels, places), seed=0, num_shown=3)
    assert sorted(s.place for s in review.suspects) == places
    assert review.num_judged == 120
    # Six rows of a second label stay in one of three shards; the rows of the others have nothing to compare with.
    few = rank_label_errors([*texts[:100], *texts[-6:]], ["card"] * 100 + ["pin"] * 6, seed=0)
    assert few.not_judged["one_label"] + few.num_judged == 106
    assert 6 < few.num_judged < 60


def test_wrong_calls_say_what_to_do() -> None:
    with pytest.raises(DataError, match=r"rank_label_errors: 2 texts and 1 labels; expected one for each text\."):
        rank_label_errors(["a", "b"], ["x"], seed=0)
    with pytest.raises(DataError, match=r"rank_label_errors: 0 rows; expected at least one row to judge\."):
        rank_label_errors([], [], seed=0)
    with pytest.raises(ConfigError, match=r"rank_label_errors: num_shown is 0; expected 1 or more\."):
        rank_label_errors(["a"], ["x"], seed=0, num_shown=0)
    with pytest.raises(ConfigError, match=r"rank_label_errors: by is 'guess'; expected 'odds' or 'cleanlab'\."):
        rank_label_errors(["a"], ["x"], seed=0, by="guess")
    with pytest.raises(DataError, match=r"rank_reply_errors: 2 texts and 1 replies; expected one for each text\."):
        rank_reply_errors(["a", "b"], ["x"], seed=0)


def test_cleanlab_missing_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cleanlab", None)  # import cleanlab now fails as if not installed
    with pytest.raises(
        MissingExtra, match=r"Ranking label errors by cleanlab needs 'cleanlab': pip install 'metier\[labels\]'"
    ):
        rank_label_errors(["a"], ["x"], seed=0, by="cleanlab")


def test_cleanlab_ranks_the_same_rows_first_and_counts_as_our_own_count_does() -> None:
    pytest.importorskip("cleanlab")
    texts, labels = sample(40, 1)
    places = [3, 17, 44, 71, 90, 111]
    ours, theirs = (
        rank_label_errors(texts, flipped(labels, places), seed=0, num_shown=6, by=by) for by in ("odds", "cleanlab")
    )
    assert sorted(s.place for s in theirs.suspects) == places
    assert theirs.num_likely == ours.num_likely


def test_confident_count_is_that_of_cleanlab_on_any_shares() -> None:
    find = pytest.importorskip("cleanlab.filter")
    rng = np.random.default_rng(5)
    for concentration in (0.1, 0.5, 2.0):
        share_NK = rng.dirichlet([concentration] * 4, size=300)
        code_N = np.array([rng.choice(4, p=share) for share in share_NK])
        expected = find.find_label_issues(code_N, share_NK, filter_by="confident_learning", n_jobs=1)
        assert label_errors._confidently_other(share_NK, code_N).tolist() == expected.tolist()


def test_confident_count_by_hand() -> None:
    share_NK = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.75, 0.25]])
    code_N = np.array([0, 0, 1, 1, 1])
    # Usual self-confidence: .85 for label 0, .65 for label 1; the last row (label 1) reaches neither: not counted.
    assert label_errors._confidently_other(share_NK, code_N).tolist() == [False] * 5
    share_NK[4] = [0.95, 0.05]  # usual self-confidence of label 1 falls to .58, and .95 is above the .85 of label 0
    assert label_errors._confidently_other(share_NK, code_N).tolist() == [False] * 4 + [True]


def replies_for(labels: list[str], seed: int) -> list[str]:
    """Free-text answers that depend on the kind of question."""
    rng = np.random.default_rng(seed)
    openings = {
        "card": "Your new plastic will be with you in five working days after dispatch",
        "rate": "We convert at the interbank price of the moment without any markup",
        "pin": "Enter the security menu and reset the four numbers there",
    }
    return [f"{openings[label]} {' '.join(rng.choice(SHARED, 3))}" for label in labels]


def test_replies_to_other_prompts_come_first() -> None:
    texts, labels = sample(40, 6)
    replies = replies_for(labels, 6)
    for first, second in ((2, 45), (10, 90), (50, 100)):  # pairs of different kinds change places
        replies[first], replies[second] = replies[second], replies[first]
    review = rank_reply_errors(texts, replies, seed=0, num_shown=6)
    assert sorted(s.place for s in review.suspects) == [2, 10, 45, 50, 90, 100]
    suspect = review.suspects[0]
    assert suspect.why.startswith("Of 119 other replies ")
    assert suspect.why.endswith(
        "fit this prompt better, by the words shared with it and by what similar prompts were answered."
    )
    assert labels[suspect.like] == labels[suspect.place]  # the reply that fits best answers a question of this kind
    assert (suspect.label, suspect.suggested, review.num_likely) == (None, None, None)
    assert review == rank_reply_errors(texts, replies, seed=0, num_shown=6)


def test_replies_that_are_all_alike_or_too_few_accuse_nobody() -> None:
    texts, _ = sample(10, 7)
    same = rank_reply_errors(texts, ["Thank you."] * 30, seed=0)
    assert {round(s.score, 6) for s in same.suspects} == {0.0}
    few = rank_reply_errors(texts[:19], ["Thank you."] * 19, seed=0)
    assert (few.suspects, few.not_judged) == ((), {"too_few_rows": 19})
    empty = rank_reply_errors(texts, ["Thank you."] * 28 + ["", " "], seed=0)
    assert (empty.num_judged, empty.not_judged) == (28, {"no_text": 2})
    assert rank_reply_errors(["word"] * 20, ["word"] * 20, seed=0).num_judged == 20


def test_many_replies_are_judged_in_shards(monkeypatch) -> None:
    texts, labels = sample(40, 6)
    replies = replies_for(labels, 6)
    replies[2], replies[45] = replies[45], replies[2]
    monkeypatch.setattr(label_errors, "MAX_REPLY_SHARD", 60)
    review = rank_reply_errors(texts, replies, seed=0, num_shown=2)
    assert sorted(s.place for s in review.suspects) == [2, 45]
    assert review.suspects[0].why.startswith("Of 59 other replies ")
