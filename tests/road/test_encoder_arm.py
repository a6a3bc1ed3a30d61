"""A run with the tuned encoder among the arms: killed while it tunes, finished, and found again without training."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier.arms import encoder, label_network
from metier.core.folders import read_json
from tests.road.running import change, metier
from tests.road.small_project import LEAN, rows, write_project
from tests.road.test_kinds_of_project import CONVENTIONS

pytestmark = pytest.mark.real_base
ENCODER = '[[arm]]\nkind = "encoder"\n\n[[arm]]\nkind = "tuned"\n'
LABELLED = (
    LEAN.replace(CONVENTIONS, '[metric]\nname = "label"\n\n')
    .replace('reply = "answer"', 'label = "topic"')
    .replace('on = "greeting"', 'on = "metric"')
    .replace('[[arm]]\nkind = "tuned"\n', ENCODER)
)
RECORDS = [{**row, "topic": "lost" if "lost" in row["ask"] or "came" in row["ask"] else "broken"} for row in rows()]


def test_the_encoder_is_an_arm_like_the_others_and_is_tuned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "SETTINGS", ((3e-4, 1), (3e-4, 4)))
    project = write_project(tmp_path / "p", text=LABELLED, records=RECORDS)
    real = label_network.tune_labels

    def killed(texts: list[str], golds: list[str], *, lr: float, passes: int, seed: int) -> object:
        if passes == 4:
            raise KeyboardInterrupt
        return real(texts, golds, lr=lr, passes=passes, seed=seed)

    monkeypatch.setattr(label_network, "tune_labels", killed)
    assert metier("run", "-C", project).code == 130
    (stage_dir,) = (project / ".metier/stages/arm-encoder").iterdir()
    assert not (stage_dir / "done.json").exists()
    monkeypatch.setattr(label_network, "tune_labels", real)
    first = metier("run", "-C", project, "--json")
    assert first.code == 0, first.err
    arm = next(arm for arm in first.json["arms"] if arm["name"] == "encoder")
    assert (arm["kind"], arm["status"], arm["num_rows"], arm["carries_instruction"]) == ("encoder", "ran", 24, "none")
    assert arm["score"] > 0.9, "a word decides, and the sentence model reads it"
    assert [choice["name"] for choice in arm["chosen_from"]] == ["lr=0.0003, passes=1", "lr=0.0003, passes=4"]
    assert "encoder" in first.json["question"]["comparators"]
    assert "encoder.safetensors" in read_json(stage_dir / "done.json")["files"]
    monkeypatch.setattr(label_network, "tune_labels", None)
    change(project, 'name = "small"', 'name = "renamed"')  # a changed report, the same arms
    again = metier("run", "-C", project, "--json")
    assert again.code == 0, again.err
    assert again.json["arms"] == first.json["arms"]
    assert metier("verify", "-C", project).code == 0


def test_where_targets_are_replies_it_is_skipped_with_its_reason(tmp_path: Path) -> None:
    text = LEAN.replace('[[arm]]\nkind = "tuned"\n', ENCODER)
    project = write_project(tmp_path / "p", text=text)
    found = metier("assess", "-C", project, "--json")
    assert "encoder: not run (not_labels)" in found.err
    assert set(found.json["dev_scores"]) == {"prompt", "small"}
