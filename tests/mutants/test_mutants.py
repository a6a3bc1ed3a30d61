"""Silent failures put into the running code, one at a time; each must end in its own error or outcome.

Every mutant changes one function. That the same run without it passes is `lean_project`, or the first run of the test.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.road.running import Ran, events_of, metier
from tests.road.small_project import write_project

PatchIt = pytest.MonkeyPatch


def refused(project: Path, said: str, *, code: int = 1) -> Ran:
    """The run ends in this error and shows nothing."""
    ran = metier("run", "-C", project, "--json")
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert said in ran.err, ran.err
    assert not (project / ".metier/report").exists()
    return ran


def test_a_template_swapped_between_tune_and_evaluate(fresh: Path, monkeypatch: PatchIt, tmp_path: Path) -> None:
    from metier.render import Renderer
    from metier.road.tuning import Tuning

    real = Tuning.load

    def load_with_another_template(self: Tuning) -> Any:
        tuned_with = self.facts["template_sha256"]
        other_dir = tmp_path / "base"
        shutil.copytree(self.session.base.dir, other_dir)
        path = other_dir / "chat_template.jinja"
        greeting = "{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}"
        path.write_text(greeting + path.read_text(encoding="utf-8"), encoding="utf-8")
        self.session.renderer = Renderer(other_dir)
        assert self.session.renderer.template_sha256 != tuned_with
        return real(self)

    monkeypatch.setattr(Tuning, "load", load_with_another_template)
    ran = refused(fresh, "tuned with chat template ")
    assert "but replies would be prompted with" in ran.err
    assert "look_opened" not in events_of(fresh)


def test_an_adapter_that_is_zeroed_when_it_is_written(fresh: Path, monkeypatch: PatchIt) -> None:
    from metier.tune import running

    real = running.export_adapter

    def export_zeros(handle: Any, adapter_dir: Path) -> Path:
        for layer in handle.adapter.layers:
            for low_rank in layer.values():
                low_rank.b.zero_()
        return real(handle, adapter_dir)

    monkeypatch.setattr(running, "export_adapter", export_zeros)
    refused(fresh, "the tuned model gives the base's token with the base's probability; the adapter is not in use")
    assert "look_opened" not in events_of(fresh)


def test_an_adapter_that_the_decoder_does_not_use(fresh: Path, monkeypatch: PatchIt) -> None:
    from metier.road.session import Session

    real = Session.tuned_handle

    def without_adapter(self: Session, adapter_dir: Path) -> Any:
        handle = real(self, adapter_dir)
        handle.adapter = None
        return handle

    monkeypatch.setattr(Session, "tuned_handle", without_adapter)
    refused(fresh, "the tuned model gives the base's token with the base's probability; the adapter is not in use")


def test_every_token_masked(fresh: Path, monkeypatch: PatchIt) -> None:
    from metier.render import Renderer

    real = Renderer._mask

    def all_masked(self: Renderer, *arguments: Any) -> Any:
        rendered = real(self, *arguments)
        return dataclasses.replace(rendered, weight=[0.0] * len(rendered.tokens))

    monkeypatch.setattr(Renderer, "_mask", all_masked)
    ran = refused(fresh, ": its mask does not cover exactly the trained replies and their end-of-turn tokens.")
    assert ran.err.splitlines()[-1].startswith("error: row "), "the error names the row"


def test_a_hold_out_row_that_leaks_into_train(fresh: Path, monkeypatch: PatchIt) -> None:
    from metier.road import cut

    real = cut.split_rows

    def leaky(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        return dataclasses.replace(result, train=np.append(result.train, result.holdout[0]))

    monkeypatch.setattr(cut, "split_rows", leaky)
    ran = refused(fresh, " of train is also in holdout (same record as rows.jsonl:")
    assert "expected parts without a common row." in ran.err


def test_a_hold_out_row_that_is_trained_on_after_the_split(fresh: Path, monkeypatch: PatchIt) -> None:
    from metier.ledger import find_seal, seal_key, unpack_rows
    from metier.road import tuning

    real = tuning.render_parts

    def leaky(session: Any, parts: Any) -> Any:
        (sealed,) = session.ledger.events(kind="holdout_sealed")
        seal = find_seal(session.ledger, sealed.body["split"])
        assert seal is not None
        pack = session.store.get_encrypted(seal.object_ref, seal_key(session.project_dir))
        rows = unpack_rows(pack, session.subject_keys, where=session.project_dir)
        rendered = real(session, parts)
        return dataclasses.replace(rendered, train=[*rendered.train, session.renderer.train_row(rows[0])])

    def every_row(plan: Any) -> Any:
        return dataclasses.replace(plan, num_train_rows=plan.num_train_rows + 1)

    first = tuning.Tuning.__init__

    monkeypatch.setattr(tuning, "render_parts", leaky)
    monkeypatch.setattr(
        tuning.Tuning, "__init__", lambda self, session, parts, plan: first(self, session, parts, every_row(plan))
    )
    ran = refused(fresh, "error: 1 rows of the hold-out were trained on (row ")
    assert "the look shows nothing." in ran.err


def test_a_grader_that_accepts_the_empty_reply(fresh: Path, monkeypatch: PatchIt) -> None:
    from metier.evaluate.grader import Grader

    real = Grader.score

    def lenient(self: Grader, row: Any, text: str) -> Any:
        found = real(self, row, text)
        return found if text else dataclasses.replace(found, score=1.0)

    monkeypatch.setattr(Grader, "score", lenient)
    refused(fresh, "Control 'empty': mean score 1.000 over 90 rows; expected below the pass mark 0.5.")


def test_a_comparator_chosen_on_the_hold_out(fresh: Path, monkeypatch: PatchIt) -> None:
    from metier.road import verdict

    real = verdict.decide_from_scores

    def against_the_weakest(table: Any, *arguments: Any, facts: Any, **named: Any) -> Any:
        def mean(arm: str) -> float:
            return float(np.mean(list(table.scores_of(arm).values())))

        weakest = min(facts["comparators"], key=mean)
        return real(table, *arguments, facts={**facts, "comparators": [weakest]}, **named)

    monkeypatch.setattr(verdict, "decide_from_scores", against_the_weakest)
    ran = refused(fresh, "frozen before the look were tuned against prompt (small differs).")
    assert "A comparator is never chosen on the hold-out." in ran.err


def test_scores_that_are_edited_after_the_run(lean: Path) -> None:
    import io

    import polars as pl

    path = lean / ".metier/report/scores.parquet"
    frame = pl.read_parquet(path.read_bytes())
    better = frame.with_columns(score=pl.when(pl.col("arm") == "tuned").then(1.0).otherwise(0.0))
    buffer = io.BytesIO()
    better.write_parquet(buffer)
    path.write_bytes(buffer.getvalue())
    ran = metier("verify", "-C", lean, "--json")
    assert ran.code == 3
    found = "\n".join(ran.json["problems"])
    assert "scores.parquet: SHA-256 " in found
    assert "its scores are not those look " in found
    assert "decided again: WORTH_IT" in found, "with these scores the verdict would be another"
    assert "error: " in ran.err


def test_scores_and_report_edited_to_fit_each_other(lean: Path) -> None:
    from metier.core.hashing import file_sha256

    test_scores_that_are_edited_after_the_run(lean)
    report_dir = lean / ".metier/report"
    report = json.loads((report_dir / "report.json").read_text(encoding="utf-8"))
    report["files"]["scores_sha256"] = file_sha256(report_dir / "scores.parquet")
    (report_dir / "report.json").write_text(json.dumps(report), encoding="utf-8")
    ran = metier("verify", "-C", lean, "--json")
    assert ran.code == 3
    assert [p for p in ran.json["problems"] if "its scores are not those look " in p]


TOPICS = ("A", "B", "C", "D", "E", "F", "G", "H")
LEARNABLE = """
[project]
name = "topics"
seed = 1
guidelines = ["guide.txt"]

