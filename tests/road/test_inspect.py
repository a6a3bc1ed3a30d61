"""Looking without changing anything: the stages of a status, and a chat with the models that were judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from metier.arms import Replier
from metier.core.errors import ModelError
from metier.core.project_file import load_project_file
from metier.road import open_chat, read_status
from tests.road.running import change, metier


def status_of(project: Path) -> dict[str, str]:
    return read_status(project, load_project_file(project)).stages


def test_a_status_names_the_seal_and_every_arm_in_the_order_of_the_road(lean: Path, fresh: Path) -> None:
    assert list(status_of(lean)) == [
        "ground", "split", "plan", "seal", "tune", "arm-prompt", "arm-small", "arm-tuned", "look", "report",
    ]  # fmt: skip
    assert set(status_of(lean).values()) == {"finished"}
    assert list(status_of(fresh)) == ["ground", "split", "plan", "seal", "tune", "look", "report"]


def test_a_status_of_a_run_at_work_on_an_arm_shows_that_arm(lean: Path) -> None:
    (folder,) = (lean / ".metier/stages/arm-small").glob("*/")
    (folder / "done.json").unlink()
    shutil.rmtree(lean / ".metier/stages/look")
    stages = status_of(lean)
    assert (stages["arm-small"], stages["arm-prompt"], stages["look"]) == ("unfinished", "finished", "not begun")
    text = metier("status", "-C", lean).out.splitlines()
    assert text[:2] == ["ground     finished", "split      finished"]
    assert "arm-small  unfinished" in text


def prompts_of(monkeypatch: pytest.MonkeyPatch, project: Path, *overrides: str) -> dict[str, str]:
    """The system message that base and tuned model get in a chat under these settings."""
    seen: list[str] = []

    def answer(self: Replier, rows: Any, talks: Any) -> Any:
        seen.append(next((m.content for m in talks[0] if m.role == "system"), ""))
        return real(self, rows, talks)

    real = Replier.reply
    monkeypatch.setattr(Replier, "reply", answer)
    talk = open_chat(project, load_project_file(project, overrides))
    return dict(zip(talk("A-1: my lamp is wet. Ana"), seen, strict=True))


def test_a_chat_asks_as_the_report_judged_whatever_the_settings_say_now(
    lean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = prompts_of(monkeypatch, lean)
    (arm,) = (lean / ".metier/stages/arm-prompt").glob("*/arm.json")
    assert judged == {"base": json.loads(arm.read_text())["described"]["instruction"], "tuned": ""}
    change(lean, 'kind = "tuned"', 'kind = "tuned"\ninstruction = "short"')
    change(lean, 'args = { any = ["Hi"] }', 'args = { any = ["Hello"] }')
    assert prompts_of(monkeypatch, lean) == judged


def test_a_chat_whose_tuned_model_carries_another_text_than_was_judged_is_refused(lean: Path) -> None:
    path = lean / ".metier/report/report.json"
    report = json.loads(path.read_text())
    tuned = next(arm for arm in report["arms"] if arm["kind"] == "tuned")
    tuned["carries_instruction"] = "full"  # as where the guidelines it carries were edited
    path.write_text(json.dumps(report))
    with pytest.raises(ModelError, match="the adapter or the guidelines were edited since. Restore them, or run again"):
        open_chat(lean, load_project_file(lean))


def test_a_chat_with_another_base_than_was_judged_is_refused(lean: Path, tmp_path: Path) -> None:
    from metier.models import make_tiny_model

    other = make_tiny_model(tmp_path / "other", texts=["Where is it?"], width=32, num_layers=2)
    with pytest.raises(ModelError) as err:
        open_chat(lean, load_project_file(lean, [f"base.name=path:{other}"]))
    assert "[base] names " in str(err.value)
    assert "but the newest report judged tiny (" in str(err.value)
    assert f"Set [base] back to that one, or run again: metier run -C {lean}" in str(err.value)
