"""What the help and a dry run promise is what they show, and what a run leaves reads as words."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from metier.conventions import check_names
from metier.core.project_file import load_project_file
from metier.printing import setting_lines
from tests.browser.chromium import text_of
from tests.road.running import metier


def test_the_help_of_check_lists_every_check_by_name() -> None:
    listed = metier("check", "--help").out.partition("Checks for `check = ...` of a [[convention]]:\n")[2]
    assert tuple(" ".join(listed.split()).split(", ")) == check_names()


def test_only_that_help_waits_for_the_checks() -> None:
    code = (
        "import sys; from metier.cli import main; main(['{}', '--help']); sys.exit('metier.conventions' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code.format("run")], stdout=subprocess.DEVNULL).returncode == 0
    assert subprocess.run([sys.executable, "-c", code.format("check")], stdout=subprocess.DEVNULL).returncode == 1


def test_a_dry_run_shows_every_setting_with_its_value(fresh: Path) -> None:
    settings = asdict(load_project_file(fresh, ["budget.minutes=5"]))
    lines = list(setting_lines(settings))
    assert "budget.minutes = 5.0" in lines or "budget.minutes = 5" in lines
    assert "split.holdout_rows = 24" in lines
    assert sum(line.startswith("[[convention]] {") for line in lines) == len(settings["convention"])
    tables = [values for values in settings.values() if isinstance(values, dict)]
    assert len([line for line in lines if " = " in line.partition("{")[0]]) == sum(len(values) for values in tables)
    told = metier("run", "-C", fresh, "--dry-run", "--set", "budget.minutes=5").out
    assert told.startswith("project.name = ")
    assert "split.holdout_rows = 24\n" in told
    assert told.index("budget.minutes = ") < told.index("rows: 56 train, 10 dev, 24 hold-out\n")


def test_the_page_of_a_real_run_holds_words_and_numbers_only(lean: Path) -> None:
    """The sample report is invented; here everything a run writes reaches the page."""
    text = text_of((lean / ".metier/report/index.html").read_text(encoding="utf-8"))
    assert "Hold-out rows needed in all" in text
    assert re.findall(r"\bNone\b|\bTrue\b|\bFalse\b|\{'|\['|\b\w+=\w+", text.partition("Cost and time")[2]) == []
