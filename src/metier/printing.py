"""How a result reaches stdout: one JSON object for machines, text for a person."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["emit", "emit_dry_run", "setting_lines"]


def emit(value: dict[str, Any], text: str, *, as_json: bool) -> None:
    """The result on stdout: a JSON object, or text for a person."""
    try:
        sys.stdout.write((json.dumps(value, ensure_ascii=False, allow_nan=False) if as_json else text.rstrip()) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone, as `head` does; the work is done all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def emit_dry_run(planned: Any, *, as_json: bool) -> None:  # Any: Planned, whose room is too heavy to import here
    """Every setting, row counts and the estimate."""
    text = "\n".join([*setting_lines(planned.settings), planned.as_text()])
    emit(planned.as_json(), text, as_json=as_json)


def setting_lines(settings: Mapping[str, Any]) -> Iterator[str]:  # Any: the values of a settings table
    """Every setting of every table as `table.key = value`, the value as JSON; [[table]] entries on a line each."""
    for table, values in settings.items():
        if isinstance(values, Mapping):
            yield from (f"{table}.{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
        else:
            yield from (f"[[{table}]] {json.dumps(entry, ensure_ascii=False)}" for entry in values)
