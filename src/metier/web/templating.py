"""What every page is made with: templates that escape all values, the style sheets, and no control characters.

html = environment().get_template("data.html").render(css=styles("report.css", "data.css"), ...)
page = without_control(html)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metier.web import numbers

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["environment", "styles", "without_control"]

TEMPLATES = Path(__file__).parent / "templates"
# A text may hold control characters, which HTML forbids; they show as the sign for "not a character".
_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\r"}


def environment() -> Environment:
    """Templates that escape every value and raise on an undefined name: a page never shows an empty hole."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        pct=numbers.percent,
        points=numbers.points,
        signed=numbers.signed_points,
        num=numbers.number,
        money=numbers.money,
        duration=numbers.duration,
        level=numbers.confidence,
    )
    return made


def styles(*names: str) -> str:
    """Style sheets in this order, as one text."""
    return "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)


def without_control(page: str) -> str:
    """The page with every control character made visible."""
    return page.translate(_CONTROL)
