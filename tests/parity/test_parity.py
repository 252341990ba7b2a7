"""Our outputs against recorded ones of the reference implementations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from discovery import checks_of, fixture_folders
from safetensors.torch import save_file
from transformer_fixture import compare

Check = Callable[[Path, dict[str, Any]], None]


def test_fixture(fixture_check: tuple[Path, Check]) -> None:
    folder, check = fixture_check
    check(folder, json.loads((folder / "config.json").read_text()))


def test_there_are_fixtures() -> None:
    assert fixture_folders(), "NOVELVIEW_GOLDENS names a folder without any fixture (a folder with a config.json)"


def test_a_fixture_without_a_render_fails(tmp_path: Path) -> None:
    save_file({"latents": torch.zeros(1)}, tmp_path / "outputs.safetensors")
    with pytest.raises(AssertionError, match="records no render"):
        compare(tmp_path, {"latents": torch.zeros(1), "render": torch.zeros(1)})


def test_an_altered_output_fails_and_an_equal_one_does_not(tmp_path: Path) -> None:
    ours = {"latents": torch.ones(2, 3), "render": torch.full((1, 2, 3, 4, 4), 0.5)}
    save_file(ours, tmp_path / "outputs.safetensors")
    compare(tmp_path, ours)
    for name in ours:
        altered = {**ours, name: ours[name].clone()}
        altered[name].view(-1)[-1] += 1e-4
        with pytest.raises(AssertionError, match=name):
            compare(tmp_path, altered)


def test_an_unknown_kind_fails(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"fixture": "wavelet"}')
    (check,) = checks_of("wavelet").values()
    with pytest.raises(pytest.fail.Exception, match="wavelet"):
        check(tmp_path, {})
