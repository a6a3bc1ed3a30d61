"""ROUGE-L and chrF of a reply against the gold reply: overlap of words in order, and of characters.

Overlap is not truth: a reply with one wrong number can score .95. Use them beside checks of values.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from metier.conventions.registry import PASSED, Check, CheckResult, register
from metier.core.errors import ConfigError
from metier.core.rows import Row

__all__ = ["Chrf", "RougeL", "chrf", "rouge_l"]

_TOKEN = re.compile(r"[^\W_]+")


def rouge_l(reply: str, gold: str) -> float:
    """ROUGE-L F-measure, 0-1: harmonic mean of the longest common subsequence's share of both texts' words.

    Source: Lin 2004, as in rouge_score 0.1.2 without stemming; words outside ASCII count here and are cut
    to pieces there. The subsequence is counted with bit vectors (Hyyro 2004), one long integer a word.
    """
    reply_words, gold_words = _TOKEN.findall(reply.lower()), _TOKEN.findall(gold.lower())
    if not reply_words or not gold_words:
        return 0.0
    common = _common_subsequence(reply_words, gold_words)
    return 2 * common / (len(reply_words) + len(gold_words))


def _common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence."""
    places: dict[str, int] = {}
    for i, word in enumerate(second):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(second)) - 1
    state = full
    for word in first:
        hit = state & places.get(word, 0)
        state = ((state + hit) | (state - hit)) & full
    return len(second) - state.bit_count()


def chrf(reply: str, gold: str, *, order: int = 6, beta: float = 2.0) -> float:
    """Character n-gram F-score, 0-1, white space left out, orders averaged before the F.

    Source: Popovic 2015, as in sacrebleu 2.6.0 with its defaults (chrF2, effective order).
    """
    reply_text, gold_text = "".join(reply.split()), "".join(gold.split())
    if reply_text and reply_text == gold_text:
        return 1.0  # not 0.9999..., which a sum of sixths gives
    precision = recall = 0.0
    # An order counts only where both texts are long enough to have n-grams of it.
    num_orders = min(order, len(reply_text), len(gold_text))
    for n in range(1, num_orders + 1):
        ours, theirs = _ngrams(reply_text, n), _ngrams(gold_text, n)
        hits = sum(min(count, theirs[ngram]) for ngram, count in ours.items() if ngram in theirs)
        precision += hits / (len(reply_text) - n + 1) / num_orders
        recall += hits / (len(gold_text) - n + 1) / num_orders
    if not precision + recall:
        return 0.0
    return min(1.0, (1 + beta**2) * precision * recall / (beta**2 * precision + recall))


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def _overlap_result(name: str, value: float, least: float | None) -> CheckResult:
    """The measure itself, or 0/1 against a least value."""
    if least is None:
        return PASSED if value == 1 else CheckResult(value, f"{name} with the gold reply is {value:.3f}.")
    return (
        PASSED if value >= least else CheckResult(0.0, f"{name} with the gold reply is {value:.3f}, below {least:g}.")
    )


def _check_least(least: float | None) -> None:
    if least is not None and not 0 < least <= 1:
        raise ConfigError(f"min is {least}; expected a number in (0, 1].")


@register("rouge_l")
@dataclass(frozen=True, kw_only=True, slots=True)
class RougeL(Check):
    """ROUGE-L F-measure against the gold reply."""

    min: float | None = None
    """Least F-measure that passes; without it the score is the F-measure."""

    def __post_init__(self) -> None:
        _check_least(self.min)

    @property
    def binary(self) -> bool:
        """With `min`."""
        return self.min is not None

    @property
    def reaches_one(self) -> bool:
        """With `min`."""
        return self.min is not None

    @property
    def needs_gold(self) -> bool:
        """Always."""
        return True

    def result(self, row: Row, text: str) -> CheckResult:
        """The F-measure, or whether it reaches `min`."""
        return _overlap_result("ROUGE-L", rouge_l(text, row.gold), self.min)

    def guideline(self) -> str:
        """That wording counts."""
        return "Keep to the wording and order of facts usual for such replies."


@register("chrf")
@dataclass(frozen=True, kw_only=True, slots=True)
class Chrf(Check):
    """chrF (character n-grams up to 6, beta 2) against the gold reply, 0-1."""

    min: float | None = None
    """Least chrF that passes; without it the score is the chrF."""

    def __post_init__(self) -> None:
        _check_least(self.min)

    @property
    def binary(self) -> bool:
        """With `min`."""
        return self.min is not None

    @property
    def reaches_one(self) -> bool:
        """With `min`."""
        return self.min is not None

    @property
    def needs_gold(self) -> bool:
        """Always."""
        return True

    def result(self, row: Row, text: str) -> CheckResult:
        """The chrF, or whether it reaches `min`."""
        return _overlap_result("chrF", chrf(text, row.gold), self.min)

    def guideline(self) -> str:
        """That wording counts."""
        return "Keep to the wording usual for such replies."
