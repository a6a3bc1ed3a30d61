"""Rows whose label or reply is probably wrong, the most suspicious first: a list for review, never a reason to drop.

    review = rank_label_errors(["my card is lost", ...], ["lost_card", ...], seed=0)
    review.suspects[0].why    # "Labelled 'card_fees'; small models that did not see this label give it 2 % ..."

A place is the position of a row in the lists given. No text is repeated in the answer. Every row is judged by models
that did not see its own label. It does not find an error that is made everywhere in the same way, and a rare but right
label looks like a wrong one: people decide.
"""

# Shapes: N rows, K labels, D dimensions, k neighbours, B rows of a block.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from metier.core.errors import ConfigError, DataError
from metier.core.extras import require
from metier.core.seeds import derived_seed, generator
from metier.curate.left_out import BLOCK, NEIGHBOURS, NUM_FOLDS, left_out, mean_shares, nearest, terms_of, topics_of

__all__ = ["ReviewList", "Suspect", "rank_label_errors", "rank_reply_errors"]

MIN_LABEL_ROWS = 5
"""Rows of a label from which its rows are judged: with fewer, some models have hardly seen the label."""
MIN_REPLY_ROWS = 20
"""Rows from which replies are judged: each is compared with all others."""
MAX_LABEL_SHARD = 20_000
MAX_REPLY_SHARD = 5_000
"""More rows are judged in random shards of at most so many: time grows with the rows, memory does not."""
OTHER_WEIGHT = 0.5
"""Exponent of the best other label's share in the odds: 0 asks only how unlikely the label is, 1 only whether another
label is likelier. Chosen with the constants around it on it_tickets and the test half of banking77."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """One row to look at."""

    place: int
    score: float
    """Higher is more suspicious. Labels: 0-1, odds against the label. Replies: standard deviations by which the reply
    fits its prompt worse than the average reply does; negative when it fits better."""
    why: str
    label: str | None = None
    """The label given; None when a reply is judged."""
    suggested: str | None = None
    """The likeliest other label."""
    like: int | None = None
    """Place of a row to compare with: the most similar one with the suggested label; for replies, the best fitting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewList:
    """The most suspicious rows and what was not judged."""

    suspects: tuple[Suspect, ...]
    num_rows: int
    num_judged: int
    not_judged: Mapping[str, int]
    """Rows by reason: no_label, no_text, too_few_rows (of this label, or in all), one_label (nothing to compare)."""
    num_likely: int | None
    """Labels that confident learning counts as wrong; None where none was judged, and for replies."""

    @property
    def sentence(self) -> str:
        """What was found, for a person."""
        skipped = "".join(f"; {n:,} not judged: {reason.replace('_', ' ')}" for reason, n in self.not_judged.items())
        if not self.num_judged:
            return f"None of {self.num_rows:,} rows could be judged{skipped}."
        likely = "" if self.num_likely is None else f", about {self.num_likely:,} labels may be wrong"
        return (
            f"{self.num_judged:,} of {self.num_rows:,} rows judged{likely}; the "
            f"{len(self.suspects):,} most suspicious are listed for review, none is dropped{skipped}."
        )

    def as_json(self) -> dict[str, Any]:  # Any: JSON values
        """The fields and the sentence."""
        return {**asdict(self), "suspects": [asdict(s) for s in self.suspects], "sentence": self.sentence}


class _Judged(NamedTuple):
    """What is known of every row of one shard; parallel arrays."""

    score_N: Floats
    given_N: Floats
    best_N: Floats
    suggested_N: Ints
    like_N: Ints
    """Place in the shard; -1 for none."""
    votes_N2: Ints
    """Of the nearest rows, those with the suggested label and those with the given one."""
    likely_N: npt.NDArray[np.bool_]


