"""A whole run with a bought model among the arms, behind a real server: its score, its price, and nothing asked twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from metier.core.trials import Reply
from metier.evaluate.scores import ArmScores
from metier.road.calls import StoredCalls
from metier.road.look import _broken_replies
from tests.arms.endpoint_server import Server
from tests.road.killing import die, killed
from tests.road.running import Ran, change, copy_of, metier, one_core
from tests.road.small_project import LEAN, rows, write_project

ENDPOINT = """[[arm]]
kind = "endpoint"
name = "bought"

[arm.endpoint]
url = "URL"
model = "far"
key = "FAR_KEY"
max_money = 1.0
token_in = 10.0
token_out = 40.0
date = "2026-11-20"
source = "their page"

[[arm]]
kind = "tuned"
"""


COST = (20 * 10 + 5 * 40) / 1e6
"""Of one answer, by the usage the server tells."""
DEV, HOLDOUT = 3 * 10, 24
"""Three wordings on ten dev rows; then the hold-out with the best. Dev is answered when latency is measured."""
PERSON = "Zuzana Quill-77"


def write(project_dir: Path, server: Server) -> Path:
    """A project with the arm, and a person of whom three rows are."""
    text = LEAN.replace('[[arm]]\nkind = "tuned"\n', ENDPOINT.replace("URL", server.url))
    text = text.replace('groups = ["customer"]', 'groups = ["customer"]\nsubject = ["customer"]')
    records = rows(90)
    for number in (20, 83, 88):
        records[number]["customer"] = PERSON
    return write_project(project_dir, text=text, records=records)


class Finished(NamedTuple):
    """A finished run and the server it asked."""

    project_dir: Path
    server: Server
    ran: Ran


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Finished]:
    server = Server()
    project_dir = write(tmp_path_factory.mktemp("bought") / "project", server)
    with pytest.MonkeyPatch.context() as patch, one_core():
        patch.setenv("METIER_CACHE", str(cache_dir))
        patch.setenv("FAR_KEY", "secret-7")
        ran = metier("run", "-C", project_dir, "--json")
        assert ran.code == 0, ran.err
        yield Finished(project_dir, server, ran)
    server.close()


def test_a_bought_model_is_an_arm_like_the_others(finished: Finished, tmp_path: Path) -> None:
    project_dir, server, first = finished
    arm = next(arm for arm in first.json["arms"] if arm["name"] == "bought")
    assert (arm["kind"], arm["status"], arm["num_rows"]) == ("endpoint", "ran", HOLDOUT)
    assert arm["cost_per_1k_requests"] == pytest.approx(1000 * COST)
    assert len(arm["chosen_from"]) == 3
    assert "bought" in first.json["question"]["comparators"]
    dated = {price["item"]: price for price in first.json["prices"]}
    assert f'date = "{dated["bought_million_tokens_in"]["date"]}"' in ENDPOINT
    asked = len(server.bodies)
    assert asked == DEV + HOLDOUT and len({str(body) for body in server.bodies}) == asked
    assert "bought: about 54 requests of " in first.err and "max_money is 1\n" in first.err
    again = metier("run", "-C", project_dir, "--json", "--set", "budget.minutes=601")
    assert again.code == 0 and len(server.bodies) == asked
    assert metier("verify", "-C", project_dir).code == 0
    stages = [path.name for path in (project_dir / ".metier" / "stages" / "tune").iterdir()]
    copied = copy_of(project_dir, tmp_path / "raised")
    arm_text = ENDPOINT.replace("URL", server.url)
    change(copied, arm_text, arm_text.replace("max_money = 1.0", "max_money = 2.0"))
    with one_core():
        raised = metier("run", "-C", copied, "--json")
    assert raised.code == 0 and raised.json["question"]["hash"] == first.json["question"]["hash"]
    assert len(server.bodies) == asked, "a raised cap asks nothing again"
    tuned = [path.name for path in (copied / ".metier" / "stages" / "tune").iterdir()]
    assert tuned == stages, "and tunes nothing again"


def test_replies_that_are_not_whole_are_counted_by_arm() -> None:
    def scored(arm: str, *ends: str) -> ArmScores:
        replies = tuple(Reply(text="", tokens_in=1, tokens_out=1, seconds=0.1, finish=end) for end in ends)
        return ArmScores(arm=arm, scores=(), replies=replies, mean=0.0, checks={})

    broken = scored("bought", "refused", "stop", "refused", "length")
    assert _broken_replies([broken, scored("tuned", "stop"), scored("prompt", "length", "stop")]) == (
        "2 refused and 1 cut at the longest reply allowed, of 4 of bought; 1 cut at the longest reply allowed, of 2 of "
        "prompt"
    )
    assert _broken_replies([scored("tuned", "stop")]) == "none"


def test_the_certificate_says_how_many_rows_of_the_person_were_sent_where(finished: Finished, tmp_path: Path) -> None:
    project_dir = copy_of(finished.project_dir, tmp_path / "project")
    asked = [body["messages"][-1]["content"] for body in finished.server.bodies]
    mine = [record["ask"] for record in rows(90)]
    sent = sum(mine[number] in asked for number in (20, 83, 88))
    assert sent, "some of the person's rows are in dev or hold-out"
    told = metier("erase", PERSON, "-C", project_dir, "--dry-run")
    assert f"sent to {finished.server.url}: the prompts of {sent} row" in told.out
    assert "metier cannot erase there; ask whoever runs them" in told.out
    for _ in range(2):  # the answers are gone the second time; where rows were sent is not
        done = metier("erase", PERSON, "-C", project_dir, "--json")
        assert done.json["sent"] == {finished.server.url: sent}
    calls = StoredCalls(project_dir / ".metier/calls/bought.jsonl", b"")
    assert not calls.answers and calls.spent == pytest.approx((DEV + HOLDOUT) * COST)


def test_what_an_endpoint_will_cost_is_planned_and_refused_before_the_first_request(
    finished: Finished, tmp_path: Path
) -> None:
    server = finished.server
    asked, project_dir = len(server.bodies), write(tmp_path / "project", server)
    told = metier("plan", "-C", project_dir)
    assert "bought: about 54 requests of " in told.out, told.err
    (bought,) = metier("plan", "-C", project_dir, "--json").json["bought"]
    assert (bought["num_dev"], bought["num_holdout"]) == (DEV, HOLDOUT)
    money = (DEV + HOLDOUT) * bought["request"]
    assert bought["request"] == pytest.approx((bought["tokens_in"] * 10 + bought["tokens_out"] * 40) / 1e6)
    for verb in ("plan", "run"):
        ran = metier(verb, "-C", project_dir, "--set", f"budget.money={money / 2}")
        assert ran.code == 3 and f"{money:.4f} of it for answers of endpoints; [budget] money is" in ran.err
    change(project_dir, "max_money = 1.0", f"max_money = {0.9 * money}")
    for verb in ("plan", "run", "assess"):
        ran = metier(verb, "-C", project_dir)
        assert ran.code == 3, ran.out
        assert "Nothing more was asked: raise [arm.endpoint] max_money to " in ran.err
    assert len(server.bodies) == asked


def run_until_kept(project_dir: Path, cache_dir: Path, call: int) -> None:
    """Run, and die when the n-th answer has come and is not kept yet."""
    os.environ |= {"METIER_CACHE": str(cache_dir), "FAR_KEY": "secret-7"}
    real, num = StoredCalls.keep, []

    def deadly(*arguments: object, **named: object) -> None:
        num.append(call)
        if len(num) == call:
            die()
        real(*arguments, **named)  # type: ignore[arg-type]  # whatever the arm gives

    import_module("metier.road.calls").StoredCalls.keep = deadly
    with one_core():
        metier("run", "-C", project_dir)


@pytest.mark.parametrize("call", [7, DEV + 5], ids=["dev", "hold-out"])
def test_a_run_killed_between_an_answer_and_its_keeping_asks_that_one_again_and_counts_it_as_billed(
    call: int, tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_CACHE", str(cache_dir))
    monkeypatch.setenv("FAR_KEY", "secret-7")
    server = Server()
    project_dir = write(tmp_path / "project", server)
    path = project_dir / ".metier/calls/bought.jsonl"
    assert killed(run_until_kept, project_dir, cache_dir, call)
    assert len(server.bodies) == call
    (sent,) = [line for line in map(json.loads, path.read_text().splitlines()) if line.get("sent") == call]
    with one_core():
        again = metier("run", "-C", project_dir, "--json")
    assert again.code == 0, again.err
    booked = (
        f"bought: 1 request was on the way when a run was killed and may be billed: booked at most, {sent['most']:.4f}"
    )
    assert again.err.count(booked) == 1
    assert len(server.bodies) == DEV + HOLDOUT + 1, "the lost answer alone was asked for again"
    assert len({str(body) for body in server.bodies}) == DEV + HOLDOUT
    found = StoredCalls(path, b"")
    assert found.spent == pytest.approx((DEV + HOLDOUT) * COST + sent["most"]) and not found.on_way
    server.close()
