"""Preference pairs of the project: rows of the files that hold them, or the gold reply against the model's own fault.

Mining asks the tuned model for a few replies to every train prompt, grades them with the project's conventions, and
takes of those that break one the reply the model was most likely to give: it is the fault its users would meet most
often, and lowering it moves most. Dev and hold-out are never sampled. Pairs lie encrypted, as all rows do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metier.arms import Replier
from metier.arms.replier import with_instruction
from metier.core.errors import DataError, counted
from metier.core.folders import read_json, write_bytes, write_json
from metier.core.rows import Row, Target, TargetKind, make_row
from metier.core.seeds import derived_seed, generator
from metier.core.tune_config import DpoConfig
from metier.road.cut import Parts
from metier.road.rendered import Rendered, instruction_text
from metier.road.session import Session, max_reply_tokens

if TYPE_CHECKING:
    from metier.core.trials import RowScore
    from metier.engine import Sample
    from metier.evaluate import Grader
    from metier.render import RenderedPair, RenderedPairs

__all__ = ["Mined", "Pairs", "Start", "aside", "mine_pairs", "rendered_pairs"]

PAIRS_VERSION = 1
PACK_NAME = "pairs.pack"
DEV_SHARE = 0.1
"""Share of mined pairs that is set aside for the dev loss: they come from train, for dev rows are never sampled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mined:
    """What mining found."""

    rows: list[Row]
    """Of kind `pair`, in the order of the rows asked about."""
    unfinished: frozenset[str]
    """Row ids of pairs whose rejected reply was cut at the limit."""
    counts: Mapping[str, int]
    """Rows asked, pairs, and rows without a pair by reason: all_pass, no_room; and replies that break something."""


class Start(NamedTuple):
    """The finished sft that pairs are mined with and dpo starts from."""

    stage_hash: str
    adapter_dir: Path
    rendered: Rendered
    """What it was tuned on."""


class Pairs(NamedTuple):
    """Pairs ready to be trained on."""

    train: list[RenderedPair]
    dev: list[RenderedPair]
    counts: Mapping[str, int]
    """What became of the rows."""


def mine_pairs(
    replier: Replier,
    rows: Sequence[Row],
    grader: Grader,
    settings: DpoConfig,
    *,
    seed: int,
    key: bytes,
    instruction: str | None = None,
) -> Mined:
    """The gold reply of each row against a sample of the model's that breaks a convention the gold keeps.

    The draws of a row depend on the seed and its place among `rows`.

    Raises:
        DataError: a row or a reply cannot be graded.
    """
    params_seed = derived_seed(seed, "mine")
    samples, prompts_left = _samples(replier, rows, settings, seed=params_seed, instruction=instruction)
    golds = grader.score_all(rows, [row.gold for row in rows])
    pairs, unfinished, num_faulty = [], set(), 0
    for row, gold, drawn in zip(rows, golds, samples, strict=True):
        texts = [replier.renderer.parse(each.tokens) for each in drawn]
        scores = grader.score_all([row] * len(texts), texts)
        faulty = [place for place, score in enumerate(scores) if _breaks_more(score, gold)]
        num_faulty += len(faulty)
        if not faulty:
            continue
        likeliest = max(faulty, key=lambda place: drawn[place].logprob)
        target = Target(kind=TargetKind.PAIR, chosen=row.gold, rejected=texts[likeliest])
        pair = make_row(key, messages=row.messages, meta=row.meta, target=target, tools=row.tools, parent=row)
        pairs.append(pair)
        if drawn[likeliest].finish == "length":
            unfinished.add(pair.row_id)
    counts = {"rows": len(rows), "pairs": len(pairs), "no_room": len(rows) - prompts_left,
              "all_pass": prompts_left - len(pairs), "replies": prompts_left * settings.samples,
              "faulty_replies": num_faulty}  # fmt: skip
    return Mined(rows=pairs, unfinished=frozenset(unfinished), counts=counts)


def _samples(
    replier: Replier, rows: Sequence[Row], settings: DpoConfig, *, seed: int, instruction: str | None
) -> tuple[list[list[Sample]], int]:
    """The drawn replies to every row, and to how many rows there was room for one."""
    from metier.engine import SamplingParams, sample
    from metier.render import Conversation

    talks = [Conversation(with_instruction(row, instruction), row.tools) for row in rows]
    prompts = replier.renderer.prompt_tokens_batch(talks)
    room = replier.handle.shape.max_positions - replier.max_reply_tokens
    places = [place for place, prompt in enumerate(prompts) if len(prompt) <= room]
    params = SamplingParams(
        max_tokens=replier.max_reply_tokens,
        stop_ids=replier.renderer.stop_ids,
        temperature=settings.temperature,
        seed=seed,
        max_batch=replier.max_batch,
    )
    asked = [place for place in places for _ in range(settings.samples)]
    found: list[list[tuple[int, Sample]]] = [[] for _ in rows]
    for position, drawn in sample(replier.handle, [prompts[place] for place in asked], params):
        found[asked[position]].append((position, drawn))
    # By position, not by who finished first: the first of equally likely replies must not depend on the batch.
    return [[drawn for _, drawn in sorted(each, key=lambda item: item[0])] for each in found], len(places)


