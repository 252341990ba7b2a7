"""Downloads from a server on this machine that breaks off, lies and refuses: a file comes whole or not at all."""

import hashlib
import io
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import file_server
import pytest
from file_server import FileServer

from novelview.config.compose import conf_dir
from novelview.downloads import transfer
from novelview.downloads.fetch import fetch
from novelview.downloads.registry import Entry, read_registry
from novelview.errors import ConfigError, DataError
from novelview.stages.fetch import main

CONTENT = bytes(range(256)) * 800  # about 200 kB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = "/weights.pth"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    waits.clear()
    monkeypatch.setattr(transfer, "time", SimpleNamespace(sleep=waits.append, time=time.time))
    with file_server.running({NAME: CONTENT}) as running:
        yield running


waits: list[float] = []


def get(server: FileServer, path: Path, digest: str | None = DIGEST, size: int | None = None) -> bytes:
    transfer.download(server.url, path, digest, size)
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    return path.read_bytes()


def refused(server: FileServer, path: Path, digest: str | None = DIGEST, size: int | None = None) -> str:
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
    server.files[NAME], server.etag = CONTENT[::-1], '"v2"'
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
    server.files[NAME] = b"<html>sign in</html>"
    line = refused(server, tmp_path / "weights.pth")
    assert f"instead of {DIGEST}" in line and not list(tmp_path.iterdir())


def test_a_wrong_size_is_refused_before_the_first_byte(server, tmp_path):
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
    with transfer.locked(tmp_path / "weights.pth.part"):
        assert "another process is fetching" in refused(server, tmp_path / "weights.pth")
    assert get(server, tmp_path / "weights.pth") == CONTENT


def test_a_date_to_wait_for_is_understood(server, tmp_path):
    server.script = [(503, {"Retry-After": formatdate(time.time() + 30, usegmt=True)})]
    assert get(server, tmp_path / "weights.pth") == CONTENT
    assert 25 < waits[0] <= 30


def test_a_length_cut_short_with_the_content_is_found(server, tmp_path):
    server.script = ["short"]
    assert f"instead of {DIGEST}" in refused(server, tmp_path / "weights.pth") and not list(tmp_path.iterdir())


def test_a_length_longer_than_the_content_is_asked_about_again(server, tmp_path):
    server.script = ["long"]
    assert get(server, tmp_path / "weights.pth", None) == CONTENT
    assert server.asked[1] == (f"bytes={len(CONTENT)}-", '"v1"')


def test_bytes_after_a_break_that_are_another_version_never_mix(server, tmp_path):
    server.script = [60_000, (206, {"Content-Range": "bytes 0-9/10"})]
    assert get(server, tmp_path / "weights.pth") == CONTENT


def test_a_proxy_is_used(server, tmp_path, monkeypatch):
    address = "http://weights.example.org/weights.pth"
    server.files = {address: CONTENT}  # a proxy is asked for the whole address
    monkeypatch.setenv("http_proxy", server.root)
    monkeypatch.setenv("no_proxy", "")
    transfer.download(address, tmp_path / "weights.pth", DIGEST)
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT and server.paths == [address]


def test_a_fetch_that_is_killed_is_continued(server, tmp_path):
    """kill -9 in the middle leaves no file under the final name, and the next call asks for the rest alone."""
    server.files[NAME] = CONTENT * 100
    digest = hashlib.sha256(server.files[NAME]).hexdigest()
    server.script = [("stall", 5_000_000)]
    code = "import sys, pathlib, novelview.downloads.transfer as t; t.download(sys.argv[1], pathlib.Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, server.url, str(tmp_path / "weights.pth")])
    part = tmp_path / "weights.pth.part"
    while not (part.is_file() and part.stat().st_size >= 1_000_000):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["weights.pth.part", "weights.pth.part.tag"]
    have = part.stat().st_size
    transfer.download(server.url, tmp_path / "weights.pth", digest)
    assert hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest() == digest
    assert server.asked[-1] == (f"bytes={have}-", '"v1"')


# --- mirrors and files without a checksum


