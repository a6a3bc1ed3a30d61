"""The pages of the introduction run from top to bottom, and print what they say they print.

After a change of what they print: METIER_WRITE_PAGES=1 pytest tests/test_learn_pages.py writes the outputs anew; read them.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[1] / "docs" / "learn"
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks transformers
@pytest.mark.parametrize("name", sorted(path.name for path in PAGES.glob("*.md")))
def test_a_page_prints_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (PAGES / name).read_text(encoding="utf-8")
    scope: dict[str, object] = {}
    said, printed = [], []
    for code, text in BLOCK.findall(page):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, name, "exec"), scope)
        said.append(text)
        printed.append(out.getvalue())
    if os.environ.get("METIER_WRITE_PAGES"):
        outputs = iter(printed)
        whole = BLOCK.sub(lambda found: f"```python\n{found[1]}```" + shown(next(outputs)), page)
        (PAGES / name).write_text(whole, encoding="utf-8")
        said = printed
    assert said == printed
    assert len(printed) >= 2, "a page that runs nothing teaches nothing"
    assert "## Read next" in page and "## Try" in page


def shown(printed: str) -> str:
    return f"\n\n```text\n{printed}```" if printed else ""
