"""The endpoint arm against a real HTTP server and the real client: what goes wrong on the way, and that nothing is paid twice."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from metier.arms import EndpointReplier, PromptArm
from metier.arms.replier import with_instruction
from metier.core.arm_config import ArmConfig, EndpointConfig
from metier.core.errors import ConfigError, GateClosed, ModelError, StoreError
from metier.core.settings import PriceConfig
from metier.road.calls import StoredCalls, drop_answers, sent_rows
from metier.road.cost import price_entries
from tests.arms.builders import EXACT
from tests.arms.endpoint_asking import KEY, ROWS, TEXTS, ask, config, replier, status
from tests.arms.endpoint_server import Server, chunk, start_stream


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, noted instead of waited for."""
    waited: list[float] = []

    async def pause(_line: object, seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("metier.arms.asking.Line.pause", pause)
    monkeypatch.setenv("FAR_KEY", "secret-7")
    return waited


def test_rows_are_asked_once_and_a_second_run_asks_nothing(server: Server, tmp_path: Path) -> None:
    one = replier(server, tmp_path / "calls.jsonl", concurrency=3)
    talks = [with_instruction(each, "Answer.") for each in ROWS]
    replies = one.reply(ROWS, talks)
    assert [reply.text for reply in replies] == TEXTS
    assert [(reply.tokens_in, reply.tokens_out, reply.finish) for reply in replies] == [(20, 5, "stop")] * 4
    assert all(0 < reply.seconds < 5 for reply in replies)
    assert one.calls.spent == pytest.approx(4 * (20 * 1.0 + 5 * 4.0) / 1e6)
    assert server.headers[0]["authorization"] == "Bearer secret-7"
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("far", 0.0, 30)
    assert body["messages"][0] == {"role": "system", "content": "Answer."}
    again = replier(server, tmp_path / "calls.jsonl")
    assert [reply.text for reply in again.reply_each(ROWS, talks)] == TEXTS
    assert len(server.bodies) == 4
    assert again.calls.spent == one.calls.spent
    assert [reply.text for reply in again.reply(ROWS[:1], [with_instruction(ROWS[0], "Otherwise.")])] == TEXTS[:1]
    assert len(server.bodies) == 5, "another instruction is another question"


def test_two_rows_with_one_prompt_are_asked_for_once(server: Server, tmp_path: Path) -> None:
    server.delay_s = 0.1
    one = replier(server, tmp_path / "calls.jsonl", concurrency=4)
    assert ask(one, [ROWS[0]] * 4) == TEXTS[:1] * 4
    assert len(server.bodies) == 1


def test_what_is_kept_holds_neither_text_nor_key(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    ask(replier(server, path))
    data = path.read_bytes()
    # Text with blanks: a short word may stand in base64 by chance.
    assert all(text not in data for text in (b"At dock", b"Where is", b"is order", b"secret-7"))


@pytest.mark.parametrize(
    ("broken", "pause"),
    [(status(429, Retry_After="7"), 7.0), (status(500), 1.0), (status(503, Retry_After="2.5"), 2.5)],
)
def test_a_refused_request_is_sent_again_after_the_pause_that_was_asked_for_and_costs_nothing(
    broken: Callable[[BaseHTTPRequestHandler], bool],
    pause: float,
    server: Server,
    tmp_path: Path,
    no_waiting: list[float],
) -> None:
    server.script[1] = broken
    one = replier(server, tmp_path / "calls.jsonl")
    assert ask(one) == TEXTS
    assert len(server.bodies) == 5 and no_waiting == [pause]
    assert one.calls.spent == pytest.approx(4 * 40 / 1e6)


def hangs(server: Server) -> Callable[[BaseHTTPRequestHandler], bool]:
    def wait(to: BaseHTTPRequestHandler) -> bool:  # nothing is sent
        return bool(server.released.wait(10))

    return wait


def breaks_off(server: Server) -> Callable[[BaseHTTPRequestHandler], bool]:
    def half(to: BaseHTTPRequestHandler) -> bool:
        server.answer(to, server.bodies[-1], whole=False)
        to.connection.shutdown(socket.SHUT_RDWR)
        to.close_connection = True
        return True

    return half


def ends_early(server: Server) -> Callable[[BaseHTTPRequestHandler], bool]:
    """The stream ends as it should, without saying that the reply is finished."""

    def half(to: BaseHTTPRequestHandler) -> bool:
        server.answer(to, server.bodies[-1], whole=False)
        chunk(to, b"data: [DONE]\n\n")
        chunk(to, b"")
        return True

    return half


def is_no_json(server: Server) -> Callable[[BaseHTTPRequestHandler], bool]:
    def garbled(to: BaseHTTPRequestHandler) -> bool:
        start_stream(to)
        chunk(to, b"data: {half a line\n\n")
        chunk(to, b"")
        return True

    return garbled


@pytest.mark.parametrize("how", [hangs, breaks_off, ends_early, is_no_json])
def test_an_answer_that_is_lost_on_the_way_is_asked_for_again_and_counted_at_its_most(
    how: Callable[[Server], Callable[[BaseHTTPRequestHandler], bool]], server: Server, tmp_path: Path
) -> None:
    server.script[0] = how(server)
    one = replier(server, tmp_path / "calls.jsonl", timeout_s=0.5)
    assert ask(one, ROWS[:2]) == TEXTS[:2]
    assert len(server.bodies) == 3
    # "Answer." and "Where is order 0?" in bytes with 16 tokens around each, and 30 reply tokens.
    most = ((7 + 17 + 32) * 1.0 + 30 * 4.0) / 1e6
    assert one.calls.spent == pytest.approx(2 * 40 / 1e6 + most)
    assert replier(server, tmp_path / "calls.jsonl").calls.spent == pytest.approx(one.calls.spent)


def test_an_endpoint_that_never_answers_stops_the_run_and_what_was_answered_stays(
    server: Server, tmp_path: Path
) -> None:
    server.script = dict.fromkeys(range(2, 7), status(500))
    with pytest.raises(
        ModelError, match=rf"no answer to row {ROWS[2].row_id} after 5 tries; the last one: 500, no, 500"
    ):
        ask(replier(server, tmp_path / "calls.jsonl"))
    asked = len(server.bodies)
    server.script = {}
    assert ask(replier(server, tmp_path / "calls.jsonl")) == TEXTS
    assert len(server.bodies) <= asked + 2, "the first two rows were not asked for again"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (401, "the key in FAR_KEY is not accepted"),
        (403, "may not use this model"),
        (404, "no model 'far' there"),
        (402, "the account has no money left"),
        (405, "the request is not accepted"),
    ],
)
def test_what_asking_again_would_not_mend_is_told_at_once(code: int, told: str, server: Server, tmp_path: Path) -> None:
    server.script = dict.fromkeys(range(9), status(code))
    one = replier(server, tmp_path / "calls.jsonl")
    with pytest.raises(ModelError, match=told) as failed:
        ask(one, ROWS[:1])
    assert "secret" not in str(failed.value)
    assert len(server.bodies) == 1 and one.calls.spent == one.calls.pending == 0


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        (None, "no usage in the answer"),
        ({"prompt_tokens": 0, "completion_tokens": 5, "total_tokens": 5}, "a usage of 0 prompt tokens"),
        ({"prompt_tokens": 20, "completion_tokens": 0, "total_tokens": 20}, "0 reply tokens for 10 characters"),
        ({"prompt_tokens": 20, "completion_tokens": 31, "total_tokens": 51}, "31 reply tokens, where at most 30"),
        ({"prompt_tokens": 20, "completion_tokens": -5, "total_tokens": 15}, "-5 reply tokens"),
        ({"prompt_tokens": 57, "completion_tokens": 5, "total_tokens": 62}, "57 prompt tokens, where .* more than 56"),
    ],
)
def test_a_usage_that_cannot_be_true_is_refused_and_its_answer_neither_lost_nor_asked_for_again(
    usage: dict[str, Any] | None, told: str, server: Server, tmp_path: Path
) -> None:
    server.usage = usage
    for _ in range(2):
        with pytest.raises(ModelError, match=told):
            ask(replier(server, tmp_path / "calls.jsonl"), ROWS[:1])
    assert len(server.bodies) == 1


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_cap_of_money_is_never_passed_and_a_raised_one_goes_on(
    concurrency: int, server: Server, tmp_path: Path
) -> None:
    most = ((7 + 17 + 32) * 1.0 + 30 * 4.0) / 1e6
    cap = 2 * 40 / 1e6 + most
    path = tmp_path / "calls.jsonl"
    with pytest.raises(
        GateClosed,
        match=r"spent, requests on their way may cost .* next one 0\.0002; .* max_money is .*raise max_money",
    ):
        ask(replier(server, path, max_money=cap, concurrency=concurrency), ROWS)
    first = len(server.bodies)
    assert 1 <= first <= 3 and StoredCalls(path, KEY).spent <= cap
    assert ask(replier(server, path, max_money=1.0), ROWS) == TEXTS
    assert len(server.bodies) == 4, "nothing was asked twice"


