"""The page of the stage says what happens."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path


def test_the_example_of_the_page_prints_what_the_page_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "assess.md").read_text(encoding="utf-8")
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", page, flags=re.DOTALL)[:2]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "docs/assess.md", "exec"), {})
    assert out.getvalue() == printed
