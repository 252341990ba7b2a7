"""What Snakemake cannot see: files of a data folder that are not as its manifest has them."""

import json
from pathlib import Path

import pytest

import guard
from guard import changed_data
from novelview.files import sha256


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
