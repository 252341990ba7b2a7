"""The time box itself, units kept beside an output, exit status 4, and values that are no time."""

import json
import time

import pytest
import torch

from novelview.config.compose import compose
from novelview.config.digest import digest
from novelview.errors import ConfigError
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
