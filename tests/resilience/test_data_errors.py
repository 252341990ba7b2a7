"""Damaged frames, chunks and manifests: named, counted, on one line, and the rest goes on."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from data_samples import jpeg, one_line, pack, scene, stage, write_raw

from novelview.scenes.chunks import write_chunk
from novelview.scenes.store import PackedStore
from novelview.stages.download import download
from novelview.stages.preprocess import preprocess


@pytest.fixture
def raw(tmp_path) -> Path:
    return write_raw(tmp_path / "raw")


def spoil(raw: Path, frame: int, content: bytes) -> None:
    """Replace one frame of scene train1."""
    item = scene("train1", seed=1)
    item.images[frame] = content
    write_chunk(raw / "train" / "000001.torch", [item])


DAMAGE = {
    "truncated": jpeg(102)[:-200],
    "truncated to its header": jpeg(102)[:200],
    "empty": b"",
    "no picture": b"not a picture at all",
    "another format": b"GIF89a" + bytes(100),
}


# Damaged frames


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_frame_is_named_and_stops_the_stage(raw, tmp_path, name, caplog):
    spoil(raw, 2, DAMAGE[name])
    with caplog.at_level(logging.WARNING):
        text = one_line(lambda: pack(raw, tmp_path / "out"))
    assert "1 damaged frames" in text and "scene train1 frame 2" in text and "pack.max_bad_frames=1" in text
    assert "train/000001.torch: scene train1 frame 2" in caplog.text
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_tolerated_frame_keeps_its_number(raw, tmp_path):
    spoil(raw, 2, DAMAGE["truncated"])
    manifest = pack(raw, tmp_path / "out", max_bad_frames=1)
    assert [(b["split"], b["scene"], b["frame"]) for b in manifest["bad_frames"]] == [("train", "train1", 2)]
    store = PackedStore(tmp_path / "out" / "train")
    assert store.frames("train1") == 4 and store.bad("train1") == {2} and store.bad("train0") == set()
    assert store.jpeg("train1", 3) == jpeg(103) and store.size("train1", 2) == (0, 0)
    assert "scene train1 frame 2: damaged in the source" in one_line(lambda: store.jpeg("train1", 2))


def test_first_frame_damaged_leaves_the_scenes_size_known(raw, tmp_path):
    spoil(raw, 0, b"")
    pack(raw, tmp_path / "out", max_bad_frames=1)
    assert PackedStore(tmp_path / "out" / "train").size("train1") == (32, 32)


def test_byte_changed_inside_a_frame_is_found(raw, tmp_path):
    path = raw / "train" / "000001.torch"
    content = bytearray(path.read_bytes())
    frame = jpeg(102)
    content[bytes(content).index(frame) + len(frame) // 2] ^= 0x10
    path.write_bytes(content)
    assert "scene train1 frame 2 (" in one_line(lambda: pack(raw, tmp_path / "out"))


def test_byte_changed_inside_a_camera_is_found(raw, tmp_path):
    path = raw / "train" / "000001.torch"
    content = bytearray(path.read_bytes())
    cameras = scene("train1").cameras.numpy().tobytes()
    content[content.index(cameras) + 2] ^= 0x01
    path.write_bytes(content)
    assert "cameras or timestamps changed" in one_line(lambda: pack(raw, tmp_path / "out"))


# Damaged chunks


def test_damaged_chunk_is_named_and_the_rest_packed(raw, tmp_path):
    path = raw / "train" / "000001.torch"
    path.write_bytes(path.read_bytes()[:500])
    text = one_line(lambda: pack(raw, tmp_path / "out"))
    assert "1 damaged chunks" in text and "train/000001.torch" in text and "pack.max_bad_chunks=1" in text
    manifest = pack(raw, tmp_path / "out", max_bad_chunks=1)
    assert manifest["splits"]["train"]["scenes"] == 2 and manifest["bad_chunks"][0]["chunk"] == "000001.torch"
    assert PackedStore(tmp_path / "out" / "train").scenes == ["train0", "train2"]


def test_no_readable_chunk_is_an_error_whatever_is_allowed(raw, tmp_path):
    (raw / "test" / "000000.torch").write_bytes(b"")
    assert "test: no readable chunk" in one_line(lambda: pack(raw, tmp_path / "out", max_bad_chunks=9))


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_hostile_chunk_is_reported_and_not_executed(raw, tmp_path):
    torch.save([Hostile(tmp_path / "executed")], raw / "train" / "000001.torch")
    assert "000001.torch" in one_line(lambda: pack(raw, tmp_path / "out"))
    assert not (tmp_path / "executed").exists()


def test_chunk_missing_since_the_download_is_reported(raw, tmp_path, capsys):
    (raw / "train" / "000002.torch").unlink()
    assert stage("preprocess", preprocess, tmp_path) == 2
    assert "train/000002.torch (no such file" in capsys.readouterr().err


# Stages


def test_stage_packs_what_the_manifest_lists(raw, tmp_path):
    (raw / "train" / "000003.torch").write_bytes(b"half a chunk that the manifest does not know")
    assert stage("preprocess", preprocess, tmp_path, "runtime.workers=2") == 0
    assert PackedStore(tmp_path / "out" / "train").scenes == ["train0", "train1", "train2"]


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"files": {}}'])
def test_missing_or_damaged_manifest_is_one_line(raw, tmp_path, capsys, content):
    (raw / "manifest.json").unlink()
    if content is not None:
        (raw / "manifest.json").write_text(content)
    assert stage("preprocess", preprocess, tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "manifest.json" in error and "\n" not in error


def test_output_that_cannot_be_made_is_one_line(raw, tmp_path, capsys):
    (tmp_path / "out").write_text("a file where the folder should be")
    assert stage("preprocess", preprocess, tmp_path) == 2
    assert stage("download", download, tmp_path / "out") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") and str(tmp_path / "out") in line for line in lines)


@pytest.mark.parametrize(
    "change", [{"train/000000.torch": 3}, {"train/000000.torch": {}}, {"../x.torch": {"sha256": ""}}]
)
def test_edited_entries_of_the_manifest_are_one_line(raw, tmp_path, capsys, change):
    manifest = json.loads((raw / "manifest.json").read_text())
    manifest["files"].update(change)
    (raw / "manifest.json").write_text(json.dumps(manifest))
    assert stage("preprocess", preprocess, tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert next(iter(change)) in error and "\n" not in error and not (tmp_path / "out").exists()


def test_packing_never_touches_the_chunks_or_strangers(raw, tmp_path, capsys):
    before = sorted(raw.rglob("*"))
    assert stage("preprocess", preprocess, tmp_path, f"io.out={raw}") == 2
    assert "is the folder of the chunks" in capsys.readouterr().err and sorted(raw.rglob("*")) == before
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "notes.txt").write_text("mine")
    assert stage("preprocess", preprocess, tmp_path) == 0
    assert (tmp_path / "out" / "train" / "notes.txt").read_text() == "mine"
