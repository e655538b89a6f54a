"""A data set of the Hugging Face hub, served on loopback: the endpoints that `datasets` asks.

What is asked of a real hub was read off the requests of datasets 4 and 5 (huggingface_hub 1 and 2):
the repository's information, the tree of a folder, information on paths, and files by commit.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(repository: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """The URL for HF_ENDPOINT, behind which `repository` (OWNER/NAME) has one commit of `files`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            tree = f"/api/datasets/{repository}/tree/{COMMIT}"
            if path.startswith(tree):
                self.folder(path.removeprefix(tree).strip("/"))
            elif path == f"/api/datasets/{repository}" or "/revision/" in path:
                self.say(_information(repository, files))
            elif path.startswith(f"/datasets/{repository}/resolve/"):
                self.file(path.split("/", 6)[6])
            else:
                self.refuse()

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if "/paths-info/" in self.path:
                self.say([_entry(name, files) for name in asked["paths"] if name in files])
            else:
                self.refuse()

        def folder(self, name: str) -> None:
            entries = _children(name, files)
            if entries:
                self.say(entries)
            else:
                self.refuse("EntryNotFound")

        def file(self, name: str) -> None:
            if name in files:
                self.say(files[name])
            else:
                self.refuse("EntryNotFound")

        def say(self, body: Any) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            # The client keeps contents by this name.
            tag = {"ETag": f'"{_digest(content)}"'}
            self.head(200, len(content), "application/json", tag)
            if self.command != "HEAD":
                self.wfile.write(content)

        def refuse(self, code: str = "RepoNotFound") -> None:
            self.head(404, 0, "text/plain", {"X-Error-Code": code})

        def head(
            self, status: int, length: int, kind: str, more: Mapping[str, str] | None = None
        ) -> None:
            self.send_response(status)
            headers = {"Content-Length": str(length), "Content-Type": kind, "X-Repo-Commit": COMMIT}
            for name, value in {**headers, **(more or {})}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def _information(repository: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    siblings = [{"rfilename": name} for name in files]
    return {"id": repository, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}


def _children(folder: str, files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """What lies in a folder itself: files, and folders by name."""
    start = f"{folder}/" if folder else ""
    inside = [name.removeprefix(start) for name in files if name.startswith(start)]
    folders = dict.fromkeys(name.partition("/")[0] for name in inside if "/" in name)
    found = [
        {"type": "directory", "path": start + one, "oid": COMMIT, "size": 0} for one in folders
    ]
    return found + [_entry(start + name, files) for name in inside if "/" not in name]


def _entry(name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    content = files[name]
    return {"type": "file", "path": name, "oid": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    """As git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
