"""Files that appear whole or not at all, and what is said when they cannot."""

import errno
import json
from pathlib import Path

import pytest

from novelview.errors import ConfigError, DataError
from novelview.files import read_json, replacing, require_writable, write_bytes


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
