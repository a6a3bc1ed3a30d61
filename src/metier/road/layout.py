"""In which layout the rows of a plan are computed: fixed once, by its rehearsal or by its first run.

    >>> layout_of(session).name  # doctest: +SKIP
    'packed'

The two layouts round otherwise, so what was measured is stored beside the plan and never measured again: every later
run of the plan takes it. Where `tune.layout` names a layout, nothing is stored.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from metier.core.folders import read_json, write_json
from metier.road.session import Session

if TYPE_CHECKING:
    from metier.engine.form import Choice

__all__ = ["fix_layout", "fixed_layout", "layout_of"]


def _path(session: Session) -> Path:
    return session.workspace.root / f"layout-{session.stages['plan'].hash[:16]}.json"


def fixed_layout(session: Session) -> Choice | None:
    """What the settings, a rehearsal or an earlier run fixed for this plan; None where it is still open."""
    from metier.engine.form import Choice

    wanted = session.config.tune.layout
    if wanted != "auto":
        return Choice(name=wanted, reason="tune.layout")
    path = _path(session)
    return Choice(**read_json(path)) if path.exists() else None


def layout_of(session: Session) -> Choice:
    """The layout of a run of this plan; packed where nothing fixed one."""
    from metier.engine.form import Choice
    from metier.tune.arrange import NOT_REHEARSED

    return fixed_layout(session) or Choice(name="packed", reason=NOT_REHEARSED)


def fix_layout(session: Session, choice: Choice) -> None:
    """Store the layout of this plan unless one is fixed: a run that began is not measured into another model."""
    if fixed_layout(session) is None:
        write_json(_path(session), asdict(choice))