def test_a_lost_answer_counts_against_the_cap(server: Server, tmp_path: Path) -> None:
    most = ((7 + 17 + 32) * 1.0 + 30 * 4.0) / 1e6
    server.script = dict.fromkeys(range(9), ends_early(server))
    with pytest.raises(GateClosed, match="max_money"):
        ask(replier(server, tmp_path / "calls.jsonl", max_money=2.5 * most), ROWS[:1])
    assert len(server.bodies) == 2


def test_a_killed_writers_half_line_is_dropped_and_a_damaged_line_is_named(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    ask(replier(server, path))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert ask(replier(server, path)) == TEXTS
    assert len(server.bodies) == 5
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(StoreError, match=r"line 1 is not an answer .* delete it: all answers are then .* paid, again"):
        StoredCalls(path, KEY)


def test_an_erasure_drops_the_answers_and_keeps_what_was_spent(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "far.jsonl"
    ask(replier(server, path))
    spent = StoredCalls(path, KEY).spent
    drop_answers(tmp_path)
    left = StoredCalls(path, KEY)
    assert (left.answers, left.spent) == ({}, pytest.approx(spent))
    assert path.read_bytes().count(b"\n") == 1 + len(ROWS), "the sum, and which rows were sent"
    assert left.rows == {(row.origin_id, server.url) for row in ROWS}
    assert sent_rows(tmp_path, [ROWS[0].origin_id, ROWS[3].origin_id, "another"]) == {server.url: 2}


def test_a_key_is_wanted_only_where_something_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(replier(server, tmp_path / "calls.jsonl"))
    monkeypatch.delenv("FAR_KEY")
    assert ask(replier(server, tmp_path / "calls.jsonl")) == TEXTS
    with pytest.raises(ConfigError, match="the environment variable FAR_KEY is empty; expected the key of http"):
        ask(replier(server, tmp_path / "other.jsonl"))


def test_it_stands_where_the_base_stands_in_the_prompt_arm(server: Server, tmp_path: Path) -> None:
    arm = PromptArm(
        "far", replier(server, tmp_path / "calls.jsonl"), EXACT, {"a": "Answer.", "b": "Reply."}, "endpoint"
    )
    fitted = arm.fit([], ROWS, seed=0)
    assert (fitted.kind, fitted.name, len(fitted.chosen_from)) == ("endpoint", "far", 2)
    assert [reply.text for reply in fitted.reply(ROWS)] == TEXTS
    restored = arm.restore([], fitted.describe())
    assert restored.fingerprint == fitted.fingerprint
    assert len(server.bodies) == 8, "two wordings on four rows, and nothing again"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"kind": "endpoint"}, r"needs a table \[arm.endpoint\] with url and model; add it"),
        ({"kind": "small", "endpoint": {}}, "asks no endpoint; drop it"),
        ({"kind": "endpoint", "instruction": "full", "endpoint": {}}, "carries every wording"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], told: str, server: Server) -> None:
    if "endpoint" in values:
        values = {**values, "endpoint": config(server)}
    with pytest.raises(ConfigError, match=told):
        ArmConfig(**values)
    with pytest.raises(ConfigError, match="begins with https://"):
        EndpointConfig(url="ftp://x", model="m", key="K", max_money=1, token_in=1, token_out=1)


