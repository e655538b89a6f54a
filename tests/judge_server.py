"""A judge on loopback that speaks OpenAI's chat completions and behaves as a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What goes over the wire.

    Attributes:
        length: the Content-Length that is announced.
        seconds: the wait before it.
        drip: the wait before every byte of the body.
    """

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    seconds: float = 0.0
    drip: float = 0.0


def say(text: str | None, seconds: float = 0.0, *, drip: float = 0.0, usage: bool = True) -> Answer:
    """A chat completion with this text; without `usage` it does not say what it cost."""
    message = {"role": "assistant", "content": text}
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "loopback-judge-1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    if usage:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return Answer(json.dumps(body).encode(), seconds=seconds, drip=drip)


def fail(status: int, code: str | None = None, **headers: str) -> Answer:
    """An error in OpenAI's shape; `retry_after="0.3"` becomes a header."""
    body = {"error": {"message": f"failed with {status}", "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(json.dumps(body).encode(), status, named)


def truncated() -> Answer:
    """A connection that closes in the middle of the body."""
    whole = say("[[5]]")
    return Answer(whole.body[:40], length=len(whole.body))


Script = Callable[[int, dict[str, Any]], Answer]


@dataclass
class Server:
    """Where it listens and what was asked, in order; names of headers in lower case."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0


def prompt(body: dict[str, Any]) -> str:
    """The user message of a request."""
    return str(body["messages"][-1]["content"])


@contextmanager
def serve(script: Script) -> Iterator[Server]:
    """A server that answers request number n (from 0) with `script(n, body)`."""
    lock, open_now = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.bodies)
                server.bodies.append(body)
                server.times.append(time.monotonic())
                server.headers.append({k.lower(): v for k, v in self.headers.items()})
                open_now[0] += 1
                server.most_at_once = max(server.most_at_once, open_now[0])
            answer = script(number, body) if self.path == "/v1/chat/completions" else fail(404)
            time.sleep(answer.seconds)
            with lock:
                open_now[0] -= 1
            self.reply(answer)

        def reply(self, answer: Answer) -> None:
            length = len(answer.body) if answer.length is None else answer.length
            try:
                self.send_response(answer.status)
                headers = {"Content-Type": "application/json", "Content-Length": str(length)}
                for name, value in {**headers, **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.write(answer)
            except OSError:
                self.close_connection = True  # the client gave up waiting
            self.close_connection |= answer.length is not None

        def write(self, answer: Answer) -> None:
            if not answer.drip:
                self.wfile.write(answer.body)
                return
            for byte in answer.body:
                time.sleep(answer.drip)
                self.wfile.write(bytes([byte]))

        def log_message(self, *_: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server = Server(f"http://127.0.0.1:{listener.server_port}/v1")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
