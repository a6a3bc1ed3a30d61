"""The canary probe of a run: which trained values a reader could draw out of the tuned model.

    exposure = probe_exposure(session, parts, tuning)   # after the tuning; kept as a stage
    exposure.sentence

Canaries are what cleaning left of private data in trained text: surrogates of e-mail addresses, telephone numbers and
the like. Never-trained values are further surrogates of the same value, drawn the way the canary itself was drawn, so
that without memory all ranks are equally likely (of names nearly so; the base is scored beside). A contact of the
organisation is no canary, nor is a value that can be read before its place. Not probed: arguments of tool calls, and
values more than 800 tokens into their row.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from metier.core.errors import DataError
from metier.core.folders import read_json, write_json
from metier.core.rows import Message, Row
from metier.core.seeds import derived_seed, generator
from metier.evaluate import group_ids
from metier.evaluate.exposure import Canary, Exposure, canary_rows, not_measured, summarise, value_scores
from metier.road.cut import Parts
from metier.road.rendered import instruction_text
from metier.road.session import Session
from metier.road.tuning import Tuning

if TYPE_CHECKING:
    from metier.curate import Hit
    from metier.render import RenderedRow, Renderer

__all__ = ["CanarySource", "TrainedValue", "draw_canaries", "find_trained_values", "probe_exposure"]

PROBE_VERSION = 1
RESULT_NAME = "exposure.json"
MAX_CANARIES = 20
NUM_REFERENCES = 9
"""Fewer references than canaries: ranks of more values say more than finer ranks of fewer, at the same cost."""
MAX_TOKENS = 8_000
"""Tokens each model reads; SmolLM2-135M reads 2,100 a second on two idle cores, so both take about 8 s."""
MAX_DRAWS = 6 * NUM_REFERENCES
_NO_WORD = re.compile(r"[\W_]+")


class TrainedValue(NamedTuple):
    """A private value in trained text, in one place where it cannot be read before."""

    place: int
    """The row, by its place among those given."""
    messages: tuple[Message, ...]
    """The conversation up to the reply that holds the value, that reply included."""
    hit: Hit


@dataclass(frozen=True, kw_only=True, slots=True)
class CanarySource:
    """The private values in the trained text of some rows."""

    values: list[TrainedValue]
    """One place for each value that has one."""
    num_values: int
    num_copied: int
    """Values without such a place."""


def probe_exposure(session: Session, parts: Parts, tuning: Tuning) -> Exposure:
    """Exposure of the private values in trained text, under the tuned model and under its base; a finished one is read.

    Raises:
        ModelError: the adapter does not fit the base.
        StoreError: the disk is full.
    """

    def work(stage_dir: Path) -> None:
        started_s = time.monotonic()
        found = _measure(session, parts, tuning)
        found = replace(found, seconds=time.monotonic() - started_s)
        write_json(stage_dir / RESULT_NAME, found.as_json())

    stage = session.stage(
        "probe",
        version=PROBE_VERSION,
        inputs={"tune": tuning.stage.hash, "rows": parts.stage_hash},
        config={
            "private": session.config.clean.private,
            "seed": session.config.project.seed,
            "groups": session.group_column,
            "sizes": [MAX_CANARIES, NUM_REFERENCES, MAX_TOKENS],
        },
        work=work,
    )
    found = Exposure(**read_json(stage.dir / RESULT_NAME))
    session.progress.say(found.sentence)
    return found


def _measure(session: Session, parts: Parts, tuning: Tuning) -> Exposure:
    """Find, draw, score."""
    from metier.engine import close

    trained_ids, config = set(tuning.facts["row_ids"]), session.config
    rows = [row for row in parts.train if row.row_id in trained_ids]
    tuned_arm = next(arm for arm in config.arm if arm.kind == "tuned")
    instruction = instruction_text(tuned_arm, session.wordings)
    replaced = config.clean.private == "replace"
    source = find_trained_values(rows, key=session.key if replaced else None, instruction=instruction or "")
    counts = {"num_values": source.num_values, "num_copied": source.num_copied}
    if not source.values:
        return not_measured(_why_none(source), **counts)
    groups = group_ids(rows, session.group_column, key=session.key)
    seed = config.project.seed
    drawing = draw_canaries(
        source, session.renderer, corpus=parts.train, groups=groups, seed=seed, instruction=instruction
    )
    drawn = list(drawing)
    if not drawn:
        left = len(source.values)
        why = f"none of {left} private values in trained text has {NUM_REFERENCES} others of its form and a short row."
        return not_measured(why, **counts)
    canaries, rows_N = [canary for canary, _ in drawn], [rendered for _, rendered in drawn]
    handle = session.tuned_handle(tuning.adapter_dir)
    try:
        tuned_NC = value_scores(handle, rows_N)
    finally:
        close(handle)
    return summarise(tuned_NC, value_scores(session.handle, rows_N), canaries, form_differs=not replaced, **counts)


def _why_none(source: CanarySource) -> str:
    """Why no value can be probed."""
    if not source.num_values:
        return "no private value stands in trained text."
    return (
        f"no private value is in trained text that is not also in its prompt ({source.num_copied} are in both, where "
        "a model can copy and needs no memory)."
    )


def find_trained_values(rows: Sequence[Row], *, key: bytes | None, instruction: str = "") -> CanarySource:
    """The private values in the trained text of rows.

    `key` is the project key where private data was replaced: declared subjects stand in the text under the surrogates
    it gives them. The organisation's own contacts, given to many, are left out.
    """
    from metier.curate.contacts import Contacts, private_values
    from metier.curate.surrogates import canonical

    contacts, standing = Contacts(), []
    for place, row in enumerate(rows):
        hits = list(_hits(row, key))
        if hits and (found := private_values(row)):
            contacts.found[place] = found
        standing += [(place, messages, hit) for messages, hit in hits]
    public = contacts.public(range(len(rows)))
    best: dict[tuple[str, str], TrainedValue | None] = {}
    for place, messages, hit in standing:
        name = (hit.kind, canonical(hit))
        if name in public or best.get(name) is not None:
            continue
        is_free = not _is_readable(rows[place], messages, hit, instruction)
        best[name] = TrainedValue(place, messages, hit) if is_free else None
    values = [value for value in best.values() if value is not None]
    return CanarySource(values=values, num_values=len(best), num_copied=len(best) - len(values))


def _hits(row: Row, key: bytes | None) -> Iterator[tuple[tuple[Message, ...], Hit]]:
    """Private data in the trained replies of a row, with the conversation up to it."""
    from metier.curate import find_private
    from metier.render.learned import trained_turns, training_messages

    try:
        messages = training_messages(row)
        turns = trained_turns(row.row_id, messages)
    except DataError:  # a row nothing is trained of
        return
    subjects = row.meta.subjects if key is None else tuple(_stand_in(subject, key) for subject in row.meta.subjects)
    for turn in turns:
        for hit in find_private(messages[turn].content, subjects):
            yield messages[: turn + 1], hit


def _stand_in(subject: str, key: bytes) -> str:
    """What a declared subject is called in the cleaned text."""
    from metier.curate import find_private
    from metier.curate.surrogates import replace_private

    return replace_private(subject, find_private(subject, (subject,)), key)


def _folded(text: str) -> str:
    """Letters and digits only: two spellings of a number are one."""
    return _NO_WORD.sub("", text.casefold())


def _is_readable(row: Row, messages: tuple[Message, ...], hit: Hit, instruction: str) -> bool:
    """Whether the model can read the value, or a person's other spelling of it, before it has to write it."""
    from metier.curate import find_private
    from metier.curate.surrogates import canonical

    before = [instruction, *(message.content for message in messages[:-1]), messages[-1].content[: hit.start]]
    called = [json.dumps(call.arguments) for message in messages[:-1] for call in message.tool_calls]
    texts = [*before, *called, *(json.dumps(tool) for tool in row.tools)]
    written = _folded(hit.text)
    if any(written in _folded(text) for text in texts):
        return True
    subjects = (hit.of,) if hit.of else ()
    value = canonical(hit)
    return any(
        other.kind == hit.kind and canonical(other) == value for text in texts for other in find_private(text, subjects)
    )


