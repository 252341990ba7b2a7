"""Downloads from a server on this machine that breaks off, lies and refuses: a file comes whole or not at all."""

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from novelview.downloads import transfer
from novelview.downloads.fetch import fetch
from novelview.downloads.registry import Entry, read_registry
from novelview.errors import ConfigError, DataError
from novelview.stages.fetch import main

CONTENT = bytes(range(256)) * 800  # about 200 kB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does: `script` holds one instruction a request, then it serves the file as it should.

    Instructions: an int N breaks off after N bytes; a pair (status, headers) refuses; "whole" ignores ranges;
    "unsized" announces no length.
    """

    content: bytes = CONTENT
    etag: str | None = '"v1"'
    script: list = field(default_factory=list)
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(monkeypatch):
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.asked.append((self.headers["Range"], self.headers["If-Range"]))
            order = state.script.pop(0) if state.script else None
            if isinstance(order, tuple):
                return self.answer(order[0], b"", order[1])
            start = self.start() if order != "whole" else 0
            if start is not None and start >= len(state.content):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(state.content)}"})
            ranged = {"Content-Range": f"bytes {start}-{len(state.content) - 1}/{len(state.content)}"} if start else {}
            version = {"ETag": state.etag} if state.etag else {}
            self.answer(206 if start else 200, state.content[start or 0 :], {**ranged, **version}, order)

        def start(self) -> int | None:
            asked, version = self.headers["Range"], self.headers["If-Range"]
            if not asked or (version and version != state.etag):
                return 0
            return int(asked.removeprefix("bytes=").removesuffix("-"))

        def answer(self, status: int, body: bytes, headers: dict[str, str], order=None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if order != "unsized":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:order] if isinstance(order, int) else body)
            self.close_connection = True

        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}/weights.pth"
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(transfer.time, "sleep", lambda seconds: waits.append(seconds))
        waits.clear()
        yield state
        running.shutdown()


waits: list[float] = []


def get(server: Server, path: Path, digest: str | None = DIGEST, size: int | None = None) -> bytes:
    transfer.download(server.url, path, digest, size)
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    return path.read_bytes()


def refused(server: Server, path: Path, digest: str | None = DIGEST, size: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        transfer.download(server.url, path, digest, size)
    assert not path.exists() and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("digest", [DIGEST, DIGEST[:8], DIGEST.upper(), None])
def test_a_file_arrives_whole(server, tmp_path, digest):
    assert get(server, tmp_path / "deep" / "weights.pth", digest) == CONTENT
    assert server.asked == [(None, None)]


def test_a_broken_connection_is_continued_where_it_broke(server, tmp_path):
    server.script = [70_000, 50_000]
    assert get(server, tmp_path / "weights.pth") == CONTENT
    assert server.asked == [(None, None), ("bytes=70000-", '"v1"'), ("bytes=120000-", '"v1"')]
    assert waits == [1, 2]


def test_a_later_call_continues_what_an_earlier_one_left(server, tmp_path):
    server.script = [60_000] + [(503, {})] * (transfer.ATTEMPTS - 1)
    line = refused(server, tmp_path / "weights.pth")
    assert "503" in line and "run again to continue" in line
    assert (tmp_path / "weights.pth.part").stat().st_size == 60_000
    assert get(server, tmp_path / "weights.pth") == CONTENT
    assert server.asked[-1] == ("bytes=60000-", '"v1"')


def test_attempts_are_bounded(server, tmp_path):
    server.script = [0] * 100
    assert f"connection lost at 0 of {len(CONTENT)} bytes after {transfer.ATTEMPTS} attempts" in refused(
        server, tmp_path / "weights.pth"
    )
    assert len(server.asked) == transfer.ATTEMPTS


def test_a_new_version_starts_over(server, tmp_path):
    server.script = [60_000] + [(503, {})] * (transfer.ATTEMPTS - 1)
    refused(server, tmp_path / "weights.pth", None)
    server.content, server.etag = CONTENT[::-1], '"v2"'
    assert get(server, tmp_path / "weights.pth", None) == CONTENT[::-1]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.script = [60_000, "whole"]
    assert get(server, tmp_path / "weights.pth") == CONTENT


def test_without_version_and_checksum_nothing_is_continued(server, tmp_path):
    server.etag = None
    (tmp_path / "weights.pth.part").write_bytes(b"?" * 1000)
    assert get(server, tmp_path / "weights.pth", None) == CONTENT
    assert server.asked == [(None, None)]


def test_a_whole_partial_file_needs_no_byte_more(server, tmp_path):
    (tmp_path / "weights.pth.part").write_bytes(CONTENT)
    assert get(server, tmp_path / "weights.pth") == CONTENT
    assert server.asked == [(f"bytes={len(CONTENT)}-", None)]


def test_a_partial_file_longer_than_the_file_starts_over(server, tmp_path):
    (tmp_path / "weights.pth.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path / "weights.pth") == CONTENT


def test_wrong_bytes_are_deleted_and_named(server, tmp_path):
    server.content = b"<html>sign in</html>"
    line = refused(server, tmp_path / "weights.pth")
    assert f"instead of {DIGEST}" in line and not list(tmp_path.iterdir())


def test_a_wrong_size_is_deleted_and_named(server, tmp_path):
    assert f"{len(CONTENT)} bytes instead of 5" in refused(server, tmp_path / "weights.pth", None, 5)
    assert not list(tmp_path.iterdir())


def test_a_length_the_server_does_not_announce_is_checked_against_the_registry(server, tmp_path):
    server.script = ["unsized"]
    assert get(server, tmp_path / "weights.pth", None, len(CONTENT)) == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_tried_again(server, tmp_path, status):
    server.script = [(status, {})]
    assert f"the server says {status}" in refused(server, tmp_path / "weights.pth")
    assert len(server.asked) == 1 and not waits and not list(tmp_path.iterdir())


def test_a_busy_server_is_tried_again_after_the_time_it_asks_for(server, tmp_path):
    server.script = [(429, {"Retry-After": "7"}), (503, {}), (429, {"Retry-After": "9999"})]
    assert get(server, tmp_path / "weights.pth") == CONTENT
    assert waits == [7, 2, transfer.LONGEST_WAIT]


def test_a_server_that_is_not_there(tmp_path, server, monkeypatch):
    server.url = "http://127.0.0.1:1/weights.pth"
    assert "connection lost" in refused(server, tmp_path / "weights.pth")


def test_a_full_disk_is_told_before_the_first_byte(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: type("Usage", (), {"free": transfer.SPARE + 10}))
    assert "make room or choose another folder" in refused(server, tmp_path / "weights.pth")


def test_two_fetches_of_one_file_do_not_mix(server, tmp_path):
    with transfer._locked(tmp_path / "weights.pth.part"):
        assert "another process is fetching" in refused(server, tmp_path / "weights.pth")
    assert get(server, tmp_path / "weights.pth") == CONTENT


# --- registry and command


def entry(server: Server, **changes) -> dict[str, Entry]:
    facts = {"purpose": "a test", "path": "sub/weights.pth", "licence": "CC0-1.0", "citation": "nobody 2026"}
    return {"it": Entry(**{"name": "it", **facts, "url": server.url, "sha256": DIGEST, **changes})}


def test_licence_and_citation_come_first(server, tmp_path, caplog):
    caplog.set_level("INFO")
    assert fetch("it", tmp_path, entry(server)).read_bytes() == CONTENT
    assert caplog.messages[:4] == [
        "it: a test",
        f"  from {server.url} (size unknown)",
        "  licence: CC0-1.0",
        "  please cite: nobody 2026",
    ]


def test_a_right_file_is_kept_and_a_wrong_one_replaced(server, tmp_path):
    path = fetch("it", tmp_path, entry(server))
    fetch("it", tmp_path, entry(server))
    assert len(server.asked) == 1
    path.write_bytes(b"damaged")
    assert fetch("it", tmp_path, entry(server)).read_bytes() == CONTENT


def test_the_shipped_registry_is_sound():
    registry = read_registry()
    assert {"vgg16", "vgg19", "dinov2_vitb14_reg", "overlap_small", "evaluation_index_re10k"} <= registry.keys()
    assert len({item.path for item in registry.values()}) == len(registry)
    for item in registry.values():
        assert (item.url or "https://").startswith("https://") and item.licence and item.citation
        assert item.sha256 is None or set(item.sha256) <= set("0123456789abcdef")
        assert not Path(item.path).is_absolute() and ".." not in Path(item.path).parts


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a: {purpose: x, path: p, licence: l, citation: c}", "a: needs a url, or a repo and a file"),
        ("a: {url: u, path: p, licence: l, citation: c}", "a: key 'purpose' is missing"),
        ("a: {url: u, sha1: 0}", "a: unknown key 'sha1'"),
        ("- a", "a registry is a table of names"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_registry_is_a_one_line_error(tmp_path, text, wrong):
    (tmp_path / "registry.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"registry\.yaml") as caught:
        read_registry(tmp_path / "registry.yaml")
    assert wrong in str(caught.value)


def test_the_command_names_what_there_is(capsys, tmp_path):
    assert main(["--list"]) == 0
    assert "vgg16: backbone of LPIPS" in capsys.readouterr().out
    assert main(["nothing", "--folder", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert (
        line.startswith("error: 'nothing' is not in conf/registry.yaml; choose among vgg16") and line.count("\n") == 1
    )


# --- the hub


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers for one file of one repository; returns its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            self.answer(CONTENT)

        def answer(self, body: bytes) -> None:
            known = self.path == "/someone/thing/resolve/main/weights.pt"
            self.send_response(200 if known else 404)
            if known:
                self.send_header("ETag", f'"{DIGEST}"')
                self.send_header("X-Repo-Commit", "a" * 40)
                self.send_header("Content-Length", str(len(CONTENT)))
            else:
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
            self.end_headers()
            if known:
                self.wfile.write(body)

        def log_message(self, *_) -> None:
            pass

    from huggingface_hub import constants

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        address = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield address
        running.shutdown()


def from_hub(file: str = "weights.pt", **changes) -> dict[str, Entry]:
    facts = {"purpose": "a test", "path": "sub/weights.pt", "licence": "CC0-1.0", "citation": "nobody 2026"}
    return {"it": Entry(**{"name": "it", **facts, "repo": "someone/thing", "file": file, "sha256": DIGEST, **changes})}


def test_a_file_of_the_hub(hub, tmp_path):
    assert fetch("it", tmp_path, from_hub()).read_bytes() == CONTENT


def test_a_file_the_hub_does_not_have_is_a_one_line_error(hub, tmp_path):
    with pytest.raises(DataError, match=r"gone\.pt at main: not fetched") as caught:
        fetch("it", tmp_path, from_hub("gone.pt"))
    assert "\n" not in str(caught.value) and not (tmp_path / "sub/weights.pt").exists()


def test_a_wrong_file_of_the_hub_is_deleted(hub, tmp_path):
    with pytest.raises(DataError, match="SHA-256"):
        fetch("it", tmp_path, from_hub(sha256="0" * 64))
    assert not [path for path in tmp_path.rglob("weights.pt") if path.is_file()]


def test_offline_means_no_request(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="not fetched: HF_HUB_OFFLINE is set"):
        fetch("it", tmp_path, from_hub())
