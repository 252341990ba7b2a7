"""Files that appear whole or not at all, and what is said when they cannot. What Snakemake cannot see: files of a data
folder that are not as its manifest has them."""

import errno
import json
from pathlib import Path

import pytest

import guard
from guard import changed_data
from novelview.errors import ConfigError, DataError
from novelview.files import read_json, replacing, require_writable, sha256, write_bytes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_keeps_the_old_file_and_names_the_final_one(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.bin", b"old")
    with pytest.raises(OSError, match=r"a\.bin") as caught, replacing(tmp_path / "a.bin") as partial:
        partial.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.bin") and caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == ["a.bin"] and (tmp_path / "a.bin").read_bytes() == b"old"


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a"):
        (tmp_path / "elsewhere").read_bytes()
    assert caught.value.filename == str(tmp_path / "elsewhere")


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError) as caught:
        write_bytes(tmp_path / "a", b"x")
    assert caught.value.filename == str(tmp_path / "a") and names(tmp_path) == ["a"]


def test_an_output_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    require_writable(tmp_path / "new" / "deep" / "model.safetensors", "io.out")
    with pytest.raises(ConfigError, match=r"io\.out=.* is a folder"):
        require_writable(tmp_path, "io.out")
    with pytest.raises(ConfigError, match=r"io\.log=.* is a file, not a folder"):
        require_writable(tmp_path / "file" / "train.csv", "io.log")
    assert names(tmp_path) == ["file"], "checking makes nothing"


def test_a_folder_without_write_permission_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("novelview.files.os.access", lambda folder, mode: False)
    with pytest.raises(ConfigError, match="cannot be written"):
        require_writable(tmp_path / "model.safetensors", "io.out")


def test_json_reads_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"ü": 1}), encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"ü": 1}


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe", b"{", b""])
def test_what_is_not_json_is_one_line_with_the_given_advice(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match="correct it") as caught:
        read_json(tmp_path / "a.json", "correct it")
    assert "\n" not in str(caught.value) and "delete" not in str(caught.value)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A data set of one chunk and one index, packed to one shard."""
    for name in ("raw/train/000000.torch", "raw/indices/full.json", "packed/train/shard-000000.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for folder in ("raw", "packed"):
        write_manifest(tmp_path / folder, tmp_path / folder)
    return tmp_path


def write_manifest(folder: Path, chunks: Path, **more: str) -> None:
    files = {path.relative_to(chunks): path for path in chunks.rglob("*") if path.is_file()}
    listed = {str(name): {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in files.items()}
    (folder / "manifest.json").write_text(json.dumps({"files": listed, **more}))


def test_nothing_is_said_of_what_is_as_it_was(dataset: Path) -> None:
    assert changed_data(dataset) == [] and changed_data(dataset / "none") == []


@pytest.mark.parametrize("name", ["raw/train/000000.torch", "raw/indices/full.json", "packed/train/shard-000000.bin"])
def test_another_byte_another_size_and_no_file_are_told_with_the_cure(dataset: Path, name: str) -> None:
    path, before = dataset / name, (dataset / name).read_text()
    for content, words in ((before.swapcase(), "was changed"), (before + "x", f"has {len(before) + 1} bytes instead")):
        path.write_text(content)
        (line,) = changed_data(dataset)
        assert f"{path} {words}" in line and f"dvc checkout {dataset / name.partition('/')[0]}" in line
    path.unlink()
    (line,) = changed_data(dataset)
    assert f"{path} is missing" in line


def test_large_files_are_compared_by_size_alone(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "HASHED", len("raw/indices/full.json"))
    (dataset / "raw/train/000000.torch").write_text("RAW/train/000000.torch")
    assert changed_data(dataset) == []
    (dataset / "raw/indices/full.json").write_text("RAW/indices/full.json")
    assert len(changed_data(dataset)) == 1


def test_chunks_of_the_users_own_folder_are_looked_at_where_they_are(dataset: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (dataset / "raw/train").rename(theirs)
    write_manifest(dataset / "raw", theirs, root=str(theirs))
    assert changed_data(dataset) == []
    (theirs / "000000.torch").write_text("RAW/train/000000.torch")
    assert len(changed_data(dataset)) == 1
    theirs.rename(tmp_path / "another machine has none")
    assert changed_data(dataset) == []


@pytest.mark.parametrize(
    "text", ["", "[]", '{"files": []}', '{"files": {"train/a.torch": 3}}', '{"root": 3, "files": {}}']
)
def test_a_manifest_that_is_none_is_left_to_its_reader(dataset: Path, text: str) -> None:
    (dataset / "raw/manifest.json").write_text(text)
    assert changed_data(dataset) == []