def test_the_next_address_is_tried(server, tmp_path):
    server.files["/copy/weights.pth"] = CONTENT
    server.script = [(404, {})]
    assert fetch("it", tmp_path, entry(server, mirrors=[f"{server.root}/copy/weights.pth"])).read_bytes() == CONTENT
    assert server.paths == [NAME, "/copy/weights.pth"]


def test_wrong_bytes_at_one_address_do_not_spoil_the_next(server, tmp_path):
    server.files[NAME] = b"<html>moved</html>"
    server.files["/copy/weights.pth"] = CONTENT
    assert fetch("it", tmp_path, entry(server, mirrors=[f"{server.root}/copy/weights.pth"])).read_bytes() == CONTENT


def test_when_every_address_fails_each_reason_is_told(server, tmp_path):
    mirrors = [f"{server.root}/gone.pth", "http://127.0.0.1:1/weights.pth"]
    server.script = [(403, {})]
    with pytest.raises(
        DataError, match=r"says 403 .* \| .*gone.pth: the server says 404 .* \| .*connection lost"
    ) as caught:
        fetch("it", tmp_path, entry(server, mirrors=mirrors))
    assert "\n" not in str(caught.value) and not (tmp_path / "sub/weights.pth").exists()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as stream:
        stream.writestr("data.pkl", CONTENT)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "order", "words"),
    [
        (b"<!DOCTYPE html><html>sign in</html>", None, "another content than a .pth file"),
        (archive(), "short", "its archive is cut short"),
        (archive(), None, None),
    ],
)
def test_without_a_checksum_the_kind_is_checked(server, tmp_path, content, order, words):
    server.files[NAME] = content
    server.script = [order] if order else []
    registry = entry(server, sha256=None)
    if words is None:
        assert fetch("it", tmp_path, registry).read_bytes() == content
    else:
        with pytest.raises(DataError, match=words):
            fetch("it", tmp_path, registry)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_a_checksum_the_rough_size_is_checked(server, tmp_path):
    server.files[NAME] = archive()
    with pytest.raises(DataError, match="instead of about 500000000"):
        fetch("it", tmp_path, entry(server, sha256=None, about_mb=500))


# --- registry and command


def entry(server: FileServer, **changes: Any) -> dict[str, Entry]:
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
    backbones = {"vgg16", "vgg19", "alexnet", "dinov2_vitb14_reg"}
    published = {"uplvsm_x224", "uplvsm_x518", "lvsm_decoder_only_256", "pmloss", "depthsplat_small_re10k"}
    data = {"re10k", "dl3dv_chunked", "dl3dv_benchmark", "overlap_small", "evaluation_index_re10k", "dl3dv_bound_aware"}
    assert backbones | published | data <= registry.keys()
    assert sum(name.startswith("lact_") for name in registry) == 10
    assert sum(name.startswith("lvsm_") for name in registry) == 5
    assert len({item.path for item in registry.values()}) == len(registry)
    for item in registry.values():
        assert all(address.startswith(("https://", "hf://")) for address in item.addresses)
        assert item.licence and item.citation and item.purpose
        assert item.sha256 is None or set(item.sha256) <= set("0123456789abcdef")
        assert not Path(item.path).is_absolute() and ".." not in Path(item.path).parts


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a: {purpose: x, path: p, licence: l, citation: c}", "a: needs a url, or a repo and its file or files"),
        ("a: {repo: r/r, file: f, files: ['*']}", "a: needs a url, or a repo and its file or files"),
        (
            "a: {url: u, path: p, licence: l, citation: c, purpose: x, mirrors: [ftp://x]}",
            "mirror 'ftp://x' is neither",
        ),
        ("a: 3", "a: needs a url"),
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


def test_every_evaluation_index_is_pinned():
    text = (conf_dir() / "registry.yaml").read_text()
    for name, item in read_registry().items():
        if item.path.startswith("indices/"):
            assert item.sha256 and len(item.sha256) == 64, name
    assert "/main/" not in text and "/master/" not in text