def rank_label_errors(
    texts: Sequence[str],
    labels: Sequence[str | None],
    *,
    seed: int,
    num_shown: int = 100,
    by: Literal["odds", "cleanlab"] = "odds",
) -> ReviewList:
    """The rows whose label is most likely wrong, for review; same rows and seed, same list.

    Four small models say how likely each label is for each text, none of them having seen the row's own label: a
    logistic regression on topics and a linear SVM on terms (five folds), a ridge regression and the nearest rows
    (leave one out). Their shares are averaged, the first counting twice. `by="odds"` ranks by the square root of the
    best other label's share against the share of the given one; `by="cleanlab"` ranks and counts with cleanlab on the
    same shares.

    Raises:
        DataError: no rows, or lists of different lengths.
        ConfigError: `num_shown` below 1, or an unknown `by`.
        MissingExtra: cleanlab is asked for and not installed.

    Source: Northcutt, Jiang & Chuang 2021 (confident learning); the average of models and the odds are our own.
    """
    _check("rank_label_errors", texts, labels, "labels", num_shown)
    if by not in ("odds", "cleanlab"):
        raise ConfigError(f"rank_label_errors: by is {by!r}; expected 'odds' or 'cleanlab'.")
    if by == "cleanlab":
        require("cleanlab", extra="labels", why="Ranking label errors by cleanlab")
    used, judged, not_judged = _judgeable(texts, labels)
    suspects: list[Suspect] = []
    num_likely = 0
    names, code_N = np.unique([str(labels[i]) for i in used], return_inverse=True)
    shards = _dealt(code_N, -(-len(used) // MAX_LABEL_SHARD), seed, at_least=2 * MIN_LABEL_ROWS)
    for shard in range(int(shards.max(initial=-1)) + 1 if judged.any() else 0):
        member = np.flatnonzero(shards == shard)
        if (np.bincount(code_N[member]) >= MIN_LABEL_ROWS).sum() < 2:  # a rare second label is in another shard
            not_judged["one_label"] = not_judged.get("one_label", 0) + int(judged[member].sum())
            judged[member] = False
            continue
        found = _judge([texts[used[i]] for i in member], code_N[member], derived_seed(seed, shard), by)
        keep = np.flatnonzero(judged[member])
        num_likely += int(found.likely_N[keep].sum())
        for i in _worst(found.score_N[keep], num_shown):
            suspects.append(_label_suspect(found, int(keep[i]), used[member], code_N[member], names))
    return ReviewList(
        suspects=tuple(sorted(suspects, key=lambda s: (-s.score, s.place))[:num_shown]),
        num_rows=len(texts),
        num_judged=int(judged.sum()),
        not_judged=not_judged,
        num_likely=num_likely if judged.any() else None,
    )


def rank_reply_errors(prompts: Sequence[str], replies: Sequence[str], *, seed: int, num_shown: int = 100) -> ReviewList:
    """The rows whose free-text reply fits their prompt least, for review; same rows and seed, same list.

    How well a reply fits is the sum of two similarities, each in standard deviations over all replies: to the reply
    that a ridge regression without this row expects for the prompt (what similar prompts were answered), and to the
    prompt itself (shared words). The reply is compared with all other replies, so a reply that is general rather than
    wrong is not listed first.

    Raises:
        DataError: no rows, or lists of different lengths.
        ConfigError: `num_shown` below 1.
    """
    _check("rank_reply_errors", prompts, replies, "replies", num_shown)
    used = np.asarray([i for i in range(len(prompts)) if prompts[i].strip() and replies[i].strip()], dtype=np.int64)
    not_judged = {"no_text": len(prompts) - len(used)} if len(used) < len(prompts) else {}
    if len(used) < MIN_REPLY_ROWS:
        not_judged |= {"too_few_rows": len(used)} if len(used) else {}
        used = used[:0]
    suspects: list[Suspect] = []
    shards = _dealt(np.zeros(len(used), dtype=np.int64), -(-len(used) // MAX_REPLY_SHARD), seed)
    for shard in range(int(shards.max(initial=-1)) + 1):
        member = used[shards == shard]
        texts = [prompts[i] for i in member], [replies[i] for i in member]
        misfit_N, better_N, like_N = _misfit(*texts, derived_seed(seed, shard))
        for i in _worst(misfit_N, num_shown):
            num, others = int(better_N[i]), len(member) - 1
            why = (
                f"Of {others:,} other replies {num:,} ({num / others:.0%}) fit this prompt better, by the words shared "
                "with it and by what similar prompts were answered."
            )
            suspects.append(
                Suspect(place=int(member[i]), score=float(misfit_N[i]), why=why, like=int(member[like_N[i]]))
            )
    return ReviewList(
        suspects=tuple(sorted(suspects, key=lambda s: (-s.score, s.place))[:num_shown]),
        num_rows=len(prompts),
        num_judged=len(used),
        not_judged=not_judged,
        num_likely=None,
    )


def _check(where: str, texts: Sequence[str], others: Sequence[str | None], noun: str, num_shown: int) -> None:
    if len(texts) != len(others):
        raise DataError(f"{where}: {len(texts)} texts and {len(others)} {noun}; expected one for each text.")
    if not len(texts):
        raise DataError(f"{where}: 0 rows; expected at least one row to judge.")
    if num_shown < 1:
        raise ConfigError(f"{where}: num_shown is {num_shown}; expected 1 or more.")


def _judgeable(
    texts: Sequence[str], labels: Sequence[str | None]
) -> tuple[Ints, npt.NDArray[np.bool_], dict[str, int]]:
    """Places of the rows with text and label, which of them are judged, and the other rows by reason."""
    unlabelled = sum(label is None for label in labels)
    used = [i for i, label in enumerate(labels) if label is not None and texts[i].strip()]
    reasons = {"no_label": unlabelled, "no_text": len(texts) - unlabelled - len(used)}
    _, code_N, size_K = np.unique([str(labels[i]) for i in used], return_inverse=True, return_counts=True)
    judged = size_K[code_N] >= MIN_LABEL_ROWS if used else np.zeros(0, dtype=bool)
    reasons["too_few_rows"] = int((~judged).sum())
    if (size_K >= MIN_LABEL_ROWS).sum() < 2:
        reasons["one_label"] = int(judged.sum())
        judged = np.zeros(len(used), dtype=bool)
    return np.asarray(used, dtype=np.int64), judged, {reason: n for reason, n in reasons.items() if n}


def _dealt(code_N: Ints, num_parts: int, seed: int, *, at_least: int = 1) -> Ints:
    """A part for every row: rows of a label spread evenly, but at least so many of them in each part they are in."""
    size_K = np.bincount(code_N)
    order = generator(seed, "parts", num_parts).permutation(len(code_N))
    order = order[np.argsort(code_N[order], kind="stable")]
    label_N, start_K = code_N[order], np.cumsum(size_K) - size_K
    spread_K = np.clip(size_K // at_least, 1, max(1, num_parts))
    part_N = np.empty(len(code_N), dtype=np.int64)
    rank_N = np.arange(len(order)) - start_K[label_N]
    part_N[order] = (rank_N % spread_K[label_N] + start_K[label_N]) % max(1, num_parts)
    return part_N


def _worst(score_N: Floats, num: int) -> list[int]:
    """Places of the highest scores; equal ones (to a millionth) in their order."""
    return [int(i) for i in np.argsort(-np.round(score_N, 6), kind="stable")[:num]]


def _label_suspect(found: _Judged, i: int, place_N: Ints, code_N: Ints, names: npt.NDArray[np.str_]) -> Suspect:
    label, suggested = str(names[code_N[i]]), str(names[found.suggested_N[i]])
    for_suggested, for_given = found.votes_N2[i]
    why = (
        f"Labelled {label!r}; small models that did not see this label give it {found.given_N[i]:.0%} and "
        f"{suggested!r} {found.best_N[i]:.0%}; of the {min(NEIGHBOURS, len(place_N) - 1)} most similar rows "
        f"{for_suggested} are labelled {suggested!r}, {for_given} {label!r}."
    )
    like = None if found.like_N[i] < 0 else int(place_N[found.like_N[i]])
    score = float(found.score_N[i])
    return Suspect(place=int(place_N[i]), score=score, why=why, label=label, suggested=suggested, like=like)


def _judge(texts: Sequence[str], label_N: Ints, seed: int, by: str) -> _Judged:
    """Shares, scores and neighbours of the rows of one shard."""
    names_K, code_N = np.unique(label_N, return_inverse=True)
    terms, row = terms_of(texts), np.arange(len(texts))
    topic_ND = topics_of(terms, seed)
    near = nearest(topic_ND)
    fold_N = _dealt(code_N, NUM_FOLDS, seed)
    share_NK = mean_shares(terms, topic_ND, code_N, near, fold_N=fold_N, seed=seed)
    given_N = share_NK[row, code_N]
    other_NK = share_NK.copy()
    other_NK[row, code_N] = -1
    suggested_N = other_NK.argmax(axis=1)
    best_N = share_NK[row, suggested_N]
    if by == "cleanlab":
        rank, pick = (require(f"cleanlab.{name}", extra="labels", why="Label errors") for name in ("rank", "filter"))
        score_N = 1 - rank.get_label_quality_scores(code_N, share_NK)
        likely_N = pick.find_label_issues(code_N, share_NK, filter_by="confident_learning", n_jobs=1)
    else:
        odds_N = best_N**OTHER_WEIGHT
        score_N, likely_N = odds_N / (odds_N + given_N), _confidently_other(share_NK, code_N)
    same_Nk = code_N[near.place_Nk] == suggested_N[:, None]
    like_N = np.where(same_Nk.any(axis=1), near.place_Nk[row, same_Nk.argmax(axis=1)], -1)
    votes_N2 = np.column_stack([same_Nk.sum(axis=1), (code_N[near.place_Nk] == code_N[:, None]).sum(axis=1)])
    return _Judged(score_N, given_N, best_N, names_K[suggested_N], like_N, votes_N2, likely_N)


def _confidently_other(share_NK: Floats, code_N: Ints) -> npt.NDArray[np.bool_]:
    """Whether a row's likeliest label among those above their usual self-confidence is another than the given one.

    Source: the off-diagonal of the confident joint of Northcutt, Jiang & Chuang 2021.
    """
    row = np.arange(len(code_N))
    usual_K = np.bincount(code_N, weights=share_NK[row, code_N]) / np.bincount(code_N)
    confident_NK = np.where(share_NK >= usual_K - 1e-6, share_NK, -1.0)
    likeliest_N = confident_NK.argmax(axis=1)
    other_N: npt.NDArray[np.bool_] = (confident_NK[row, likeliest_N] >= 0) & (likeliest_N != code_N)
    return other_N


def _misfit(prompts: Sequence[str], replies: Sequence[str], seed: int) -> tuple[Floats, Ints, Ints]:
    """How badly each reply fits its prompt, how many replies fit it better, and which fits best."""
    terms = terms_of([*prompts, *replies], characters=False)
    asked, said = terms[: len(prompts)], terms[len(prompts) :]
    said_ND = topics_of(said, seed)
    expected_ND = left_out(topics_of(asked, seed), said_ND)
    expected_ND /= np.maximum(np.linalg.norm(expected_ND, axis=1, keepdims=True), 1e-9)
    misfit, better, like = [], [], []
    for low in range(0, len(prompts), BLOCK):
        part = slice(low, low + BLOCK)
        fit = _standard(expected_ND[part] @ said_ND.T) + _standard((asked[part] @ said.T).toarray())
        own = fit[np.arange(len(fit)), low + np.arange(len(fit))]
        misfit.append(-own / 2)
        better.append((fit > own[:, None] + 1e-6).sum(axis=1))
        like.append(fit.argmax(axis=1))
    return np.concatenate(misfit).astype(np.float64), np.concatenate(better), np.concatenate(like)


def _standard(value_BN: npt.NDArray[Any]) -> Floats:
    """Each line in standard deviations from its mean; zeros where it does not vary."""
    rest: Floats = value_BN.astype(np.float64)
    rest -= rest.mean(axis=1, keepdims=True)
    rest /= np.maximum(rest.std(axis=1, keepdims=True), 1e-6)
    return rest