def _breaks_more(score: RowScore, gold: RowScore) -> bool:
    """Whether a reply breaks a convention that the gold reply keeps."""
    return any(value < gold.checks[name] for name, value in score.checks.items())


def rendered_pairs(session: Session, parts: Parts, start: Start) -> Pairs:
    """The project's pairs as tokens, from its files or mined with the adapter of the finished sft.

    Raises:
        DataError: no pair to learn from, or none to score.
    """
    if _settings(session).pairs == "file":
        rows_of = [[row for row in part if row.target.kind is TargetKind.PAIR] for part in (parts.train, parts.dev)]
        train, dev = (_rendered(session, rows) for rows in rows_of)
        counts = {"rows": len(parts.train) + len(parts.dev), "pairs": len(train.kept) + len(dev.kept)}
        return _checked(session, Pairs(train.kept, dev.kept, {**counts, **_drops(train, dev)}))
    mined = _mined(session, parts, start)
    found = _rendered(session, mined.rows, mined.unfinished)
    train_pairs, dev_pairs = aside(found.kept, generator(session.config.project.seed, "dev_pairs"))
    return _checked(session, Pairs(train_pairs, dev_pairs, {**mined.counts, **_drops(found)}))


def aside(pairs: Sequence[RenderedPair], rng: np.random.Generator) -> tuple[list[RenderedPair], list[RenderedPair]]:
    """The pairs to train on, and a tenth of them, at least one, drawn for the dev loss."""
    drawn = set(rng.permutation(len(pairs))[: max(1, round(DEV_SHARE * len(pairs)))].tolist())
    return [pair for i, pair in enumerate(pairs) if i not in drawn], [pairs[i] for i in sorted(drawn)]


def _settings(session: Session) -> DpoConfig:
    """Of `[tune.dpo]`, defaults where the table is left out."""
    return session.config.tune.dpo or DpoConfig()


def _instruction(session: Session) -> str | None:
    """What every request of the tuned arm carries."""
    return instruction_text(next(arm for arm in session.config.arm if arm.kind == "tuned"), session.wordings)


def _rendered(session: Session, rows: Sequence[Row], unfinished: frozenset[str] = frozenset()) -> RenderedPairs:
    from metier.render import render_pairs

    limit = session.config.tune.max_row_tokens
    return render_pairs(
        session.renderer, rows, max_row_tokens=limit, instruction=_instruction(session), unfinished=unfinished
    )


def _drops(*found: RenderedPairs) -> dict[str, int]:
    """Pairs that cannot be trained on, by reason."""
    reasons = [reason for each in found for reason in each.dropped.values()]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def _checked(session: Session, pairs: Pairs) -> Pairs:
    """The pairs, their counts told.

    Raises:
        DataError: no train pair or no dev pair.
    """
    counts = ", ".join(f"{name} {num}" for name, num in pairs.counts.items())
    if not pairs.train or not pairs.dev:
        source = _settings(session).pairs
        fix = {
            "mined": "The model's replies keep every convention, or cannot be rendered: set tune.objective = 'sft', or "
            "raise [tune.dpo] samples or temperature.",
            "file": "Give more rows with a chosen and a rejected reply, or set [tune.dpo] pairs = 'mined'.",
        }[source]
        raise DataError(
            f"pairs = {source!r}: {len(pairs.train)} to train on and {len(pairs.dev)} for the dev loss ({counts}); "
            f"expected at least one of each. {fix}"
        )
    session.progress.say(
        f"{counted(len(pairs.train), 'pair')} to train on, {len(pairs.dev)} for the dev loss; {counts}"
    )
    return pairs


def _mined(session: Session, parts: Parts, start: Start) -> Mined:
    """The mined pairs as a stage: found again by a rerun, readable with the persons' keys alone."""
    from metier.ledger import pack_rows, unpack_rows

    settings, config = _settings(session), session.config
    seed = derived_seed(config.project.seed, "pairs")

    def work(stage_dir: Path) -> None:
        trained = {row.row_id for row in start.rendered.train}
        limit = max_reply_tokens(start.rendered.golds)
        mined = mine_pairs(
            Replier(session.tuned_handle(start.adapter_dir), session.renderer, limit),
            [row for row in parts.train if row.row_id in trained],
            session.grader,
            settings,
            seed=seed,
            key=session.key,
            instruction=_instruction(session),
        )
        write_bytes(stage_dir / PACK_NAME, pack_rows(mined.rows, session.subject_keys))
        write_json(stage_dir / "pairs.json", {"unfinished": sorted(mined.unfinished), "counts": dict(mined.counts)})

    stage = session.stage(
        "pairs",
        version=PAIRS_VERSION,
        inputs={"sft": start.stage_hash},
        config={"samples": settings.samples, "temperature": settings.temperature, "seed": seed,
                "conventions": [asdict(item) for item in config.convention], "code": session.own_code},
        work=work,
    )  # fmt: skip
    path = stage.dir / PACK_NAME
    rows = unpack_rows(path.read_bytes(), session.subject_keys, where=path)
    stored = read_json(stage.dir / "pairs.json")
    return Mined(
        rows=[row for row in rows if row is not None],
        unfinished=frozenset(stored["unfinished"]),
        counts=stored["counts"],
    )