[base]
name = "tiny"

[data]
files = ["rows.jsonl"]
columns = { prompt = "ask", label = "topic" }

[clean]
near_dup = 1.0

[split]
generalise_to = "new_groups"
holdout_rows = 40
dev_rows = 24

[metric]
name = "label"

[[arm]]
kind = "prompt"

[[arm]]
kind = "tuned"

[tune]
rank = 32
alpha = 64.0
depth = 4
passes = 12.0
lr = 0.01
step_tokens = 512
evals = 4
product_dtype = "fp32"

[decision]
margin = 0.3

[budget]
minutes = 600
"""


def topic_rows() -> list[dict[str, str]]:
    """A letter for each of eight things: what the tiny model can learn in seconds."""
    things = ("lamp", "rope", "tent", "mug", "bag", "map", "hat", "pan")
    rng = np.random.default_rng(8)
    rows = []
    for number in range(240):
        which = int(rng.integers(len(things)))
        rows.append({"ask": f"{int(rng.integers(1000, 9999))} {things[which]} {number}", "topic": TOPICS[which]})
    return rows


def shuffled_replies(real: Callable[..., Any]) -> Callable[..., Any]:
    """The road's rendering with the replies of the train rows exchanged."""

    def render(session: Any, parts: Any) -> Any:
        order = np.random.default_rng(0).permutation(len(parts.train))
        golds = [parts.train[i] for i in order]
        train = [
            row.model_copy(
                update={"target": other.target, "messages": (*row.prompt, *other.messages[len(other.prompt) :])}
            )
            for row, other in zip(parts.train, golds, strict=True)
        ]
        session.rendered = None
        mixed = dataclasses.replace(parts)
        mixed.__dict__["train"] = train  # what is read from the packs on first use
        return real(session, mixed)

    return render


def test_replies_shuffled_before_tuning(tmp_path: Path, monkeypatch: PatchIt) -> None:
    """With right replies this model is WORTH_IT against a prompt; with exchanged ones it only learns their form."""
    from metier.road import rendered, tuning

    honest, mutant = (write_project(tmp_path / name, text=LEARNABLE, records=topic_rows()) for name in ("a", "b"))
    for project in (honest, mutant):
        (project / "guide.txt").write_text("Answer with one letter from A to H.", encoding="utf-8")
    ran = metier("run", "-C", honest, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["verdict"]["outcome"] == "WORTH_IT", ran.json["verdict"]["sentence"]

    monkeypatch.setattr(tuning, "render_parts", shuffled_replies(rendered.render_parts))
    ran = metier("run", "-C", mutant, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["verdict"]["outcome"] != "WORTH_IT", ran.json["verdict"]["sentence"]