OTHER: dict[str, Any] = {
    "url": "/v2",
    "model": "farther",
    "key": "OTHER_KEY",
    "max_money": 0.0,
    "token_in": 2.0,
    "token_out": 8.0,
    "date": "2026-11-23",
    "source": "their page",
    "temperature": 0.7,
    "timeout_s": 0.05,
    "concurrency": 3,
}
WHAT_IS_ASKED = ("url", "model", "temperature")


def seen(server: Server, path: Path, settings: EndpointConfig) -> list[object]:
    """What the server and the books show of four rows."""
    one = EndpointReplier(settings, StoredCalls(path, KEY), max_reply_tokens=30)
    try:
        found: object = ask(one)
    except (ModelError, GateClosed) as err:
        found = type(err)
    bodies = sorted(json.dumps(body) for body in server.bodies)
    arm = ArmConfig(kind="endpoint", endpoint=settings)
    keys = {headers["authorization"] for headers in server.headers}
    return [
        found,
        bodies,
        set(server.paths),
        keys,
        one.calls.spent,
        server.most_at_once,
        price_entries(PriceConfig(), [arm]),
    ]


@pytest.mark.parametrize("name", OTHER)
def test_another_value_asks_pays_or_waits_otherwise(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(OTHER) == {field.name for field in fields(EndpointConfig)}
    monkeypatch.setenv("OTHER_KEY", "another")
    found, questions = [], []
    for number, changes in enumerate(({}, {}, {name: OTHER[name]})):
        server = Server()
        server.delay_s = 0.1
        settings = config(server)
        values = {**changes, "url": server.url.replace("/v1", OTHER["url"])} if "url" in changes else changes
        settings = replace(settings, **values)
        found.append(seen(server, tmp_path / f"{number}.jsonl", settings))
        path = settings.url.rpartition("/")[2]  # every server has another port
        asked = ArmConfig(kind="endpoint", endpoint=replace(settings, url=f"http://here/{path}"))
        questions.append(asked.as_question())
        server.close()
    assert found[0] == found[1] != found[2]
    assert (questions[0] != questions[2]) == (name in WHAT_IS_ASKED), "only what changes a reply changes the question"
