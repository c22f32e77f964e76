"""A real HTTP server in a thread that answers chat completions as a script says."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def completion(text: str) -> Reply:
    """A whole answer with this text."""
    body = {"id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": text}}]}
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


def refusal(status: int, message: str = "no", code: str = "", **headers: str) -> Reply:
    """An error as OpenAI's API words it."""
    body = {"error": {"message": message, "code": code}}
    return status, {key.replace("_", "-"): value for key, value in headers.items()}, json.dumps(body).encode()


class ChatServer:
    """Answers by a function of the number of the request; keeps what was asked.

    Attributes:
        requests: bodies in order, with `path` and `authorization` beside them.
    """

    def __init__(self, reply: Callable[[int, dict[str, Any]], Reply]) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []

    @property
    def prompts(self) -> list[str]:
        return [request["messages"][-1]["content"] for request in self.requests]

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Serve; gives the base URL."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body |= {"path": self.path, "authorization": self.headers.get("Authorization")}
                outer.requests.append(body)
                status, headers, data = outer.reply(len(outer.requests) - 1, body)
                with contextlib.suppress(OSError):  # the asker may have given up or be dead
                    self.send_response(status)
                    for key, value in headers.items():
                        self.send_header(key, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Be silent."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
