"""Imports never destroy the user's files, and odd pictures and models are read right or refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from import_samples import fake_model, nerf, picture, run
from PIL import Image

from novelview.config.sources import ColmapSource, PhotosSource, TransformsSource
from novelview.errors import ConfigError, DataError, NovelviewError
from novelview.scenes.imports import colmap
from novelview.scenes.imports.scene import eight_bit
from novelview.scenes.imports.write import choose_held_out

SOURCE = TransformsSource(held_out=2)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("inside", ["", "collection"])
def test_the_source_is_never_replaced_by_its_import(tmp_path: Path, inside: str) -> None:
    nerf(tmp_path / "mine" / inside)
    before = everything(tmp_path)
    with pytest.raises(ConfigError, match="holds the source"):
        run(SOURCE, tmp_path / "mine" / inside, tmp_path / "mine")
    assert everything(tmp_path) == before


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    nerf(tmp_path / "in")
    picture(tmp_path / "holiday" / "beach.png")
    with pytest.raises(ConfigError, match=r"beach\.png, which no download made"):
        run(SOURCE, tmp_path / "in", tmp_path / "holiday")
    assert (tmp_path / "holiday" / "beach.png").exists()


def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    nerf(tmp_path / "in")
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        run(SOURCE, tmp_path / "in", tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    found = np.asarray(eight_bit(Image.fromarray(grey)))
    assert np.array_equal(found[..., 0], np.round(grey / 257)) and found.shape == (16, 16, 3)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, mode: str) -> None:
    folder = nerf(tmp_path / "in")
    Image.new(mode, (64, 48)).save(folder / "images" / "img3.tif")
    text = (folder / "transforms.json").read_text().replace("img3.png", "img3.tif")
    (folder / "transforms.json").write_text(text)
    with pytest.raises(DataError, match=r"img3\.tif.*32 bits"):
        run(SOURCE, folder, tmp_path / "raw")


@pytest.mark.parametrize(("key", "value"), [("cx", 1e30), ("transform_matrix", 1e300)])
def test_cameras_beyond_float32_are_refused(tmp_path: Path, key: str, value: float) -> None:
    folder = nerf(tmp_path / "in")
    content = json.loads((folder / "transforms.json").read_text())
    if key == "cx":
        content["cx"] = value
    else:
        content["frames"][0][key][0][3] = value
    (folder / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"img\d\.png: its (principal point|camera stands)"):
        run(SOURCE, folder, tmp_path / "raw")


def text_model(folder: Path, camera: str, points: str = "\n") -> Path:
    folder.mkdir()
    (folder / "cameras.txt").write_text(camera)
    (folder / "images.txt").write_text("".join(f"{row} 1 0 0 0 {row} 0 0 1 {row}.png\n{points}" for row in range(1, 5)))
    return folder


@pytest.mark.parametrize("camera", ["1 PINHOLE 0 0 9 9 4 4", "1 PINHOLE -8 -8 9 9 4 4", "1 PINHOLE 8 8 9 -9 4 4"])
def test_cameras_without_pixels_or_with_a_negative_focal_length_are_refused(tmp_path: Path, camera: str) -> None:
    with pytest.raises(DataError, match=r"cameras\.txt: camera model PINHOLE"):
        colmap.read_model(text_model(tmp_path / "m", camera))


def test_a_text_model_without_its_lines_of_points_is_refused_not_halved(tmp_path: Path) -> None:
    camera = "1 PINHOLE 8 8 9 9 4 4"
    assert len(colmap.read_model(text_model(tmp_path / "whole", camera))[1]) == 4
    assert len(colmap.read_model(text_model(tmp_path / "points", camera, "1.5 2.5 -1\n"))[1]) == 4
    with pytest.raises(DataError, match=r"images\.txt.*line of points"):
        colmap.read_model(text_model(tmp_path / "halved", camera, ""))


def test_photographs_of_two_orientations_are_refused_before_the_reconstruction(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(colmap, "run_apart", lambda *_: pytest.fail("reconstructed"))
    for row in range(4):
        picture(tmp_path / "in" / f"{row}.png", row, (48, 64) if row == 2 else (64, 48))
    with pytest.raises(DataError, match=r"2\.png: 48x64, but 0\.png is 64x48.*orientations"):
        run(PhotosSource(held_out=1), tmp_path / "in", tmp_path / "raw")


def test_photographs_of_two_resolutions_ask_for_several_cameras(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(colmap, "run_apart", fake_model("1 PINHOLE 64 48 50 50 32 24\n"))
    for row in range(4):
        picture(tmp_path / "in" / f"{row}.png", row, (128, 96) if row == 2 else (64, 48))
    with pytest.raises(DataError, match=r"single_camera=false"):
        run(PhotosSource(held_out=1), tmp_path / "in", tmp_path / "raw")
    run(PhotosSource(held_out=1, single_camera=False, max_side=32), tmp_path / "in", tmp_path / "raw")


def test_file_names_need_not_be_utf8(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(colmap, "run_apart", fake_model("1 PINHOLE 64 48 50 50 32 24\n"))
    for row in range(4):
        picture(tmp_path / "in" / f"{row}.png", row)
    os.rename(tmp_path / "in" / "1.png", os.fsencode(tmp_path / "in") + b"/\xff1.png")
    run(PhotosSource(held_out=1), tmp_path / "in", tmp_path / "raw")
    assert len(json.loads((tmp_path / "raw" / "import.json").read_text())["pictures"]) == 4


def test_a_model_of_other_pictures_is_refused(tmp_path: Path) -> None:
    model = text_model(tmp_path / "m", "1 PINHOLE 64 48 50 50 32 24")
    for row in range(1, 5):
        picture(model / "images" / f"{row}.png", row, (48, 48))
    with pytest.raises(NovelviewError, match=r"picture of 48x48 but its camera says 64x48"):
        run(ColmapSource(held_out=1), model, tmp_path / "raw")


def test_too_few_pictures_say_how_many_are_needed() -> None:
    with pytest.raises(DataError, match="at least 3 are needed"):
        choose_held_out(2, 1)