def draw_canaries(
    source: CanarySource,
    renderer: Renderer,
    *,
    corpus: Sequence[Row],
    groups: Sequence[str],
    seed: int,
    instruction: str | None = None,
) -> Iterator[tuple[Canary, list[RenderedRow]]]:
    """Canaries in random order with their rows as tokens, as many as `MAX_TOKENS` and `MAX_CANARIES` allow.

    `corpus` are the rows in which no reference may occur; `groups` names the group of every row that was searched.
    """
    seen = "\0".join(_folded(text) for row in corpus for text in _texts(row))
    left, num = MAX_TOKENS, 0
    for i in generator(seed, "canaries").permutation(len(source.values)).tolist():
        value = source.values[i]
        references = _references(value.hit, seen, seed=derived_seed(seed, "references", i))
        if len(references) < NUM_REFERENCES:
            continue
        canary = Canary(
            kind=value.hit.kind,
            group=groups[value.place],
            prompt=value.messages[:-1],
            reply=value.messages[-1],
            start=value.hit.start,
            end=value.hit.end,
            references=references,
        )
        rendered = canary_rows(renderer, canary, instruction)
        cost = sum(len(row.tokens) for row in rendered or ())
        if rendered is None or cost > left:
            continue
        yield canary, rendered
        left, num = left - cost, num + 1
        if num == MAX_CANARIES or left < NUM_REFERENCES:
            return


def _texts(row: Row) -> Iterator[str]:
    """All text of a row that a model may see."""
    yield from (message.content for message in row.messages)
    yield from (text for text in (row.target.chosen, row.target.rejected, row.target.answer) if text)


def _references(hit: Hit, seen: str, *, seed: int) -> tuple[str, ...]:
    """Values of the form of a hit, all different, none of which occurs in `seen` (folded text)."""
    from metier.curate.surrogates import surrogate

    made: dict[str, str] = {_folded(hit.text): hit.text}
    for i in range(MAX_DRAWS):
        other = surrogate(derived_seed(seed, i).to_bytes(8, "big"), hit)
        if _folded(other) not in seen:
            made.setdefault(_folded(other), other)
        if len(made) > NUM_REFERENCES:
            break
    return tuple(made.values())[1:]
