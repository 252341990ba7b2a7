"""An HTTP server on this machine that breaks off, lies and refuses as told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """What the server does: `script` holds one instruction a request, then it serves its files as it should.

    Instructions: an int N breaks off after N bytes; a pair (status, headers) refuses; ("stall", N) sends N bytes and
    then nothing more; "whole" ignores ranges; "unsized" announces no length; "short" announces and sends half the
    bytes; "long" announces more than it sends; bytes are served instead of the file."""

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"v1"'
    script: list[Any] = field(default_factory=list)
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    root: str = ""
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """Serves the files of `state`, with ranges."""

    protocol_version = "HTTP/1.1"
    state: FileServer

    def do_GET(self) -> None:
        state = self.state
        state.asked.append((self.headers["Range"], self.headers["If-Range"]))
        state.paths.append(self.path)
        order = state.script.pop(0) if state.script else None
        if isinstance(order, tuple) and order[0] == "stall":
            return self.stall(state.files[self.path], order[1])
        if isinstance(order, tuple):
            return self.answer(order[0], b"", order[1])
        content = order if isinstance(order, bytes) else state.files.get(self.path)
        if content is None:
            return self.answer(404, b"", {})
        start = self.start() if order != "whole" else 0
        if start >= len(content) > 0:
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        ranged = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        version = {"ETag": state.etag} if state.etag else {}
        self.answer(206 if start else 200, content[start:], {**ranged, **version}, order)

    def stall(self, content: bytes, sent: int) -> None:
        """Send the beginning of a file and then nothing, until the client has gone."""
        self.send_response(200)
        self.send_header("ETag", self.state.etag or "")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:sent])
        self.wfile.flush()
        self.connection.settimeout(60)
        self.connection.recv(1)
        self.close_connection = True

    def start(self) -> int:
        asked, version = self.headers["Range"], self.headers["If-Range"]
        if not asked or (version and version != self.state.etag):
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def answer(self, status: int, body: bytes, headers: dict[str, str], order: Any = None) -> None:
        body = body[: len(body) // 2] if order == "short" else body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if order != "unsized":
            self.send_header("Content-Length", str(len(body) * 2 if order == "long" else len(body)))
        self.end_headers()
        self.wfile.write(body[:order] if isinstance(order, int) else body)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running(files: dict[str, bytes]) -> Iterator[FileServer]:
    """Serve `files` (path with a leading slash -> content) until the block ends; `url` is the first one's address."""
    state = FileServer(dict(files))
    handler = type("Bound", (Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        state.root = f"http://127.0.0.1:{server.server_port}"
        state.url = state.root + next(iter(files), "/")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        server.shutdown()
