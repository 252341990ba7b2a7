"""What planning keeps between calls is what composition gives, and never outlives its sources."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from novelview.config import memo, planned
from novelview.config.compose import compose, conf_dir, digest
from novelview.errors import ConfigError

CASES = [
    ("train", ["model=lact", "phase=finetune"]),
    ("train", ["model=uplvsm", "scale=paper", "train.lr=1e-3"]),
    ("download", ["source=rooms"]),
    ("evaluate", ["eval=views", "io.weights=-", "io.out=-"]),
    ("figures", ["study=lact", "figure=views", "io.out=-"]),
]


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    memo._sweep.cache_clear()
    yield tmp_path / "novelview" / "plan"
    memo._sweep.cache_clear()


@pytest.mark.parametrize(("stage", "words"), CASES)
def test_what_is_read_back_is_what_was_composed(stage: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = compose(stage, words)
    cold = planned.planned(stage, words)
    monkeypatch.setattr(planned, "compose", lambda *_: pytest.fail("composed again"))
    warm = planned.planned(stage, words)
    assert fresh == cold == warm
    assert planned.planned_digest(warm) == digest(fresh)


def test_an_edit_of_the_tree_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(conf_dir(), tmp_path / "conf")
    monkeypatch.setenv("NOVELVIEW_CONF", str(tmp_path / "conf"))
    before = planned.planned("evaluate", ["io.weights=-", "io.out=-"])
    (tmp_path / "conf" / "eval" / "rooms.yaml").write_text("# @package eval\nsplits: [gap23]\n")
    after = planned.planned("evaluate", ["io.weights=-", "io.out=-"])
    assert after.eval.splits == ["gap23"] != before.eval.splits


def test_a_mistake_is_not_kept(kept: Path) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="sttps"):
            planned.planned("train", ["train.sttps=3"])
    assert not list(kept.glob("*"))


def test_a_damaged_entry_is_made_again(kept: Path) -> None:
    assert memo.recall("key", lambda: [1]) == [1]
    next(kept.iterdir()).write_text("[1")
    assert memo.recall("key", lambda: [2]) == [2]


def test_where_nothing_can_be_kept_the_answer_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert memo.recall("key", lambda: 1) == 1
    assert memo.recall("key", lambda: 2) == 2


def test_old_entries_go(kept: Path) -> None:
    memo.recall("old", lambda: 1)
    long_ago = time.time() - (memo.KEEP_DAYS + 1) * 86400
    os.utime(next(kept.iterdir()), (long_ago, long_ago))
    memo._sweep.cache_clear()
    memo.recall("new", lambda: 1)
    assert len(list(kept.iterdir())) == 1
