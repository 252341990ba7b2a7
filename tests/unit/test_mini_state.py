"""The state folder: what comes back, what is refused in one line, and kills while it is written."""

import hashlib
import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest

from carry import state
from carry.state import INDEX, pack, read_index, total_bytes, unpack
from novelview.errors import DataError

FILES = {
    "results/mini/a.csv": b"1,2\n",
    "checkpoints/pretrain/x/s.pt": os.urandom(70_000),
    ".snakemake/metadata/YQ": b"{}",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "one" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1_700_000_000.25, 1_700_000_000.25))
    return tmp_path / "one"


@pytest.fixture
def folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state in pieces of 20 kB."""
    monkeypatch.setattr(state, "PIECE_BYTES", 20_000)
    pack(tmp_path / "state", root, [root / name for name in FILES], {"words": ""})
    return tmp_path / "state"


def test_files_come_back_with_their_times(folder: Path, tmp_path: Path) -> None:
    unpack(folder, tmp_path / "two")
    for name, content in FILES.items():
        path = tmp_path / "two" / name
        assert path.read_bytes() == content and path.stat().st_mtime == 1_700_000_000.25
    assert not list((tmp_path / "two").rglob("*.partial*"))


def test_names_sizes_and_depth(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 5 and INDEX in names and all(path.is_file() for path in folder.iterdir())
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
    assert all(path.stat().st_size <= 20_000 for path in folder.iterdir())
    index = read_index(folder)
    assert index is not None and total_bytes(index) == sum(path.stat().st_size for path in folder.glob("part-*"))
    assert index["format"] == state.FORMAT


def test_pieces_keep_within_16_megabytes() -> None:
    assert 1_000_000 <= state.PIECE_BYTES <= 16_000_000


def test_a_new_state_replaces_the_old_one_and_equal_files_give_equal_pieces(folder: Path, root: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.glob("part-*")}
    pack(folder, root, [root / name for name in FILES], {"words": "more"})
    assert {path.name: path.read_bytes() for path in folder.glob("part-*")} == before
    (root / "results/mini/a.csv").write_bytes(b"other")
    pack(folder, root, [root / name for name in FILES], {"words": ""})
    assert not set(before) & {path.name for path in folder.glob("part-*")}


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_while_packing_leaves_a_whole_state(folder, root, tmp_path, monkeypatch, moment) -> None:
    (root / "results/mini/a.csv").write_bytes(b"newer")
    real, left = os.replace, [moment]

    def killed(source, target) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        try:
            pack(folder, root, [root / name for name in FILES], {"words": ""})
            ended = True
        except KeyboardInterrupt:
            ended = False
    unpack(folder, tmp_path / "two")
    assert (tmp_path / "two/results/mini/a.csv").read_bytes() == (b"newer" if ended else b"1,2\n")
    pack(folder, root, [root / name for name in FILES], {"words": ""})
    assert len(list(folder.iterdir())) == 5


def refused(folder: Path, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        unpack(folder, root)
    text = str(caught.value)
    assert "\n" not in text and str(folder) in text and "name an empty folder to begin anew" in text
    assert not root.exists()
    return text


def test_a_damaged_piece_is_named(folder: Path, tmp_path: Path) -> None:
    piece = sorted(folder.glob("part-*"))[1]
    piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    assert f"{piece}: this piece of the state is damaged" in refused(folder, tmp_path / "two")


def test_a_missing_piece_is_named(folder: Path, tmp_path: Path) -> None:
    piece = sorted(folder.glob("part-*"))[-1]
    piece.unlink()
    assert f"{piece}: this piece of the state is missing" in refused(folder, tmp_path / "two")


def test_a_missing_index_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / INDEX).unlink()
    assert f"and no {INDEX}" in refused(folder, tmp_path / "two")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"format": 1}', '{"format": "other", "about": {}, "pieces": []}', "\x00"]
)
def test_a_foreign_index_is_refused(folder: Path, tmp_path: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    assert "is no index of a state" in refused(folder, tmp_path / "two")


def test_pieces_outside_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["pieces"][0]["name"] = "../part-0123456789ab-00.bin"
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, tmp_path / "two")


@pytest.mark.parametrize("name", ["/etc/x", "../x", "results/../../x", "src/novelview/x.py", ".snakemake/scripts/x"])
def test_an_archive_that_reaches_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    import gzip

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("results/fine"), io.BytesIO())
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    content = gzip.compress(stream.getvalue())
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "part-0123456789ab-00.bin").write_bytes(content)
    piece = {"name": "part-0123456789ab-00.bin", "bytes": 1, "sha256": hashlib.sha256(content).hexdigest()}
    (folder / INDEX).write_text(json.dumps({"format": state.FORMAT, "pieces": [piece], "about": {}}))
    assert "which no state does" in refused(folder, tmp_path / "two")


def test_no_folder_and_an_empty_one_begin_anew(tmp_path: Path) -> None:
    assert read_index(tmp_path / "none") is None
    (tmp_path / "empty").mkdir()
    assert read_index(tmp_path / "empty") is None
    unpack(tmp_path / "empty", tmp_path / "two")
    assert not (tmp_path / "two").exists()
