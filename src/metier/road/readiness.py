"""What is known of a project's data before anything is spent: readiness, ages, suspects, and the page of the data."""

# Shapes: N kept rows.

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np

from metier.core import data_facts as page
from metier.core.annotator_report import AnnotatorReport
from metier.core.data_counts import age_of, attribute_of, drop_rule, grouping_of, histogram_of, label_counts
from metier.core.errors import DataError
from metier.core.folders import read_json, write_json
from metier.core.masking import everyday_words
from metier.core.precision import Holdout, Plan, effective_rows
from metier.core.readiness import Readiness, readiness
from metier.core.settings import DecisionConfig
from metier.core.table import RowTable, Values
from metier.core.votes import Estimate
from metier.curate.ages import Staleness, staleness
from metier.curate.label_errors import ReviewList, rank_label_errors, rank_reply_errors
from metier.road.annotators import annotators_of, label_ceiling
from metier.road.cut import Parts
from metier.road.ground import Ground
from metier.road.session import Session

__all__ = ["data_facts", "holdout_of", "judge_data", "kept_ages", "review_list", "stored_facts"]

FACTS_VERSION = 1
FACTS_NAME = "facts.json"

REVIEW_ROWS = 10_000
"""Rows looked through for wrong labels; of more, so many are drawn at random."""
NUM_SUSPECTS = 20
NUM_EXAMPLES = 3
WORD_ROWS = 3000
"""Rows that decide which words are everybody's and need no mask."""


def kept_ages(session: Session, ground: Ground) -> Staleness:
    """Age profile of the kept rows."""
    table = ground.curated.table.take(ground.curated.kept)
    return staleness(
        table.time_N,
        now=datetime.now(UTC),
        policies=table.policy,
        labels=table.label,
        shingles=table.conversation,
        seed=session.config.project.seed,
    )


def judge_data(
    session: Session,
    ground: Ground,
    parts: Parts | None,
    problem: str,
    ages: Staleness,
    annotators: AnnotatorReport | None = None,
) -> Readiness:
    """Whether the rows can carry a verdict; without a split, why there is none.

    Raises:
        DataError: never for rows that a split accepted.
    """
    decision, num_usable = session.config.decision, len(ground.curated.kept)
    if parts is None:
        found = readiness(Holdout.of(groups=[], binary=True), _plan(decision), num_usable=num_usable, ages=ages.facts())
        return replace(found, problems=(problem,), sentence=f"Not ready: {problem}")
    holdout = holdout_of(session, ground, parts)
    return readiness(holdout, _plan(decision), num_usable=num_usable, ages=ages.facts(), ceiling=_ceiling(annotators))


def holdout_of(session: Session, ground: Ground, parts: Parts) -> Holdout:
    """The hold-out as numbers; none of its rows is read."""
    table = ground.curated.table.take(parts.place_by_part["holdout"])
    return Holdout.of(
        groups=_groups(table, session.group_column), binary=session.grader.binary, slices=_guarded(session, table)
    )


def _ceiling(annotators: AnnotatorReport | None) -> Estimate | None:
    return None if annotators is None else label_ceiling(annotators)


def _agreement(annotators: AnnotatorReport | None) -> page.Agreement | None:
    """What the page says of the votes."""
    if annotators is None:
        return None
    alpha, ceiling = annotators.alpha, _ceiling(annotators)
    return page.Agreement(
        num_annotators=len(annotators.lines),
        alpha=_figure(alpha) if alpha else None,
        ceiling=_figure(ceiling) if ceiling else None,
    )


def _figure(found: Estimate) -> page.Figure:
    return page.Figure(value=found.value, low=found.low, high=found.high, n=found.n)


def _plan(decision: DecisionConfig) -> Plan:
    """What is to be shown; a margin that follows from prices is not known yet and taken as none."""
    margin = -decision.limit if decision.claim == "as_good_for_less" else (decision.margin or 0.0)
    alpha = decision.alpha / decision.max_looks
    gain = decision.plan_gain if decision.plan_gain is not None else max(0.0, 2 * margin)
    return Plan(margin=margin, plan_gain=gain, alpha=alpha)


