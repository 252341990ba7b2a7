"""The time box itself, units kept beside an output, exit status 4, and values that are no time. Files that appear
whole or not at all, and what is said when they cannot. What Snakemake cannot see: files of a data folder that are
not as its manifest has them."""

import errno
import json
import time
from pathlib import Path

import pytest
import torch

import guard
from guard import changed_data
from novelview.config.compose import compose
from novelview.config.digest import digest
from novelview.errors import ConfigError, DataError
from novelview.files import read_json, replacing, require_writable, sha256, write_bytes
from novelview.stages import cli
from novelview.stages.cli import run_stage
from novelview.timebox import BoxEnded, TimeBox, Unfinished, resuming_folder, stamp_of


def test_a_box_ends_when_its_minutes_or_its_moment_are_over() -> None:
    assert not TimeBox().over and not TimeBox().limited
    assert not TimeBox(10).over and TimeBox(1e-9).over
    assert TimeBox(stop_at=time.time() - 1).over and not TimeBox(stop_at=time.time() + 100).over


def test_a_call_finishes_one_unit_however_short_its_box() -> None:
    box = TimeBox(1e-9)
    box.check()
    with pytest.raises(BoxEnded, match="1 finished"):
        box.unit()


@pytest.mark.parametrize("key", ["max_minutes", "stop_at"])
@pytest.mark.parametrize("value", ["-1", "-0.5", "nan", "inf", "soon"])
def test_values_that_are_no_time_are_one_line(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"runtime\.{key}|{key}") as caught:
        compose("figures", ["study=less3depend", "figure=gaps", "io.out=x", f"runtime.{key}={value}"])
    assert "\n" not in str(caught.value)


def test_the_box_is_no_result_bearing_value() -> None:
    words = ["study=less3depend", "figure=gaps", "io.out=x"]
    plain, boxed = (digest(compose("figures", [*words, *more])) for more in ([], ["runtime.max_minutes=3"]))
    assert plain == boxed


def test_a_stage_whose_box_ended_has_status_4_and_says_so(tmp_path, monkeypatch, capsys) -> None:
    def body(_: object) -> int:
        raise BoxEnded("3 finished in this call")

    monkeypatch.setenv(cli.ENDINGS, str(tmp_path / "endings"))
    assert run_stage("figures", body, ["study=less3depend", "figure=gaps", "io.out=x"]) == 4
    error = capsys.readouterr().err
    assert error == "figures: its time box is over: 3 finished in this call; run again to go on\n"
    with pytest.raises(RuntimeError):
        run_stage(
            "figures", lambda _: (_ for _ in ()).throw(RuntimeError()), ["study=less3depend", "figure=gaps", "io.out=x"]
        )
    assert (tmp_path / "endings").read_text() == "figures 4\nfigures 1\n"


def test_units_belong_to_a_stamp_and_damaged_ones_are_gone(tmp_path) -> None:
    units = Unfinished(tmp_path / "out", "one")
    assert units.read("a") is None and not units.folder.exists()
    units.keep("a", b"first")
    units.keep_json("b", {"x": [1.5]})
    again = Unfinished(tmp_path / "out", "one")
    assert again.read("a") == b"first" and again.read_json("b") == {"x": [1.5]}
    path = units.folder / "a"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert again.read("a") is None and again.read_json("b") == {"x": [1.5]}
    assert Unfinished(tmp_path / "out", "two").read_json("b") is None and not units.folder.exists()


@pytest.mark.parametrize("kept", [True, False])
def test_a_folder_with_units_stays_unfinished_after_its_box_and_after_an_error(tmp_path, kept: bool) -> None:
    final = tmp_path / "raw"
    for end in (BoxEnded, ValueError, torch.OutOfMemoryError, KeyboardInterrupt):
        with pytest.raises(end), resuming_folder(final, "s") as (folder, units):
            (folder / "file").write_text("x")
            if kept:
                units.keep("file", b"")
            raise end
        assert (tmp_path / ".raw.partial/file").exists() == kept == units.folder.exists()
        assert not final.exists()
    with resuming_folder(final, "s") as (folder, units):
        (folder / "file").write_text("y")
        units.keep("file", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"] and (final / "file").read_text() == "y"


def test_another_stamp_begins_anew(tmp_path) -> None:
    with pytest.raises(BoxEnded), resuming_folder(tmp_path / "raw", "one") as (folder, units):
        (folder / "old").write_text("x")
        units.keep("old", b"")
        raise BoxEnded
    with resuming_folder(tmp_path / "raw", "two") as (folder, units):
        assert list(folder.iterdir()) == [] and units.read("old") is None


def test_a_stamp_depends_on_every_part() -> None:
    assert stamp_of("a", {"b": 1}) == stamp_of("a", json.loads('{"b": 1}')) != stamp_of("a", {"b": 2})


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
