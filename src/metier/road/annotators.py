"""What people said of rows of train and dev: votes, known answers, and the page about both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from metier.core.errors import counted
from metier.core.votes import Estimate, Vote
from metier.road.cut import Parts
from metier.road.session import Session

if TYPE_CHECKING:
    from metier.core.annotator_report import AnnotatorReport
    from metier.ledger import Ledger

__all__ = ["GOLD", "annotators_of", "every_vote", "label_ceiling", "votes_and_gold"]

GOLD = "ground truth"
"""Annotator under whose name known answers lie among the votes: an erasure empties them as it empties votes."""


def votes_and_gold(ledger: Ledger, row_ids: Iterable[str]) -> tuple[list[Vote], dict[str, str]]:
    """What annotators said of these rows, and the newest known answer by row."""
    from metier.ledger import votes_of

    found = votes_of(ledger, row_ids=row_ids)  # by row, annotator and time: the newest comes last
    return [vote for vote in found if vote.annotator != GOLD], {v.row_id: v.value for v in found if v.annotator == GOLD}


def every_vote(ledger: Ledger) -> list[Vote]:
    """All that annotators said, known answers left out."""
    from metier.ledger import votes_of

    return [vote for vote in votes_of(ledger) if vote.annotator != GOLD]


def label_ceiling(annotators: AnnotatorReport) -> Estimate | None:
    """The best score the labels allow: by known answers where there are some, else by the fitted labels."""
    return annotators.gold_ceiling or (annotators.ceiling.fitted if annotators.ceiling else None)


def annotators_of(session: Session, parts: Parts) -> AnnotatorReport | None:
    """What the votes on rows of train and dev say; None without votes. Rows of the hold-out are left out."""
    from metier.core.annotator_report import annotator_report

    table = parts.ground.curated.table
    places = [place for name in ("train", "dev") for place in parts.place_by_part[name].tolist()]
    votes, gold = votes_and_gold(session.ledger, [table.row_id(place) for place in places])
    if not votes:
        return None
    slices = {
        name: {table.row_id(place): value for place in places if (value := values.at(place)) is not None}
        for name, values in table.attributes.items()
    }
    seed = session.config.project.seed
    if gold and not {vote.value for vote in votes}.intersection(gold.values()):
        note = f"{counted(len(gold), 'known answer')} left out: nobody voted such a value. Check their spelling."
        report = annotator_report(votes, slices, seed=seed)
        return replace(report, notes=(*report.notes, note))
    return annotator_report(votes, slices, gold, seed=seed)