def _groups(table: RowTable, column: str) -> list[str]:
    """The group of every row; a row without one stands alone."""
    values = table.groups.get(column)
    return [(values.at(i) if values else None) or f"row {table.origin(i)}" for i in range(len(table))]


def _guarded(session: Session, table: RowTable) -> dict[str, int]:
    """Hold-out rows of every slice that a guard is on."""
    found = {}
    for guard in session.config.guard:
        name, equals, value = (part.strip() for part in guard.on.partition("="))
        if equals and name in table.attributes:
            found[f"{name}={value}"] = _counts(table.attributes[name]).get(value, 0)
    return found


def _counts(values: Values) -> dict[str, int]:
    """Rows by value, rows without one left out."""
    known = values.code_N[values.code_N >= 0]
    counts = np.bincount(known, minlength=len(values.names)).tolist()
    return {name: num for name, num in zip(values.names, counts, strict=True) if num}


def review_list(session: Session, ground: Ground, parts: Parts) -> tuple[ReviewList, np.ndarray] | None:
    """Rows of train and dev whose label or reply a person should look at, and the places the list speaks of."""
    places = np.concatenate([parts.place_by_part["train"], parts.place_by_part["dev"]])
    seed = session.config.project.seed
    if len(places) > REVIEW_ROWS:
        places = np.sort(np.random.default_rng(seed).choice(places, size=REVIEW_ROWS, replace=False))
    rows = ground.rows(places)
    labels = [row.target.label for row in rows]
    prompts = [row.prompt_text for row in rows]
    try:
        if any(label is not None for label in labels):
            return rank_label_errors(prompts, labels, seed=seed, num_shown=NUM_SUSPECTS), places
        return rank_reply_errors(prompts, [row.gold for row in rows], seed=seed, num_shown=NUM_SUSPECTS), places
    except DataError:  # one label, too few rows: there is nothing to rank by
        return None


def stored_facts(session: Session, ground: Ground, parts: Parts) -> page.DataFacts:
    """The facts of a project whose rows were split, worked out once and kept as a stage."""

    def work(stage_dir: Path) -> None:
        ages = kept_ages(session, ground)
        annotators = annotators_of(session, parts)
        judged = judge_data(session, ground, parts, "", ages, annotators)
        facts = data_facts(session, ground, parts, judged, review_list(session, ground, parts), annotators)
        write_json(stage_dir / FACTS_NAME, facts.as_json())

    stage = session.stage(
        "data", version=FACTS_VERSION, inputs={"split": parts.stage_hash},
        config={"decision": asdict(session.config.decision), "name": session.config.project.name}, work=work,
    )  # fmt: skip
    return page.data_facts_from_json(read_json(stage.dir / FACTS_NAME))


def data_facts(
    session: Session,
    ground: Ground,
    parts: Parts | None,
    judged: Readiness,
    review: tuple[ReviewList, np.ndarray] | None,
    annotators: AnnotatorReport | None = None,
) -> page.DataFacts:
    """Everything the page of the data shows; no name, number or address of a person is in it."""
    curated, config = ground.curated, session.config
    kept = curated.table.take(curated.kept)
    words = _everyday(ground)
    num_holdout = parts.report.holdout if parts else config.split.holdout_rows
    holdout = curated.table.take(parts.place_by_part["holdout"]) if parts else None
    return page.DataFacts(
        project=config.project.name,
        written_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        code=package_version("metier"),
        dataset_version=curated.dataset_version,
        readiness=page.Readiness(
            ready=not judged.problems, sentence=judged.sentence, problems=judged.problems, warnings=judged.warnings
        ),
        read=curated.num_read,
        kept=len(curated.kept),
        failed=len(curated.failed),
        drops=tuple(_drop(ground, reason, num, config.clean, words) for reason, num in curated.reasons.items()),
        failures=tuple(failure.where for failure in curated.failed[:5]),
        private=page.PrivateFacts(
            found=dict(curated.private), action=config.clean.private, public=dict(curated.public)
        ),
        repaired=dict(curated.repaired),
        conflicting_labels=curated.conflicting_labels,
        age=age_of(kept.time_N, now=datetime.now(UTC)),
        lengths=tuple(
            found
            for what, words_N in (("prompt", kept.prompt_words_N), ("reply", kept.reply_words_N))
            if (found := histogram_of(what, words_N))
        ),
        attributes=tuple(
            attribute_of(
                name,
                _counts(values),
                num_kept=len(kept),
                holdout=_counts(holdout.attributes[name]) if holdout and name in holdout.attributes else None,
                expected_holdout=None if holdout else num_holdout,
            )
            for name, values in kept.attributes.items()
            if name not in config.data.subject  # a person's name is no slice
        ),
        labels=label_counts(_counts(kept.label)),
        sources=_sources(ground),
        groups=tuple(_grouping(name, values, config.decision) for name, values in kept.groups.items()),
        split=_split(ground, parts) if parts else None,
        review=_review(ground, review),
        agreement=_agreement(annotators),
    )


