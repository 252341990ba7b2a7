"""Full disks, kills and damaged stores: one line, and never a partial file under a final name."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_samples import jpeg, one_line, pack, scene, stage, write_raw

from novelview.files import check_content, read_json
from novelview.scenes import chunks
from novelview.scenes import pack as packing
from novelview.scenes.chunks import write_chunk
from novelview.scenes.store import INDEX, PackedStore
from novelview.stages.preprocess import preprocess


@pytest.fixture
def raw(tmp_path) -> Path:
    return write_raw(tmp_path / "raw")


# Full disks


def open_full(path, mode="r", *rest):
    """Stand in for open(): writes go to the device that is always full."""
    return open("/dev/full" if "w" in mode else path, mode, *rest)


def test_full_disk_is_one_line_and_leaves_nothing_half_written(raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing, "open", open_full, raising=False)
    assert stage("preprocess", preprocess, tmp_path) == 2
    error = capsys.readouterr().err.strip()
    assert "No space left on device" in error and str(tmp_path / "out") in error and "free some disk space" in error
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    assert stage("preprocess", preprocess, tmp_path) == 0


def test_full_disk_under_a_chunk_is_reported_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "open", open_full, raising=False)
    with pytest.raises(OSError, match=r"No space left on device.*a\.torch"):
        write_chunk(tmp_path / "a.torch", [scene("a", frames=60, side=128)])
    assert list(tmp_path.iterdir()) == []


def limited(folder: Path, limit: int, *words: str) -> subprocess.CompletedProcess:
    """Run a stage in a process whose files may not exceed `limit` bytes."""

    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", *words, "runtime.progress=false"]
    return subprocess.run(command, cwd=folder, preexec_fn=set_limit, capture_output=True, text=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_write_that_fails_halfway_leaves_only_whole_files(tmp_path, workers):
    write_raw(tmp_path / "raw", frames=30, side=64)
    size = sum(len(image) for image in scene("train0", 30, 0, 64).images)
    words = ("novelview.stages.preprocess", f"io.raw={tmp_path / 'raw'}", f"io.out={tmp_path / 'out'}")
    done = limited(tmp_path, size // 2, *words, f"runtime.workers={workers}")
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr and str(tmp_path / "out") in done.stderr
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


# Kills


def test_killed_run_continues_to_the_same_bytes(tmp_path):
    raw = write_raw(tmp_path / "raw", chunks=12, frames=40, side=160)
    pack(raw, tmp_path / "whole")
    words = [sys.executable, "-m", "novelview.stages.preprocess", f"io.raw={raw}", f"io.out={tmp_path / 'cut'}"]
    with subprocess.Popen([*words, "runtime.progress=false"], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list((tmp_path / "cut").glob("train/parts/0*"))) < 3:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "cut" / "manifest.json").exists()
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cut" / "train").glob("shard-*")}
    assert len(kept) >= 3
    pack(raw, tmp_path / "cut")
    same = [(tmp_path / "cut" / "train" / name).stat().st_mtime_ns == stamp for name, stamp in kept.items()]
    assert sum(same) >= len(kept) - 1  # the shard finished just before the kill may lack its record
    found = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert found[0] == found[1]


# Damaged stores


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


STORES = {
    "no store": lambda out: [path.unlink() for path in out.rglob("*") if path.is_file()],
    "no manifest": lambda out: (out / "manifest.json").unlink(),
    "broken manifest": lambda out: (out / "manifest.json").write_text("{"),
    "manifest of something else": lambda out: (out / "manifest.json").write_text("[]"),
    "no index": lambda out: (out / "train" / INDEX).unlink(),
    "truncated index": lambda out: cut(out / "train" / INDEX),
    "byte changed in the index": lambda out: flip(out / "train" / INDEX),
    "manifest without splits": lambda out: (out / "manifest.json").write_text('{"files": {}}'),
    "manifest with a wrong entry": lambda out: (out / "manifest.json").write_text(
        '{"splits": {"train": {}}, "files": {"train/index.safetensors": 3}}'
    ),
    "no shard": lambda out: (out / "train" / "shard-000001.bin").unlink(),
    "truncated shard": lambda out: cut(out / "train" / "shard-000001.bin"),
    "index of equal size": lambda out: (out / "train" / INDEX).write_bytes(
        bytes((out / "train" / INDEX).stat().st_size)
    ),
}


@pytest.mark.parametrize("name", STORES)
def test_damaged_store_does_not_open(raw, tmp_path, name):
    pack(raw, tmp_path / "out")
    STORES[name](tmp_path / "out")
    assert str(tmp_path / "out") in one_line(lambda: PackedStore(tmp_path / "out" / "train"))


def test_missing_split_is_named(raw, tmp_path):
    pack(raw, tmp_path / "out")
    assert "lists no split 'validation'" in one_line(lambda: PackedStore(tmp_path / "out" / "validation"))


def test_byte_changed_in_a_shard_is_found_when_read_and_when_verified(raw, tmp_path):
    pack(raw, tmp_path / "out")
    shard = tmp_path / "out" / "train" / "shard-000001.bin"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    store = PackedStore(tmp_path / "out" / "train")
    assert store.jpeg("train1", 1) == jpeg(101)
    assert "frame 0: its bytes in shard-000001.bin changed" in one_line(lambda: store.jpeg("train1", 0))
    entry = read_json(tmp_path / "out" / "manifest.json")["files"]["train/shard-000001.bin"]
    assert "shard-000001.bin: content differs from the manifest" in one_line(lambda: check_content(shard, entry, "x"))
