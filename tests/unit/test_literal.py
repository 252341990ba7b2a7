"""Paths with any characters survive the command line; numbers and paths that nothing can use are one line."""

from pathlib import Path

import pytest

from novelview.config.compose import compose, quoted
from novelview.config.digest import digest
from novelview.errors import ConfigError

PATHS = [
    *("/a b/c", "/a,b", "/a(b)", "/a=b", "/a[b]", "[ab]", "{a}", "/don't", '/d"q', "/a#b", "/für/日本", "/a&b;c!"),
    *("back\\slash", "end\\", "quote\\'s", " lead and trail ", "2024", "true"),
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_arrives_as_it_was_written(path: str) -> None:
    config = compose("download", ["source=photos", f"path={path}", f"io.out={path}"])
    assert (config.path, config.io["out"]) == (path, path)


def test_the_home_folder_is_expanded_wherever_a_shell_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert compose("download", ["source=photos", "path=~/Pictures"]).path == "/home/someone/Pictures"
    assert compose("train", ["model.dino.weights=~/d.pth"]).model.dino.weights == "/home/someone/d.pth"


def test_what_is_no_path_or_already_quoted_is_left_alone() -> None:
    words = ["train.lr=1e-3", "io.inputs=[a,b]", "path='a b'", "io.init=null", "+io.x", "eval.splits=[small]"]
    assert [quoted(word) for word in words] == words


def test_quoting_leaves_digests_alone() -> None:
    plain, quoted = ([f"path={quote}/data/x{quote}", "source=photos"] for quote in ("", "'"))
    assert digest(compose("download", plain)) == digest(compose("download", quoted))


@pytest.mark.parametrize(
    ("stage", "override", "words"),
    [
        ("train", "io.out=null", "io.out is empty"),
        ("train", "io.init=", "io.init is empty"),
        ("evaluate", "io.weights=null", "io.weights is empty"),
        ("train", "train.lr=inf", "train.lr=inf"),
        ("train", "train.seed=-1", "train.seed=-1"),
        ("train", "train.seed=99999999999999999999", "64 bits"),
        ("train", "train.beta1=1.5", "train.beta1=1.5"),
        ("train", "model.encoder_n_layer=-1", "model.encoder_n_layer=-1"),
        ("train", "model.dino.num_register_tokens=-1", "num_register_tokens=-1"),
        ("train", "dataset=../up", "dataset=../up"),
        ("evaluate", "eval.video_frames=1", "eval.video_frames=1"),
        ("evaluate", "eval.seed=-1", "eval.seed=-1"),
    ],
)
def test_a_value_nothing_can_use_is_named(stage: str, override: str, words: str) -> None:
    needed = ["io.weights=w", "io.out=o"] if stage == "evaluate" else []
    with pytest.raises(ConfigError) as caught:
        compose(stage, [*needed, override])
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["source.min_registered=2", "source.context_gap=-3", "source.max_side=-1"])
def test_photographs_options_out_of_range_are_named(wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        compose("download", ["source=photos", f"path={Path.cwd()}", wrong])
