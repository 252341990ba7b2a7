"""Two calls of a stage into one folder at once, and what is left of a stage whose process was killed alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from novelview.files import file_entries

ROOT = Path(__file__).parents[2]
ROOMS = ["source.train_scenes=6", "source.test_seen_scenes=2", "source.test_new_scenes=2", "source.height=36"]
ROOMS += ["source.width=64", "runtime.progress=false"]


def start(stage: str, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"novelview.stages.{stage}", *words]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, cwd=ROOT, env=environment)


def download(out: Path, *more: str) -> subprocess.Popen[str]:
    return start("download", "source=rooms", f"io.out={out}", *ROOMS, *more)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `raw` of one call, and the folder `packed` made from it."""
    folder = tmp_path_factory.mktemp("alone")
    for call in (lambda: download(folder / "raw"), lambda: preprocess(folder)):
        assert call().wait() == 0
    return folder


def preprocess(folder: Path, *more: str) -> subprocess.Popen[str]:
    return start(
        "preprocess", f"io.raw={folder / 'raw'}", f"io.out={folder / 'packed'}", "runtime.progress=false", *more
    )


@pytest.mark.parametrize("delay", [0.0, 0.4])
def test_two_downloads_into_one_folder_end_with_the_data_of_one(alone: Path, tmp_path: Path, delay: float) -> None:
    first = download(tmp_path / "raw")
    time.sleep(delay)
    second = download(tmp_path / "raw")
    said = [process.communicate()[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    assert file_entries(tmp_path / "raw") == file_entries(alone / "raw")
    assert {path.name for path in tmp_path.iterdir()} == {"raw"}


def test_two_packings_into_one_folder_end_with_the_store_of_one(alone: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").symlink_to(alone / "raw")
    processes = [preprocess(tmp_path), preprocess(tmp_path)]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert file_entries(tmp_path / "packed") == file_entries(alone / "packed")
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "packed"}


@pytest.mark.parametrize("stage", ["download", "preprocess"])
def test_workers_end_with_a_parent_that_was_killed_alone(alone: Path, tmp_path: Path, stage: str) -> None:
    (tmp_path / "raw").symlink_to(alone / "raw") if stage == "preprocess" else None
    begin = preprocess if stage == "preprocess" else lambda folder, *more: download(folder / "raw", *more)
    parent = begin(tmp_path, "runtime.workers=2")
    workers: list[int] = []
    while len(workers) < 2 and parent.poll() is None:
        workers = workers_of(parent.pid)
        time.sleep(0.02)
    assert len(workers) == 2, "the stage ended before its workers were seen"
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    late = time.monotonic() + 60
    while any(map(runs, workers)) and time.monotonic() < late:
        time.sleep(0.05)
    assert not [worker for worker in workers if runs(worker)]


def workers_of(parent: int) -> list[int]:
    """Return the processes that a parent's pool spawned."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields, words = path.read_text().rpartition(")")[2].split(), (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and b"spawn_main" in words:
            found.append(int(path.parent.name))
    return found


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
