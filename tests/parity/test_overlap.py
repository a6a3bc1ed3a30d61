"""ROUGE-L and chrF against the published implementations."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import CHRF

from metier.conventions import chrf, rouge_l

WORDS = ["the", "refund", "of", "GBP", "12.50", "follows", "Dear", "Ana,", "order", "4411", "is", "late."]
ROUGE, SACRE = RougeScorer(["rougeL"], use_stemmer=False), CHRF()


def texts(seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, 70))) for _ in range(2)]


@pytest.mark.parametrize("seed", range(60))
def test_rouge_l_equals_rouge_score(seed):
    reply, gold = texts(seed)
    assert rouge_l(reply, gold) == pytest.approx(ROUGE.score(gold, reply)["rougeL"].fmeasure, abs=1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_chrf_equals_sacrebleu(seed):
    reply, gold = texts(seed)
    assert chrf(reply, gold) == pytest.approx(SACRE.sentence_score(reply, [gold]).score / 100, abs=1e-12)


@settings(deadline=None)
@given(st.text(alphabet="ab c.D1\n", max_size=40), st.text(alphabet="ab c.D1\n", max_size=40))
def test_both_agree_on_odd_text(reply, gold):
    assert rouge_l(reply, gold) == pytest.approx(ROUGE.score(gold, reply)["rougeL"].fmeasure, abs=1e-12)
    assert chrf(reply, gold) == pytest.approx(SACRE.sentence_score(reply, [gold]).score / 100, abs=1e-12)


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_chrf_agrees_on_any_script(reply, gold):
    assert chrf(reply, gold) == pytest.approx(SACRE.sentence_score(reply, [gold]).score / 100, abs=1e-12)


def test_rouge_l_counts_words_outside_ascii_where_rouge_score_cuts_them():
    reply, gold = "f\u00fcr \u00fcber", "f\u00fcr \u00fcber"
    assert rouge_l(reply, gold) == 1.0
    assert rouge_l("f\u00fcr", "f\u00f6r") == 0.0
    assert ROUGE.score("f\u00f6r", "f\u00fcr")["rougeL"].fmeasure == 1.0


@pytest.mark.parametrize("num", range(1, 40))
def test_a_reply_that_is_the_gold_reply_scores_exactly_one(num):
    gold = " ".join((WORDS * 4)[:num])
    assert (rouge_l(gold, gold), chrf(gold, gold)) == (1.0, 1.0)
