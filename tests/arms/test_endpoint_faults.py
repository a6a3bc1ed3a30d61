"""What an endpoint may do to a run: be slow without end, refuse rows, quote them, fill the disk, be left in the middle."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from metier.arms import PromptArm
from metier.arms.replier import with_instruction
from metier.core.errors import ConfigError, ModelError, StoreError
from metier.core.rows import Message, Meta, Role, Row, ToolCall, make_row
from metier.core.trials import SkipReason
from metier.road.calls import StoredCalls
from tests.arms.builders import EXACT, row
from tests.arms.endpoint_asking import KEY, ROWS, TEXTS, ask, replier, status
from tests.arms.endpoint_server import Server, chunk, start_stream

MOST = ((7 + 17 + 32) * 1.0 + 30 * 4.0) / 1e6
"""Of one request: "Answer." and "Where is order 0?" in bytes, 16 tokens around each, 30 reply tokens."""
COST = 40 / 1e6
MANY = [row(f"Where is order {n}?", f"At dock {n}.", number=n) for n in range(20)]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "secret-7")


def trickles(server: Server, *, headers: bool) -> Callable[[BaseHTTPRequestHandler], bool]:
    """A byte now and then for a minute, so that no single wait is long."""

    def drip(to: BaseHTTPRequestHandler) -> bool:
        if not headers:
            start_stream(to)
        else:
            to.wfile.write(b"HTTP/1.1 200 OK\r\n")
        until = time.monotonic() + 60
        while not server.released.wait(0.05) and time.monotonic() < until:
            if headers:
                to.wfile.write(b"X-Wait: 1\r\n")
                to.wfile.flush()
            else:
                chunk(to, b": wait\n\n")
        return True

    return drip


@pytest.mark.parametrize("headers", [False, True], ids=["body", "headers"])
def test_an_answer_that_trickles_without_end_is_lost_after_timeout_s_and_may_be_billed(
    headers: bool, server: Server, tmp_path: Path
) -> None:
    server.script[0] = trickles(server, headers=headers)
    one, started = replier(server, tmp_path / "calls.jsonl", timeout_s=0.5), time.monotonic()
    assert ask(one, ROWS[:1]) == TEXTS[:1]
    assert time.monotonic() - started < 30, "half a second, a pause of one second, an answer, on a busy machine"
    assert one.calls.spent == pytest.approx(COST + MOST)


@pytest.mark.parametrize(("code", "billed"), [(408, True), (504, True), (524, True), (502, False), (409, False)])
def test_a_time_out_of_somebody_on_the_way_is_counted_as_billed_and_another_failure_is_not(
    code: int, billed: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metier.arms.endpoint.PAUSES_S", (0.0,) * 4)
    server.script[0] = status(code)
    one = replier(server, tmp_path / "calls.jsonl")
    assert ask(one, ROWS[:1]) == TEXTS[:1]
    assert one.calls.spent == pytest.approx(COST + billed * MOST)


@pytest.mark.parametrize("code", [400, 413, 422])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_row_that_is_refused_gets_an_empty_reply_is_told_and_not_asked_again(
    code: int, concurrency: int, server: Server, tmp_path: Path
) -> None:
    server.refuse = lambda body: (
        status(code, said="too long") if body["messages"][-1]["content"].endswith("2?") else None
    )
    path, told = tmp_path / "calls.jsonl", list[str]()
    talks = [with_instruction(each, "Answer.") for each in ROWS]
    for _ in range(2):
        one = replier(server, path, concurrency=concurrency)
        one.tell = told.append
        replies = one.reply(ROWS, talks)
        assert [reply.text for reply in replies] == [*TEXTS[:2], "", TEXTS[3]]
        assert [reply.finish for reply in replies] == ["stop", "stop", "refused", "stop"]
        assert [reply.finish for reply in one.reply_each(ROWS, talks)] == [reply.finish for reply in replies]
    assert len(server.bodies) == 4 and one.calls.spent == pytest.approx(3 * COST)
    assert told == [
        f"far: 1 of 4 requests so far without a whole reply, the last one: {code}, too long. They count as what came, "
        "mostly nothing."
    ] * 2  # fmt: skip


def test_an_answer_that_a_filter_broke_off_counts_as_what_came_and_is_told(server: Server, tmp_path: Path) -> None:
    server.finish, told = "content_filter", list[str]()
    one = replier(server, tmp_path / "calls.jsonl")
    one.tell = told.append
    (reply,) = one.reply(ROWS[:1], [with_instruction(ROWS[0], "Answer.")])
    assert (reply.text, reply.finish, reply.tokens_out) == ("At dock 0.", "refused", 5)
    assert told[0].startswith("far: 1 of 1 request so far without a whole reply, the last one: a filter broke it off")


def test_where_most_of_the_first_rows_are_refused_the_run_stops_and_a_mended_setting_asks_them(
    server: Server, tmp_path: Path
) -> None:
    server.refuse = lambda body: status(400, said="max_tokens is not supported")
    one = replier(server, tmp_path / "calls.jsonl")
    with pytest.raises(
        ModelError, match=r"8 of 8 requests refused, the last one with: 400, max_tokens is not supp"
    ) as err:
        ask(one, MANY)
    assert "correct [arm.endpoint] and run again, or drop the arm" in str(err.value)
    assert len(server.bodies) == 8 and one.calls.spent == one.calls.pending == 0
    with pytest.raises(ModelError, match=r"2 of 2 requests refused"):
        ask(replier(server, tmp_path / "calls.jsonl"), MANY[:2])
    server.refuse = lambda body: None
    assert ask(replier(server, tmp_path / "calls.jsonl"), MANY) == [row.gold for row in MANY]


def test_where_rows_are_refused_one_after_the_other_the_run_stops_however_many_were_answered(
    server: Server, tmp_path: Path
) -> None:
    server.refuse = lambda body: status(400, said="quota") if len(server.bodies) > 10 else None
    with pytest.raises(ModelError, match=r"8 of 18 requests refused, the last one with: 400, quota"):
        ask(replier(server, tmp_path / "calls.jsonl"), MANY)


def with_tool() -> Row:
    call = ToolCall(id="1", name="find", arguments={})
    talk = (
        Message(role=Role.USER, content="Where is it?"),
        Message(role=Role.ASSISTANT, tool_calls=(call,)),
        Message(role=Role.TOOL, content="dock 2", tool_call_id="1"),
        Message(role=Role.ASSISTANT, content="At dock 2."),
    )
    return make_row(KEY, messages=talk, meta=Meta(source="t", source_row=99), tools=({"name": "find"},))


def test_rows_with_tools_are_a_reason_to_skip_the_arm_and_in_the_hold_out_a_reply_that_is_refused(
    server: Server, tmp_path: Path
) -> None:
    one = replier(server, tmp_path / "calls.jsonl")
    arm, tool = PromptArm("far", one, EXACT, {"a": "Answer."}, "endpoint"), with_tool()
    assert arm.needs(ROWS, ROWS) is None
    assert arm.needs(ROWS, [*ROWS, tool]) is arm.needs([tool], ROWS) is SkipReason.ROWS_USE_TOOLS
    told: list[str] = []
    one.tell = told.append
    assert ask(one, [*ROWS, tool]) == [*TEXTS, ""]
    assert len(server.bodies) == 4 and "it uses tools, which are not passed on" in told[0]


def test_after_a_failure_nothing_more_is_sent_and_what_is_on_its_way_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metier.arms.endpoint.GRACE_S", 30.0)

    def late(to: BaseHTTPRequestHandler) -> bool:
        server.released.wait(1.0)
        return False

    server.script = {0: late, 1: status(503, Retry_After="60"), 2: status(401)}
    one, started = replier(server, tmp_path / "calls.jsonl", concurrency=3, timeout_s=30.0), time.monotonic()
    with pytest.raises(ModelError, match="is not accepted"):
        ask(one, MANY)
    assert 0.9 < time.monotonic() - started < 40, "the answer on its way, not the pause of a minute"
    assert len(server.bodies) == 3
    kept = StoredCalls(tmp_path / "calls.jsonl", KEY)
    assert len(kept.answers) == 1 and kept.spent == pytest.approx(COST) and not kept.on_way


def interrupt_when(server: Server, num: int) -> None:
    """Ctrl-C when so many requests have come."""
    while len(server.bodies) < num:
        time.sleep(0.01)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_an_interrupt_ends_within_seconds_and_what_was_cut_off_is_booked_at_its_most(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metier.arms.endpoint.GRACE_S", 0.3)
    server.script = {n: lambda _: bool(server.released.wait(60)) for n in range(1, 20)}
    one, before = replier(server, tmp_path / "calls.jsonl", concurrency=3, timeout_s=60.0), set(threading.enumerate())
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt_when, args=(server, 4), daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            ask(one, MANY)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not server.released.is_set() and server.now == 3, "nobody waited for the answers"
    assert len(server.bodies) == 4, "one answered, three on their way"
    assert one.calls.spent == pytest.approx(COST + 3 * MOST) and one.calls.pending == 0
    assert "endpoint" not in {thread.name for thread in set(threading.enumerate()) - before}


@pytest.mark.parametrize(
    "said",
    [
        "Cannot answer 'Where is order 2?' in full",
        "WHERE  IS\nORDER 2? is longer than the context",
        'bad value {"content":"Where is order 2?"}',
        "Incorrect key provided: secret-7",
        "Incorrect key provided: secr****t-7. Get another",
        "key=sec/cret-7/",
    ],
)
@pytest.mark.parametrize("code", [400, 401, 500])
def test_no_error_repeats_a_word_of_the_row_or_a_part_of_the_key(
    said: str, code: int, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metier.arms.endpoint.PAUSES_S", (0.0,) * 4)
    server.script = dict.fromkeys(range(9), status(code, said=said))
    with pytest.raises(ModelError) as failed:
        ask(replier(server, tmp_path / "calls.jsonl"), ROWS[2:3])
    told = str(failed.value).replace(ROWS[2].row_id, "")
    assert str(code) in told and failed.value.__cause__ is None
    assert not re.search(r"order|where|secr|cret|t-7|content\W", told.partition("answered")[0], re.IGNORECASE), told


@pytest.mark.parametrize("bad", ["secret-7\n", "secret 7", "secr\u00e9t"])
def test_a_key_that_cannot_be_sent_is_told_without_it(
    bad: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", bad)
    with pytest.raises(ConfigError, match="FAR_KEY holds a blank, a line break or a letter outside ASCII") as failed:
        ask(replier(server, tmp_path / "calls.jsonl"), ROWS[:1])
    assert "secr" not in str(failed.value) and not server.bodies


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, mounted; needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_fills_up_on_the_way_keeps_what_is_paid_for_and_nothing_is_asked_twice(
    small_disk: Path, server: Server
) -> None:
    path, filler = small_disk / "calls" / "far.jsonl", small_disk / "filler"
    long = [row(f"Where is order {str(n) * 3000}?", "At dock", number=n) for n in range(4)]  # answers of some blocks

    def fill(_: BaseHTTPRequestHandler) -> bool:
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))
        return False

    server.script[2] = fill  # the third answer comes, and the disk is full
    with pytest.raises(StoreError, match="no space left on the disk; nothing half-written .* Free some space and run"):
        ask(replier(server, path), long)
    asked = len(server.bodies)
    assert asked == 3, "what was paid for took the room that was kept for it, and nothing more was sent"
    filler.unlink()
    one = replier(server, path)
    assert len(one.calls.answers) == asked and one.calls.spent == pytest.approx(asked * COST)
    assert len(ask(one, long)) == len(server.bodies) == 4, "nothing was asked twice"


def test_an_answer_that_not_even_the_kept_room_can_hold_is_booked_at_its_most(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "far.jsonl", os.fsync
    one = replier(server, path)
    with monkeypatch.context() as patch:

        def full(file: int) -> None:
            if path.exists() and b'"for": 2' in path.read_bytes():
                raise OSError(errno.ENOSPC, "No space left on device")
            real(file)

        patch.setattr(os, "fsync", full)
        with pytest.raises(
            StoreError, match=r"for the end of a request that was sent. It is booked at the most it can"
        ):
            ask(one, ROWS[:2])
    again = StoredCalls(path, KEY)
    assert (len(again.answers), again.spent, again.pending) == (1, pytest.approx(COST), pytest.approx(MOST))
    assert again.book_killed() == (
        "1 request was on the way when a run was killed and may be billed: booked at most, 0.0002"
    )
    assert again.book_killed() == "" and again.spent == pytest.approx(COST + MOST)
    assert StoredCalls(path, KEY).spent == pytest.approx(COST + MOST), "booked once"
    assert ask(replier(server, path), ROWS[:2]) == TEXTS[:2] and len(server.bodies) == 3


def test_a_request_is_written_down_before_it_goes_out(server: Server, tmp_path: Path) -> None:
    path, seen = tmp_path / "far.jsonl", list[float]()

    def look(_: BaseHTTPRequestHandler) -> bool:
        seen.append(StoredCalls(path, KEY).pending)
        return False

    server.script = dict.fromkeys(range(4), look)
    ask(replier(server, path), ROWS[:2])
    assert seen == [pytest.approx(MOST)] * 2


def test_a_second_row_with_a_prompt_that_was_sent_is_noted(server: Server, tmp_path: Path) -> None:
    twin = row("Where is order 0?", "At dock 0.", number=7)
    one = replier(server, tmp_path / "far.jsonl")
    ask(one, [ROWS[0], twin])
    assert len(server.bodies) == 1
    assert StoredCalls(tmp_path / "far.jsonl", KEY).rows == {(each.origin_id, server.url) for each in (ROWS[0], twin)}
