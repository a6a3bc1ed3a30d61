"""Checks of what stands in a reply, letter by letter: labels, gold text, patterns, beginnings, words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from metier.conventions.placeholders import check_pattern, compiled, fill, fill_pattern, plain
from metier.conventions.registry import PASSED, Check, CheckResult, register
from metier.conventions.text import asked_text, bounded, fold, listed, prompt_text, shown, words
from metier.core.errors import ConfigError
from metier.core.rows import Row

__all__ = ["Contains", "EndsWith", "Exact", "Forbids", "Glossary", "LabelIn", "QuotesInPrompt", "Regex", "StartsWith"]


def _no_blank(arg: str, texts: Iterable[str]) -> None:
    """Refuse an empty list or an empty text in it: both would make a check that says nothing."""
    items = list(texts)
    if not items or not all(item.strip() for item in items):
        raise ConfigError(f"{arg} is {items}; expected one or more texts, none empty.")


@register("label_in")
@dataclass(frozen=True, kw_only=True, slots=True)
class LabelIn(Check):
    """The reply is one of the labels, spacing aside; nothing stands around it."""

    labels: tuple[str, ...]
    """The labels."""

    def __post_init__(self) -> None:
        _no_blank("labels", self.labels)

    def result(self, row: Row, text: str) -> CheckResult:
        """1 when the folded reply is a label."""
        if fold(text) in {fold(fill(label, row)) for label in self.labels}:
            return PASSED
        return CheckResult(0.0, f"The reply {shown(fold(text))} is not one of the labels {listed(self.labels)}.")

    def guideline(self) -> str:
        """The labels, listed."""
        return f"Answer with exactly one of these labels and nothing else: {', '.join(map(plain, self.labels))}."


@register("exact")
@dataclass(frozen=True, kw_only=True, slots=True)
class Exact(Check):
    """The reply equals the gold reply, spacing aside."""

    ignore_case: bool = False
    """Whether upper and lower case are the same."""

    @property
    def needs_gold(self) -> bool:
        """Always."""
        return True

    def result(self, row: Row, text: str) -> CheckResult:
        """1 when both texts are equal after folding; 0 for every reply where the gold is empty."""
        reply, gold = fold(text), fold(row.gold)
        if self.ignore_case:
            reply, gold = reply.casefold(), gold.casefold()
        if not gold:
            return CheckResult(0.0, "The gold reply is empty, so nothing can equal it.")
        return PASSED if reply == gold else CheckResult(0.0, f"The reply {shown(reply)} is not {shown(gold)}.")

    def guideline(self) -> str:
        """That nothing may be added."""
        return "Answer with the exact answer and nothing else."


@register("regex")
@dataclass(frozen=True, kw_only=True, slots=True)
class Regex(Check):
    """The pattern is found often enough, and not too often; `^` and `$` match at line ends."""

    pattern: str
    """Regular expression."""
    min_count: int = 1
    """Fewest matches."""
    max_count: int | None = None
    """Most matches; by default any number."""

    def __post_init__(self) -> None:
        check_pattern("pattern", self.pattern)
        if self.min_count < 0 or (self.max_count is not None and self.max_count < self.min_count):
            raise ConfigError(
                f"min_count is {self.min_count} and max_count {self.max_count}; expected 0 <= min <= max."
            )
        if self.min_count == 0 and self.max_count is None:
            raise ConfigError("min_count is 0 and max_count is not given: every reply would pass. Give one of them.")

    def result(self, row: Row, text: str) -> CheckResult:
        """1 when the number of matches is within the counts."""
        num = sum(1 for _ in fill_pattern(self.pattern, row).finditer(text))
        if num < self.min_count:
            found = f"{num} times" if num else "nowhere"
            return CheckResult(
                0.0, f"The pattern {shown(self.pattern)} is found {found}; at least {self.min_count} expected."
            )
        if self.max_count is not None and num > self.max_count:
            return CheckResult(
                0.0, f"The pattern {shown(self.pattern)} is found {num} times; at most {self.max_count} allowed."
            )
        return PASSED

    def guideline(self) -> str:
        """The pattern with its counts."""
        if self.max_count == 0:
            return f"Never write text that matches the pattern {plain(self.pattern)} ({{name}})."
        most = "" if self.max_count is None else f" and at most {self.max_count}"
        counts = f"at least {self.min_count}{most} times"
        return f"Write text that matches the pattern {plain(self.pattern)} {counts} ({{name}})."


@register("starts_with")
@dataclass(frozen=True, kw_only=True, slots=True)
class StartsWith(Check):
    """The reply begins with one of the texts, spacing aside, case as written."""

    any: tuple[str, ...]
    """Allowed beginnings."""

    def __post_init__(self) -> None:
        _no_blank("any", self.any)

    def result(self, row: Row, text: str) -> CheckResult:
        """1 when one of the beginnings is there."""
        reply, wanted = fold(text), [fold(fill(item, row)) for item in self.any]
        if reply.startswith(tuple(wanted)):
            return PASSED
        return CheckResult(0.0, f"The reply begins {shown(reply[:40])}, not with {listed(wanted)}.")

    def guideline(self) -> str:
        """The beginnings."""
        return f"Begin the reply with {_either(self.any)}."


@register("ends_with")
@dataclass(frozen=True, kw_only=True, slots=True)
class EndsWith(Check):
    """The reply ends with one of the texts, spacing aside, case as written."""

    any: tuple[str, ...]
    """Allowed endings."""

    def __post_init__(self) -> None:
        _no_blank("any", self.any)

    def result(self, row: Row, text: str) -> CheckResult:
        """1 when one of the endings is there."""
        reply, wanted = fold(text), [fold(fill(item, row)) for item in self.any]
        if reply.endswith(tuple(wanted)):
            return PASSED
        return CheckResult(0.0, f"The reply ends {shown(reply[-40:])}, not with {listed(wanted)}.")

    def guideline(self) -> str:
        """The endings."""
        return f"End the reply with {_either(self.any)}."


@register("contains")
@dataclass(frozen=True, kw_only=True, slots=True)
class Contains(Check):
    """The reply holds texts that are given, or values found in this row's prompt or gold reply."""

    all: tuple[str, ...] = ()
    """Texts of which every one must occur."""
    any: tuple[str, ...] = ()
    """Texts of which one must occur."""
    from_prompt: str = ""
    """Pattern; every value it finds (group 1 if there is one) in what the user and tools said must occur."""
    from_gold: str = ""
    """Pattern; every value it finds (group 1 if there is one) in the gold reply must occur."""
    ignore_case: bool = True
    """Whether upper and lower case are the same."""

    def __post_init__(self) -> None:
        if not (self.all or self.any or self.from_prompt or self.from_gold):
            raise ConfigError("none of all, any, from_prompt and from_gold is given; give at least one.")
        for arg, texts in (("all", self.all), ("any", self.any)):
            if texts:
                _no_blank(arg, texts)
        check_pattern("from_prompt", self.from_prompt)
        check_pattern("from_gold", self.from_gold)

    @property
    def binary(self) -> bool:
        """Only where a single text is looked for; else the score is the share found."""
        return len(self.all) + bool(self.any) == 1 and not self.from_prompt and not self.from_gold

    @property
    def needs_gold(self) -> bool:
        """With `from_gold`."""
        return bool(self.from_gold)

    def nothing_to_check(self, row: Row) -> str:
        """Says which pattern found nothing in this row."""
        for where, pattern, source in (
            ("prompt", self.from_prompt, asked_text(row)),
            ("gold reply", self.from_gold, row.gold),
        ):
            if pattern and not self._values(pattern, row, source):
                return f"the pattern {shown(pattern)} finds nothing in the {where}"
        return ""

    def result(self, row: Row, text: str) -> CheckResult:
        """The share of what is looked for that was found; 1 when this row gives nothing to look for."""
        reply = self._cased(fold(text))
        missing, num = [], 0
        for item in self.all:
            wanted = fold(fill(item, row))
            num += 1
            if self._cased(wanted) not in reply:
                missing.append(shown(wanted))
        if self.any:
            choices = [fold(fill(item, row)) for item in self.any]
            num += 1
            if not [item for item in choices if self._cased(item) in reply]:
                missing.append(f"any of {listed(choices)}")
        values = self._values(self.from_prompt, row, asked_text(row)) | self._values(self.from_gold, row, row.gold)
        for value in values:
            num += 1
            if not compiled(bounded(self._cased(value))).search(reply):
                missing.append(shown(value))
        if not missing:
            return PASSED
        return CheckResult((num - len(missing)) / num, f"The reply does not contain {', '.join(missing)}.")

    def guideline(self) -> str:
        """What has to occur."""
        parts = []
        if self.all:
            parts.append(f"Use {' and '.join(shown(plain(item)) for item in self.all)} in the reply.")
        if self.any:
            parts.append(f"Use {_either(self.any)} in the reply.")
        if self.from_prompt:
            pattern = plain(self.from_prompt)
            parts.append(f"Repeat, exactly as written, every {{name}} in the message (text that matches {pattern}).")
        if self.from_gold:
            parts.append("State the right {name}.")
        return " ".join(parts)

    def _cased(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text

    def _values(self, pattern: str, row: Row, source: str) -> dict[str, None]:
        """The distinct, non-empty values the pattern finds in a text, in order; none without a pattern."""
        if not pattern:
            return {}
        expression = fill_pattern(pattern, row)
        group = 1 if expression.groups else 0
        found = (fold(match[group] or "") for match in expression.finditer(source))
        distinct = {self._cased(value): value for value in found if value}
        return dict.fromkeys(distinct.values())


@register("forbids")
@dataclass(frozen=True, kw_only=True, slots=True)
class Forbids(Check):
    """None of the words occurs (whole words, case ignored), and the pattern finds nothing."""

    words: tuple[str, ...] = ()
    """Words or phrases."""
    pattern: str = ""
    """Regular expression, case as written."""

    def __post_init__(self) -> None:
        if not self.words and not self.pattern:
            raise ConfigError("neither words nor pattern is given; give at least one.")
        if self.words:
            _no_blank("words", self.words)
        check_pattern("pattern", self.pattern)

    def result(self, row: Row, text: str) -> CheckResult:
        """0 when anything forbidden is found; the empty reply passes."""
        reply = fold(text).casefold()
        wanted = [fold(fill(word, row)) for word in self.words]
        found = [word for word in wanted if compiled(bounded(word.casefold())).search(reply)]
        if self.pattern and (match := fill_pattern(self.pattern, row).search(text)):
            found.append(match[0])
        return CheckResult(0.0, f"The reply contains {listed(found)}, which is forbidden.") if found else PASSED

    def guideline(self) -> str:
        """What must not occur."""
        parts = [f"Never use {_either(self.words)}."] if self.words else []
        if self.pattern:
            parts.append(f"Never write text that matches the pattern {plain(self.pattern)} ({{name}}).")
        return " ".join(parts)


@register("glossary")
@dataclass(frozen=True, kw_only=True, slots=True)
class Glossary(Check):
    """Where a forbidden variant of a term would stand, the preferred term stands."""

    terms: Mapping[str, tuple[str, ...]] = field()
    """Preferred term to its forbidden variants."""

    def __post_init__(self) -> None:
        _no_blank("terms", self.terms)
        for preferred, variants in self.terms.items():
            _no_blank(f"terms.{preferred}", variants)
            if preferred in variants:
                raise ConfigError(f"terms.{preferred} forbids the preferred term itself; take it out of the list.")

    def result(self, row: Row, text: str) -> CheckResult:
        """0 when a variant occurs as whole words outside the preferred terms, case ignored unless only case differs."""
        reply = fold(text)
        for preferred in self.terms:
            reply = compiled(bounded(fold(fill(preferred, row)))).sub("\n", reply)
        wrong = []
        for preferred, variants in self.terms.items():
            for variant in (fold(fill(item, row)) for item in variants):
                case = "" if variant.casefold() == preferred.casefold() else "(?i)"
                if compiled(case + bounded(variant)).search(reply):
                    wrong.append(f"{shown(variant)} instead of {shown(preferred)}")
        return CheckResult(0.0, f"The reply says {', '.join(wrong)}.") if wrong else PASSED

    def guideline(self) -> str:
        """Every term with what it replaces."""
        rules = [f"{shown(plain(term))} instead of {_either(variants)}" for term, variants in self.terms.items()]
        return f"Say {'; say '.join(rules)}."


# Straight quotes pair up within a paragraph; the others open and close by their shape. Single quotes are
# left out: a closing one cannot be told from an apostrophe.
_QUOTED = re.compile(
    '"((?:[^"\n]|\n(?!\n))+)"|\u201c([^\u201c\u201d]+)\u201d|\u201e([^\u201c\u201d\u201e]+)[\u201c\u201d]|\u00ab([^\u00ab\u00bb]+)\u00bb'
)


@register("quotes_in_prompt")
@dataclass(frozen=True, kw_only=True, slots=True)
class QuotesInPrompt(Check):
    """Everything between double quotation marks occurs in the prompt, spacing, case and closing marks aside."""

    min_words: int = 1
    """Shortest quotation looked at, in words."""

    def __post_init__(self) -> None:
        if self.min_words < 1:
            raise ConfigError(f"min_words is {self.min_words}; expected 1 or more.")

    def result(self, row: Row, text: str) -> CheckResult:
        """0 when a quotation is not in the prompt; parts around "..." count apart; no quotation passes."""
        prompt = fold(prompt_text(row)).casefold()
        invented = []
        for match in _QUOTED.finditer(text):
            quote = next(group for group in match.groups() if group is not None)
            if len(words(quote)) < self.min_words:
                continue
            parts = [fold(part).strip(" .,;:!?").casefold() for part in re.split(r"\.\.\.|\u2026|\[\.*\]", quote)]
            if not all(part in prompt for part in parts):
                invented.append(fold(quote))
        return CheckResult(0.0, f"The quotation {listed(invented)} is not in the prompt.") if invented else PASSED

    def guideline(self) -> str:
        """That quotations are verbatim."""
        return "Put between quotation marks only words that occur in the message, exactly as they are written there."


def _either(texts: Iterable[str]) -> str:
    """Texts as alternatives in a guideline."""
    return " or ".join(shown(plain(text), limit=200) for text in texts)
