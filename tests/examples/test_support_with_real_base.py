"""The road with the real base model on real English rows, as short as it can be: nothing here is random or tiny."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from metier.project import Project, init_project

ARMS = '[[arm]]\nkind = "prompt"\n\n[[arm]]\nkind = "small"\n\n[[arm]]\nkind = "tuned"\n\n'
OVERRIDES = (
    "split.holdout_rows=20",
    "split.dev_rows=10",
    "split.max_purge=0.5",
    "tune.passes=0.25",
    "tune.depth=6",
    "tune.evals=2",
    "curve.fractions=[]",
    "budget.minutes=120",
)


@pytest.mark.real_base
@pytest.mark.timeout(900)
def test_the_real_base_goes_the_road_and_its_report_verifies(tmp_path: Path) -> None:
    project_dir = init_project(tmp_path / "support", "support")
    text = (project_dir / "metier.toml").read_text(encoding="utf-8")
    arms, decision, guards, price = (text.index(part) for part in ("[[arm]]", "[decision]", "[[guard]]", "[price]"))
    # Without the guards: a slice needs more hold-out rows than this short run has.
    (project_dir / "metier.toml").write_text(
        text[:arms] + ARMS + text[decision:guards] + text[price:], encoding="utf-8"
    )
    project = Project.load(project_dir, OVERRIDES)
    report = project.run()
    ran = {arm.name: arm for arm in report.arms}
    assert set(ran) == {"prompt", "small", "tuned"}
    assert all(arm.num_rows == 20 for arm in ran.values())
    assert ran["prompt"].tokens_in > 300  # the full guidelines
    assert ran["tuned"].tokens_in < ran["prompt"].tokens_in / 2  # the tuned model drops them
    assert [point["dev_loss_nats"] for point in report.dev_curve][-1] < report.dev_curve[0]["dev_loss_nats"] - 0.3
    assert report.controls["fingerprint"].startswith("differs from the base on")
    assert project.verify().problems == ()
    page = project.report_path.read_text(encoding="utf-8")
    assert report.verdict.sentence.split(":")[0] in page
    shutil.rmtree(project_dir)
