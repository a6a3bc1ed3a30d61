"""Guesses for the next tokens of a reply that is decoded alone, from text seen before; checked, never trusted.

    >>> drafts = Drafts()
    >>> drafts.begin([5, 6, 7, 8, 9, 1, 5, 6])
    >>> drafts.add(7)
    >>> drafts.guess(5)
    [8, 9, 1]

A step of one row spends its time reading the weights, and eight tokens need them read no more often than one. So
the last tokens are looked up in the prompt, the reply so far and the requests before; what followed there is the
guess. The model's own choice at every place decides: the reply is the one it would be without guesses, to the token
in fp32 and up to near ties in bf16.

Source: prompt lookup decoding (Saxena 2023); here earlier requests are looked in as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

__all__ = ["Drafts"]

GRAM = 3
"""Tokens that must agree before what followed them is a guess."""
LENGTHS = (7, 3)
"""Tokens of a guess: few lengths, as for every new one a product is compiled anew."""
KEPT_TEXTS = 64
"""Requests looked in, the newest."""

Gram = tuple[int, ...]


class Drafts:
    """The texts of the last requests, and where each run of three tokens was last followed by another."""

    def __init__(self) -> None:
        self._texts: deque[list[int]] = deque()
        self._next_by_gram: dict[Gram, tuple[list[int], int]] = {}

    def begin(self, prompt: Sequence[int]) -> None:
        """A new request; its text grows by `add`."""
        if len(self._texts) == KEPT_TEXTS:
            self._forget(self._texts.popleft())
        self._texts.append([])
        for token in prompt:
            self.add(token)

    def add(self, token: int) -> None:
        """One more token of the newest text."""
        text = self._texts[-1]
        if len(text) >= GRAM:
            self._next_by_gram[tuple(text[-GRAM:])] = (text, len(text))
        text.append(token)

    def guess(self, max_tokens: int) -> list[int]:
        """What followed the last tokens where they stood before: 7, 3 or, where they are new, no tokens."""
        text, at = self._next_by_gram.get(tuple(self._texts[-1][-GRAM:]), ([], 0))
        known = min(max_tokens, len(text) - at)
        return next((text[at : at + length] for length in LENGTHS if length <= known), [])

    def _forget(self, old: list[int]) -> None:
        """Drop the places that lie in a text."""
        for at in range(GRAM, len(old)):
            gram = tuple(old[at - GRAM : at])
            if gram in self._next_by_gram and self._next_by_gram[gram][0] is old:
                del self._next_by_gram[gram]
