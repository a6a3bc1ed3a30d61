"""Four rows, an endpoint that is asked about them, and what a server says instead of an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from metier.arms import EndpointReplier
from metier.arms.replier import with_instruction
from metier.core.arm_config import EndpointConfig
from metier.core.rows import Row
from metier.road.calls import StoredCalls
from tests.arms.builders import row
from tests.arms.endpoint_server import Server

KEY = bytes(range(32))
ROWS = [row(f"Where is order {n}?", f"At dock {n}.", number=n) for n in range(4)]
TEXTS = [f"At dock {n}." for n in range(4)]


def status(code: int, *, said: str = "", **headers: str) -> Callable[[BaseHTTPRequestHandler], bool]:
    """A status instead of an answer, with the server's words."""

    def reply(to: BaseHTTPRequestHandler) -> bool:
        told = {"message": said or f"no, {code}", "type": "x", "param": None, "code": None}
        data = json.dumps({"error": told}).encode()
        to.send_response(code)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            to.send_header(name.replace("_", "-"), value)
        to.end_headers()
        to.wfile.write(data)
        return True

    return reply


def config(server: Server, **settings: Any) -> EndpointConfig:
    values = {"max_money": 1.0, "token_in": 1.0, "token_out": 4.0, "timeout_s": 5.0, "concurrency": 1, **settings}
    return EndpointConfig(url=server.url, model="far", key="FAR_KEY", **values)


def replier(server: Server, path: Path, **settings: Any) -> EndpointReplier:
    return EndpointReplier(config(server, **settings), StoredCalls(path, KEY), max_reply_tokens=30)


def ask(one: EndpointReplier, rows: list[Row] = ROWS) -> list[str]:
    return [reply.text for reply in one.reply(rows, [with_instruction(each, "Answer.") for each in rows])]
