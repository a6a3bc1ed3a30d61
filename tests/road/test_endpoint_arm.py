"""A whole run with a bought model among the arms, behind a real server: its score, its price, and nothing asked twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arms.endpoint_server import Server
from tests.road.running import copy_of, metier, one_core
from tests.road.small_project import LEAN, write_project

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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("FAR_KEY", "secret-7")
    found = Server()
    yield found
    found.released.set()
    found.http.shutdown()
    found.http.server_close()


def test_a_bought_model_is_an_arm_like_the_others(
    server: Server, tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METIER_CACHE", str(cache_dir))
    text = LEAN.replace('[[arm]]\nkind = "tuned"\n', ENDPOINT.replace("URL", server.url))
    project_dir = write_project(tmp_path / "project", text=text)
    with one_core():
        first = metier("run", "-C", project_dir, "--json")
        assert first.code == 0, first.err
        asked = len(server.bodies)
        arm = next(arm for arm in first.json["arms"] if arm["name"] == "bought")
        assert (arm["kind"], arm["status"], arm["num_rows"]) == ("endpoint", "ran", 24)
        assert arm["cost_per_1k_requests"] == pytest.approx(1000 * (20 * 10 + 5 * 40) / 1e6)
        assert len(arm["chosen_from"]) == 3
        assert "bought" in first.json["question"]["comparators"]
        dated = {price["item"]: price for price in first.json["prices"]}
        assert dated["bought_million_tokens_in"]["date"] == "2026-11-20"
        # Three wordings on ten dev rows; then 24 hold-out rows with the best. Dev is answered already.
        assert asked == 3 * 10 + 24 and len({str(body) for body in server.bodies}) == asked
        again = metier("run", "-C", project_dir, "--json", "--set", "budget.minutes=601")
        assert again.code == 0 and len(server.bodies) == asked
        assert metier("verify", "-C", project_dir).code == 0
    stages = [path.name for path in (project_dir / ".metier" / "stages" / "tune").iterdir()]
    copied = copy_of(project_dir, tmp_path / "raised")
    path = copied / "metier.toml"
    path.write_text(path.read_text().replace("max_money = 1.0", "max_money = 2.0"), encoding="utf-8")
    with one_core():
        raised = metier("run", "-C", copied, "--json")
    assert raised.code == 0 and raised.json["question"]["hash"] == first.json["question"]["hash"]
    assert len(server.bodies) == asked, "a raised cap asks nothing again"
    assert [path.name for path in (copied / ".metier" / "stages" / "tune").iterdir()] == stages, (
        "and tunes nothing again"
    )
