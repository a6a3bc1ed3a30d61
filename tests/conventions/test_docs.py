"""The page of conventions names what exists."""

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from metier.conventions import check_names, registry
from metier.core.config import field_docs
from tests.conventions.builders import convention, row

PAGE = Path(__file__).parents[2] / "docs" / "conventions.md"


def test_the_page_lists_every_check_with_every_arg():
    listed = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = line.split("|")
        if len(cells) == 5:
            for name in re.findall(r"`(\w+)`", cells[1]):
                listed[name] = set(re.findall(r"`(\w+)`", cells[2]))
    assert set(listed) == set(check_names())
    for name, cls in registry._CHECKS.items():
        args = {"function"} if name == "python" else {f.name for f in fields(cls)}
        assert listed[name] == args, name


@pytest.mark.parametrize("name", check_names())
def test_every_arg_says_what_it_is(name):
    cls = registry._CHECKS[name]
    assert set(field_docs(cls)) == {f.name for f in fields(cls)}
    assert get_type_hints(cls).keys() >= {f.name for f in fields(cls)}


def test_the_function_of_the_page_works(tmp_path):
    source = PAGE.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    ast.parse(source)
    (tmp_path / "checks.py").write_text(source)
    rule = convention("python", {"function": "checks:polite"}, tmp_path)
    assert rule.check(row(), "No").why == "The reply does not say thank you."
    assert rule.check(row(), "Thanks").score == 1.0
    assert rule.guideline == "Say please or thank you."
