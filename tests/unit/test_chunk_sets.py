"""Chunk sets from an HTTP mirror and from the hub, through the stage that makes a data set of them."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import fake_hub
import file_server
import pytest
from fake_hub import FakeHub
from file_server import FileServer
from packed_stores import MakePacked

from novelview.config.compose import compose
from novelview.downloads import transfer
from novelview.downloads.fetch import fetch_chunks
from novelview.errors import DataError
from novelview.stages.download import download


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory, make_packed: MakePacked) -> dict[str, bytes]:
    """Two splits of one real chunk each, with their indices; the keys are paths in the set."""
    files = {}
    for split in ("train", "test"):
        folder = tmp_path_factory.mktemp(split)
        make_packed(folder, {f"{split}scene": 4})
        files[f"{split}/000000.torch"] = (folder / "raw/000000.torch").read_bytes()
        files[f"{split}/index.json"] = json.dumps({f"{split}scene": "000000.torch"}).encode()
    return files


@pytest.fixture
def mirror(chunks: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(transfer.time, "sleep", lambda seconds: None)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in chunks.items())
    files = {f"/re10k/{name}": content for name, content in chunks.items()}
    with file_server.running({**files, "/re10k/SHA256SUMS": sums.encode()}) as running:
        yield running


@pytest.fixture
def hub(chunks: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with fake_hub.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        running.add("owner/sets", {f"v2/{name}": content for name, content in chunks.items()}, "datasets")
        yield running


def same(folder: Path, chunks: dict[str, bytes]) -> bool:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found.pop("fetched.json")
    return found == chunks


def refused(address: str, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        fetch_chunks(address, folder, progress=False)
    assert "\n" not in str(caught.value) and not folder.exists()
    return str(caught.value)


@pytest.mark.parametrize("ending", ["/re10k", "/re10k/"])
def test_a_mirror_arrives_whole_and_is_kept(mirror: FileServer, chunks: dict[str, bytes], tmp_path: Path, ending: str):
    assert same(fetch_chunks(mirror.root + ending, tmp_path / "chunks", progress=False), chunks)
    count = len(mirror.paths)
    fetch_chunks(mirror.root + ending, tmp_path / "chunks", progress=False)
    assert len(mirror.paths) == count
    assert [path.name for path in tmp_path.iterdir()] == ["chunks"]


def test_a_mirror_without_sums_and_with_one_split(mirror: FileServer, chunks: dict[str, bytes], tmp_path: Path) -> None:
    mirror.files = {name: content for name, content in mirror.files.items() if "/test/" in name}
    found = fetch_chunks(f"{mirror.root}/re10k", tmp_path / "chunks", progress=False)
    assert same(found, {name: content for name, content in chunks.items() if name.startswith("test/")})


def test_wrong_bytes_are_found_by_their_sum_and_the_rest_is_kept(
    mirror: FileServer, chunks: dict[str, bytes], tmp_path: Path
) -> None:
    right = mirror.files["/re10k/test/000000.torch"]
    mirror.files["/re10k/test/000000.torch"] = right[:-1] + b"?"
    assert "what arrived has SHA-256" in refused(f"{mirror.root}/re10k", tmp_path / "chunks")
    mirror.files["/re10k/test/000000.torch"] = right
    mirror.paths.clear()
    assert same(fetch_chunks(f"{mirror.root}/re10k", tmp_path / "chunks", progress=False), chunks)
    assert "/re10k/train/000000.torch" not in mirror.paths


def test_a_sign_in_page_is_no_chunk(mirror: FileServer, tmp_path: Path) -> None:
    del mirror.files["/re10k/SHA256SUMS"]
    mirror.files["/re10k/test/000000.torch"] = b"<!DOCTYPE html>" * 100
    assert "another content than a .torch file" in refused(f"{mirror.root}/re10k", tmp_path / "chunks")


def test_a_missing_chunk_is_named(mirror: FileServer, tmp_path: Path) -> None:
    del mirror.files["/re10k/test/000000.torch"]
    assert "/re10k/test/000000.torch: the server says 404" in refused(f"{mirror.root}/re10k", tmp_path / "chunks")


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (b"<html></html>", "not valid JSON"),
        (b'["000000.torch"]', "no mapping from scenes to chunks"),
        (b'{"a": "../../outside.torch"}', "no mapping from scenes to chunks"),
    ],
)
def test_an_index_that_is_none_is_one_line(mirror: FileServer, tmp_path: Path, index: bytes, words: str) -> None:
    del mirror.files["/re10k/SHA256SUMS"]
    mirror.files["/re10k/train/index.json"] = index
    assert words in refused(f"{mirror.root}/re10k", tmp_path / "chunks")


def test_an_address_without_chunks_is_one_line(mirror: FileServer, tmp_path: Path) -> None:
    assert "has neither train/index.json nor test/index.json" in refused(f"{mirror.root}/re10", tmp_path / "chunks")


def test_a_folder_of_the_hub(hub: FakeHub, chunks: dict[str, bytes], tmp_path: Path) -> None:
    assert same(fetch_chunks("hf://owner/sets/v2", tmp_path / "chunks", progress=False), chunks)


@pytest.mark.parametrize("kind", ["http", "hf"])
def test_the_download_stage_takes_an_address_for_a_path(
    mirror: FileServer, hub: FakeHub, chunks: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    address = f"{mirror.root}/re10k" if kind == "http" else "hf://owner/sets/v2@main"
    (tmp_path / "small.json").write_text('{"testscene": {"context": [0, 3], "target": [1]}}')
    words = [f"path={address}", "source=chunks", f"+source.indices.small={tmp_path}/small.json"]
    out = tmp_path / "data/raw"
    download(compose("download", [*words, f"io.out={out}", "dataset=it", "runtime.progress=false"]))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["root"] == str(tmp_path / "data/chunks")
    found = {name: entry["sha256"] for name, entry in manifest["files"].items() if name.endswith(".torch")}
    expected = {name: hashlib.sha256(content).hexdigest() for name, content in chunks.items()}
    assert found == {name: digest for name, digest in expected.items() if name.endswith(".torch")}
