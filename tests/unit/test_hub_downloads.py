"""Downloads from a hub on this machine through the real client: pinned, verified, resumed, or one clear line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_hub
import pytest
from fake_hub import TOKEN, FakeHub

from novelview.downloads import transfer
from novelview.downloads.fetch import fetch
from novelview.downloads.registry import Entry, HubAddress, parse_hub
from novelview.errors import ConfigError, DataError

CONTENT = b"\x80" + bytes(range(256)) * 800
FILES = {"weights.pt": CONTENT, "deep/part.pt": CONTENT[::-1][:-1] + b"\x80", "deep/index.json": b'{"a": "b"}'}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(transfer.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", "")
    with fake_hub.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        running.add("someone/thing", FILES)
        yield running


def entry(**changes: Any) -> dict[str, Entry]:
    facts = {"purpose": "a test", "path": "sub/weights.pt", "licence": "CC0-1.0", "citation": "nobody 2026"}
    place = {"file": "weights.pt"} if "files" not in changes else {}
    return {"it": Entry(**{"name": "it", **facts, "repo": "someone/thing", **place, **changes})}


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refused(folder: Path, registry: dict[str, Entry]) -> str:
    with pytest.raises(DataError) as caught:
        fetch("it", folder, registry)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_arrives_and_nothing_is_left_beside_it(hub: FakeHub, tmp_path: Path) -> None:
    assert fetch("it", tmp_path, entry()).read_bytes() == CONTENT
    assert files_of(tmp_path) == ["sub/weights.pt"]


def test_a_broken_connection_is_continued(hub: FakeHub, tmp_path: Path) -> None:
    hub.script["weights.pt"] = [70_000, 20_000]
    assert fetch("it", tmp_path, entry()).read_bytes() == CONTENT


def test_a_busy_hub_is_asked_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.script["weights.pt"] = [(429, {"Retry-After": "0"}), (503, {})]
    assert fetch("it", tmp_path, entry()).read_bytes() == CONTENT


def test_bytes_that_the_hub_has_another_digest_of_are_deleted(hub: FakeHub, tmp_path: Path) -> None:
    hub.script["weights.pt"] = [CONTENT[:-1] + b"?"]
    assert "what arrived has SHA-256" in refused(tmp_path, entry())
    assert not any(name.endswith("weights.pt") for name in files_of(tmp_path))


def test_a_file_other_than_the_registry_says_is_deleted(hub: FakeHub, tmp_path: Path) -> None:
    assert "instead of 00000000" in refused(tmp_path, entry(sha256="0" * 64))
    assert "the hub has 204801 bytes instead of 5" in refused(tmp_path, entry(size=5))
    assert not any(name.endswith("weights.pt") for name in files_of(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file": "gone.pt"}, r"gone.pt@main: no such file in the repository"),
        ({"repo": "someone/else"}, r"someone/else/weights.pt@main: not fetched: .*401"),
        ({"revision": "0" * 40}, r"not fetched: .*Revision Not Found"),
    ],
)
def test_what_is_not_there_is_one_line(hub: FakeHub, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        fetch("it", tmp_path, entry(**changes))
    assert "\n" not in str(caught.value) and not (tmp_path / "sub/weights.pt").exists()


def test_a_hub_that_is_not_there_is_one_line(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert "not fetched: [Errno 111]" in refused(tmp_path, entry())


def test_a_gated_repository_needs_a_token(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["models/someone/thing"].gated = True
    line = refused(tmp_path, entry())
    assert "gated: accept the terms at https://huggingface.co/someone/thing" in line and "HF_TOKEN" in line
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch("it", tmp_path, entry()).read_bytes() == CONTENT
    assert all(token is None for _, path, token in hub.asked if path.startswith("/cdn/"))


def test_offline_means_no_request(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in refused(tmp_path, entry()) and not hub.asked


def test_a_mirror_on_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("other/copy", {"a/b.pt": CONTENT}, "datasets")
    registry = entry(repo=None, file=None, url="http://127.0.0.1:1/x", mirrors=["hf://datasets/other/copy/a/b.pt"])
    client_waits = fetch("it", tmp_path, registry)
    assert client_waits.read_bytes() == CONTENT


# --- folders


def folder(**changes: Any) -> dict[str, Entry]:
    return entry(files=["deep/*", "*.pt"], path="set", **changes)


def test_a_folder_arrives_whole_and_is_kept(hub: FakeHub, tmp_path: Path) -> None:
    place = fetch("it", tmp_path, folder())
    assert files_of(place) == ["deep/index.json", "deep/part.pt", "fetched.json", "weights.pt"]
    listing = json.loads((place / "fetched.json").read_text())
    assert listing["commit"] == hub.repos["models/someone/thing"].sha and len(listing["files"]) == 3
    assert all((place / name).read_bytes() == content for name, content in FILES.items())
    count = len(hub.asked)
    fetch("it", tmp_path, folder())
    assert len(hub.asked) == count


def test_a_folder_is_continued_file_by_file(hub: FakeHub, tmp_path: Path) -> None:
    hub.script["deep/part.pt"] = [b"\x80wrong"] * 20
    assert "deep/part.pt" in refused(tmp_path, folder())
    assert not (tmp_path / "set").exists()
    hub.script.clear()
    before = len(hub.asked)
    place = fetch("it", tmp_path, folder())
    assert (place / "deep/part.pt").read_bytes() == FILES["deep/part.pt"]
    assert not any(path.endswith("weights.pt") for _, path, _ in hub.asked[before:])


def test_a_rest_of_another_commit_is_not_mixed_in(hub: FakeHub, tmp_path: Path) -> None:
    hub.script["deep/part.pt"] = [b"\x80wrong"] * 20
    refused(tmp_path, folder())
    hub.script.clear()
    hub.repos["models/someone/thing"].files["weights.pt"] = CONTENT[::-1]
    assert (fetch("it", tmp_path, folder()) / "weights.pt").read_bytes() == CONTENT[::-1]


def test_a_damaged_folder_is_mended(hub: FakeHub, tmp_path: Path) -> None:
    place = fetch("it", tmp_path, folder())
    (place / "weights.pt").write_bytes(b"short")
    (place / "deep/part.pt").unlink()
    assert fetch("it", tmp_path, folder()) == place
    assert all((place / name).read_bytes() == content for name, content in FILES.items())


def test_a_folder_of_somebody_else_is_left_alone(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/mine.txt").write_text("mine")
    assert "exists and was not fetched" in refused(tmp_path, folder())
    assert files_of(tmp_path) == ["set/mine.txt"]


def test_a_pattern_that_matches_nothing_is_one_line(hub: FakeHub, tmp_path: Path) -> None:
    assert "no file there matches *.zip" in refused(tmp_path, entry(files=["*.zip"], path="set"))


# --- addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://a/b", HubAddress("a/b", "dataset")),
        ("hf://a/b/c/d@v1", HubAddress("a/b", "dataset", "c/d", "v1")),
        ("hf://models/a/b/x.pt", HubAddress("a/b", "model", "x.pt")),
        ("hf://datasets/a/b@0123", HubAddress("a/b", "dataset", "", "0123")),
    ],
)
def test_addresses_are_read_and_written(text: str, expected: HubAddress) -> None:
    assert parse_hub(text, "dataset") == expected
    assert parse_hub(str(expected), "model") == expected


@pytest.mark.parametrize("text", ["hf://a", "hf://", "hf:///b/../c/d", "hf://a/../../b", "hf://-a/b", "s3://a/b"])
def test_what_is_no_address_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="not an address on the hub"):
        parse_hub(text, "dataset")
