"""`metier curate`: what cleaning set aside and why, row by row; and rows put back by a person."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metier.core.errors import DataError
from metier.core.project_file import ProjectConfig
from metier.core.table import RowTable
from metier.road.ground import Ground, read_and_check, record_ground
from metier.road.progress import Watcher
from metier.road.run import open_session

__all__ = ["SetAside", "curate_project"]

NUM_SHOWN = 20
"""Rows of a reason a person is shown; `--json` gives all."""
NUM_NAMED = 5
"""Rows a message names where several are meant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AsideRow:
    """One row that is not used."""

    origin_id: str
    where: str
    """file:record."""
    reason: str
    survivor: str
    """file:record of the row that stays in its place; empty where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetAside:
    """What became of the records, and every row set aside."""

    read: int
    kept: int
    failed: int
    reasons: Mapping[str, int]
    rows: Sequence[AsideRow]
    restored: Sequence[str]
    """`origin_id` of rows that were put back, now or before."""
    already: Sequence[str] = ()
    """file:record of rows that were to be put back and are back already."""

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return asdict(self)

    def as_text(self) -> str:
        """The result for a person."""
        lines = [f"read {self.read}, kept {self.kept}, set aside {len(self.rows)}, failed {self.failed}"]
        for reason, num in self.reasons.items():
            lines.append(f"{num:>6}  {reason.replace('_', ' ')}")
            mine = [row for row in self.rows if row.reason == reason]
            for row in mine[:NUM_SHOWN]:
                kept = f", kept: {row.survivor}" if row.survivor else ""
                lines.append(f"        {row.origin_id}  {row.where}{kept}")
            if len(mine) > NUM_SHOWN:
                lines.append(f"        and {len(mine) - NUM_SHOWN} more; --json names all")
        if self.restored:
            lines.append(f"put back: {len(self.restored)}")
        lines += [f"{where}: put back already; nothing to do" for where in self.already]
        if self.rows:
            lines.append("Put one back with --restore and its file:record, its id or the beginning of its id.")
        return "\n".join(lines)


def curate_project(
    project_dir: Path, config: ProjectConfig, *, restore: Sequence[str] = (), watcher: Watcher | None = None
) -> SetAside:
    """Read and clean the rows, record what became of each, and put the rows named back.

    Raises:
        DataError: nothing could be read, a brake closed, a name is not of exactly one row that is set aside, or a row
            stays set aside whatever a person says; then nothing is put back.
    """
    from metier.ledger import record_restored

    with open_session(project_dir, config, watcher=watcher, what="metier curate") as session:
        ground = read_and_check(session)
        record_ground(session, ground)
        places = [_one(ground, wanted, session.restored) for wanted in restore]
        origins = [ground.curated.table.origin(place) for place in places]
        _require_back(ground, session.restored.intersection(origins))
        already = [ground.curated.table.where(i) for i, o in zip(places, origins, strict=True) if o in session.restored]
        if new := sorted(set(origins) - session.restored):
            session.restored |= frozenset(new)
            session.progress.watcher = None  # the readers' messages were told above
            ground = read_and_check(session)
            _require_back(ground, new)
            record_restored(session.ledger, new, why="metier curate --restore")
            record_ground(session, ground)
        return _listed(ground, sorted(session.restored), already)


def _one(ground: Ground, wanted: str, restored: Collection[str]) -> int:
    """The place of the one row, set aside or put back before, that file:record, an id or its beginning names."""
    table, aside = ground.curated.table, ground.curated.set_aside.tolist()
    back = [i for i in ground.curated.kept.tolist() if table.origin(i) in restored] if restored else []
    found = [i for i in [*aside, *back] if wanted and _is_named(table, i, wanted)]
    if len(found) == 1:
        return int(found[0])
    if not found:
        raise DataError(
            f"--restore {wanted!r}: 0 of {len(aside)} rows set aside have an id that begins so; expected one. `metier "
            "curate` lists them; file:record names one too."
        )
    listed = ", ".join(f"{table.origin(i)} ({table.where(i)})" for i in found[:NUM_NAMED])
    more = f" and {len(found) - NUM_NAMED} more" if len(found) > NUM_NAMED else ""
    raise DataError(
        f"--restore {wanted!r}: {len(found)} rows have an id that begins so: {listed}{more}; expected one. Give more "
        "of the id, or file:record."
    )


def _is_named(table: RowTable, place: int, wanted: str) -> bool:
    return table.where(place) == wanted or any(
        name.startswith(wanted) for name in (table.origin(place), table.row_id(place))
    )


def _require_back(ground: Ground, origins: Collection[str]) -> None:
    """Refuse to say that a row is back where consent, licence or age keep it out."""
    table = ground.curated.table
    for place in ground.curated.set_aside.tolist():
        if table.origin(place) in origins:
            raise DataError(
                f"{table.where(place)}: still set aside as {ground.curated.reason.at(place)}; a person cannot overrule "
                "consent, licence, age or a gold that fails its grader. Correct the record or the settings."
            )


def _listed(ground: Ground, restored: Sequence[str], already: Sequence[str]) -> SetAside:
    curated, table = ground.curated, ground.curated.table
    rows = [
        AsideRow(
            origin_id=table.origin(place),
            where=table.where(place),
            reason=curated.reason.at(place) or "",
            survivor=table.where(survivor) if (survivor := int(curated.survivor_N[place])) >= 0 else "",
        )
        for place in curated.set_aside.tolist()
    ]
    return SetAside(
        read=curated.num_read,
        kept=len(curated.kept),
        failed=len(curated.failed),
        reasons=curated.reasons,
        rows=rows,
        restored=restored,
        already=already,
    )
