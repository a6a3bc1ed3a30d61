"""A real HTTP server that speaks the streaming part of the chat interface, and does what goes wrong when it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """Speaks the streaming part of the chat interface; `script` says what goes wrong with the n-th request."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.script: dict[int, Callable[[BaseHTTPRequestHandler], bool]] = {}
        self.refuse: Callable[[dict[str, Any]], Callable[[BaseHTTPRequestHandler], bool] | None] = lambda _: None
        """What goes wrong with a request by what it asks."""
        self.finish = "stop"
        self.usage: dict[str, Any] | None = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
        self.paths: list[str] = []
        self.delay_s, self.now, self.most_at_once = 0.0, 0, 0
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """No more requests; those that wait are let go."""
        self.released.set()
        self.http.shutdown()
        self.http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, to: BaseHTTPRequestHandler, body: dict[str, Any], *, whole: bool = True) -> None:
        number = body["messages"][-1]["content"].split()[-1].rstrip("?")
        start_stream(to)
        for text in ("At dock ", f"{number}."):
            send(to, {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
        if whole:
            send(to, {"choices": [{"index": 0, "delta": {}, "finish_reason": self.finish}]})
            if self.usage is not None:
                send(to, {"choices": [], "usage": self.usage})
            chunk(to, b"data: [DONE]\n\n")
            chunk(to, b"")


def handler_of(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                number = len(server.bodies)
                server.bodies.append(body)
                server.paths.append(self.path)
                server.now += 1
                server.most_at_once = max(server.most_at_once, server.now)
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
            try:
                server.released.wait(server.delay_s)
                broken = server.script.get(number) or server.refuse(body)
                if broken is None or not broken(self):
                    server.answer(self, body)
            except OSError:  # whoever asked has gone
                self.close_connection = True
            finally:
                server.now -= 1

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    return Handler


def start_stream(to: BaseHTTPRequestHandler) -> None:
    to.send_response(200)
    to.send_header("Content-Type", "text/event-stream")
    to.send_header("Transfer-Encoding", "chunked")
    to.end_headers()


def chunk(to: BaseHTTPRequestHandler, data: bytes) -> None:
    to.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    to.wfile.flush()


def send(to: BaseHTTPRequestHandler, part: dict[str, Any]) -> None:
    common = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "far"}
    chunk(to, b"data: " + json.dumps({**common, **part}).encode() + b"\n\n")