def _everyday(ground: Ground) -> frozenset[str]:
    """Words so common among different people that an example may show them."""
    kept = ground.curated.kept
    rows = ground.rows(kept[:: max(1, len(kept) // WORD_ROWS)])
    texts = (
        (str(sorted(row.meta.groups.items()) or row.meta.subjects or row.origin_id), f"{row.prompt_text} {row.gold}")
        for row in rows
    )
    return everyday_words(texts, never=[subject for row in rows for subject in row.meta.subjects])


def _drop(ground: Ground, reason: str, num: int, clean: Any, words: Collection[str]) -> page.Drop:  # Any: CleanConfig
    """One reason with its first masked examples."""
    curated = ground.curated
    code = curated.reason.names.index(reason)
    places = np.flatnonzero(curated.reason.code_N == code)[:NUM_EXAMPLES].tolist()
    examples = []
    for place, row in zip(places, ground.rows(places), strict=True):
        survivor = int(curated.survivor_N[place])
        told = curated.table.where(survivor) if survivor >= 0 else ""
        where = curated.table.where(place)
        examples.append(page.Example.of(where, row.prompt_text, survivor=told, keep_words=words))
    return page.Drop(reason=reason, num=num, rule=drop_rule(reason, clean), examples=tuple(examples))


def _sources(ground: Ground) -> tuple[page.Source, ...]:
    """What became of the records of every file."""
    curated = ground.curated
    source = curated.table.source
    rows = Counter(source.code_N.tolist())
    kept = Counter(source.code_N[curated.kept].tolist())
    failed = Counter(failure.where.rpartition(":")[0] for failure in curated.failed)
    names = [*source.names, *(name for name in failed if name not in source.names)]
    return tuple(
        page.Source(file=name, read=rows[i] + failed[name], kept=kept[i], failed=failed[name])
        for i, name in sorted(enumerate(names), key=lambda item: item[1])
    )


def _grouping(key: str, values: Values, decision: DecisionConfig) -> page.Grouping:
    """Kept rows by one kind of group, and how many independent rows they are worth at least."""
    counts = list(_counts(values).values())
    worth = effective_rows(Holdout(sizes=tuple(counts), binary=True), _plan(decision)).low if len(counts) > 1 else None
    return grouping_of(key, np.asarray(counts, dtype=np.int64), effective_n=worth)


def _split(ground: Ground, parts: Parts) -> page.Split:
    """The parts with their days."""
    found = []
    for name, places in parts.place_by_part.items():
        table = ground.curated.table.take(places)
        days = [time.date().isoformat() for i in range(len(table)) if (time := table.time(i))]
        found.append(
            page.Part(
                name=name,
                num=len(places),
                num_groups=parts.report.groups.get(name),
                oldest=min(days, default=""),
                newest=max(days, default=""),
            )
        )
    if parts.report.purged:
        found.append(page.Part(name="set_aside", num=parts.report.purged))
    return page.Split(mode=parts.report.mode, parts=tuple(found))


def _review(ground: Ground, review: tuple[ReviewList, np.ndarray] | None) -> page.Review | None:
    """The suspects by id and place."""
    if review is None:
        return None
    listed, places = review
    table = ground.curated.table
    return page.Review(
        num_judged=listed.num_judged,
        num_likely=listed.num_likely,
        suspects=tuple(
            page.Pointer(row_id=table.row_id(int(places[s.place])), where=table.where(int(places[s.place])))
            for s in listed.suspects
        ),
    )
