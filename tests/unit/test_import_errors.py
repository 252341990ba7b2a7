"""Mistakes in imported collections: one line that names the file and the key. Chunks on disk are checked too. Imports
never destroy the user's files, and odd pictures and models are read right or refused."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from import_samples import fake_model, lact, nerf, picture, run
from PIL import Image

from novelview.config.sources import ChunksSource, ColmapSource, OpencvCamerasSource, PhotosSource, TransformsSource
from novelview.config.stages import DownloadStage
from novelview.errors import ConfigError, DataError, NovelviewError
from novelview.files import sha256
from novelview.scenes.chunks import read_chunk, read_raw
from novelview.scenes.imports import camera_lists, colmap, photographs
from novelview.scenes.imports.scene import eight_bit
from novelview.scenes.imports.write import choose_held_out
from novelview.stages.download import download


def chunks(folder: Path) -> Path:
    made = run(TransformsSource(held_out=2), nerf(folder / "in", 6), folder / "made")
    (made / "manifest.json").unlink()
    return made


def test_chunks_are_listed_where_they_lie(tmp_path):
    made = chunks(tmp_path)
    source = ChunksSource(indices={"small": "indices/held_out.json"})
    out = run(source, made, tmp_path / "raw")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["root"] == str(made) and manifest["files"]["train/000000.torch"]["bytes"] > 0
    assert manifest["files"]["test/000000.torch"]["sha256"] == sha256(made / "test" / "000000.torch")
    assert (out / "indices" / "small.json").read_bytes() == (made / "indices" / "held_out.json").read_bytes()
    assert not list(out.rglob("*.torch"))


def drop_chunk(made: Path) -> None:
    (made / "test" / "000000.torch").unlink()


def extra_chunk(made: Path) -> None:
    (made / "test" / "000001.torch").write_bytes(b"x")


def wrong_index(made: Path) -> None:
    (made / "test" / "index.json").write_text("[1]")


@pytest.mark.parametrize("damage", [drop_chunk, extra_chunk, wrong_index])
def test_chunks_and_index_must_agree(tmp_path, damage):
    made = chunks(tmp_path)
    damage(made)
    with pytest.raises(DataError) as caught:
        run(ChunksSource(), made, tmp_path / "raw")
    assert "\n" not in str(caught.value) and str(made / "test") in str(caught.value)


def test_a_missing_index_is_made_beside_the_data_not_among_them(tmp_path, caplog):
    made = chunks(tmp_path)
    given = json.loads((made / "test" / "index.json").read_text())
    (made / "test" / "index.json").unlink()
    before = everything(made)
    out = run(ChunksSource(), made, tmp_path / "raw")
    assert json.loads((out / "test" / "index.json").read_text()) == given and everything(made) == before
    assert "has no index.json" in caplog.text and not (out / "train").exists()
    assert set(read_raw(out).chunks) == {"train", "test"}


def test_unknown_index_is_named(tmp_path):
    with pytest.raises(DataError, match=r"source\.indices\.small=nowhere"):
        run(ChunksSource(indices={"small": "nowhere"}), chunks(tmp_path), tmp_path / "raw")


NERF_ERRORS = {
    "no focal length": ({"fl_x": None}, {}, "neither 'fl_x' nor 'camera_angle_x'"),
    "focal length of the wrong type": ({"fl_x": "long"}, {}, "'fl_x' is 'long', not a number"),
    "negative focal length": ({"fl_x": -5.0}, {}, "focal length 'fl_x' is -5.0"),
    "absurd field of view": ({"fl_x": None, "camera_angle_x": 4.0}, {}, "between 0 and pi"),
    "no frames": ({"frames": None}, {}, "holds no list of frames"),
    "empty frames": ({"frames": []}, {}, "holds no list of frames"),
    "no file path": ({}, {"file_path": None}, "key 'file_path' is missing"),
    "no matrix": ({}, {"transform_matrix": None}, "key 'transform_matrix' is missing"),
    "ragged matrix": ({}, {"transform_matrix": [[1, 2], [3]]}, "no finite 4x4 matrix"),
    "scaled rotation": ({}, {"transform_matrix": (2 * np.eye(4)).tolist()}, "not orthonormal"),
    "mirrored rotation": ({}, {"transform_matrix": np.diag([1, 1, -1, 1]).tolist()}, "not orthonormal"),
    "nan in matrix": ({}, {"transform_matrix": (np.eye(4) * float("nan")).tolist()}, "no finite 4x4"),
    "unknown camera model": ({"camera_model": "EQUIRECTANGULAR"}, {}, "camera_model EQUIRECTANGULAR"),
    "another shape of picture": ({"w": 48, "h": 64}, {}, "picture of 64x48 but its camera says 48x64"),
    "folding distortion": ({"k1": -80.0}, {}, "cannot be removed"),
    "too many held out": ({}, {}, "source.held_out"),
}


@pytest.mark.parametrize("name", NERF_ERRORS)
def test_transforms_errors_are_one_line(tmp_path, name):
    top, frame, message = NERF_ERRORS[name]
    folder = nerf(tmp_path / "in", 6, frame, **top)
    held_out = 5 if name == "too many held out" else 2
    with pytest.raises(DataError) as caught:
        run(TransformsSource(held_out=held_out), folder, tmp_path / "raw")
    assert message in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "raw").exists()


def test_repeated_frames_are_refused(tmp_path):
    folder = nerf(tmp_path, 4)
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"].append(content["frames"][0])
    (folder / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="named twice"):
        camera_lists.load_transforms(folder, TransformsSource())


LACT_ERRORS = {
    "no w2c": ({"w2c": None}, "key 'w2c' is missing"),
    "no focal length": ({"fx": None}, "key 'fx' is missing"),
    "no path": ({"file_path": ""}, "key 'file_path' is missing"),
    "no picture": ({"file_path": "gone.png"}, "pictures do not exist, first gone.png"),
    "sheared": ({"w2c": (np.eye(4) + np.eye(4, k=1)).tolist()}, "not orthonormal"),
}


@pytest.mark.parametrize("name", LACT_ERRORS)
def test_opencv_camera_errors_are_one_line(tmp_path, name):
    frame, message = LACT_ERRORS[name]
    with pytest.raises(DataError) as caught:
        run(OpencvCamerasSource(held_out=2), lact(tmp_path / "in", 6, **frame), tmp_path / "raw")
    assert message in str(caught.value) and "\n" not in str(caught.value)


SOURCES = [TransformsSource, OpencvCamerasSource, ColmapSource, PhotosSource, ChunksSource]


@pytest.mark.parametrize("source", SOURCES)
def test_missing_and_empty_folders_are_one_line(tmp_path, source):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError) as caught:
            run(source(), path, tmp_path / "out" / "raw")
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("source", SOURCES)
def test_a_path_is_asked_for(tmp_path, source):
    with pytest.raises(ConfigError, match="path=FOLDER"):
        download(DownloadStage(source=source(), path=None, dataset="d", io={"out": str(tmp_path / "raw")}))


@pytest.mark.parametrize("source", [TransformsSource, OpencvCamerasSource])
def test_broken_json_is_named(tmp_path, source):
    for name in ("transforms.json", "opencv_cameras.json"):
        (tmp_path / name).write_text("{")
    with pytest.raises(NovelviewError, match="not valid JSON"):
        run(source(), tmp_path, tmp_path / "raw")


@pytest.mark.parametrize("size", [(48, 64), (128, 96), (60, 40), (90, 48), (64, 30)])
def test_pictures_of_other_sizes_are_cut_to_the_size_of_most_with_their_cameras(tmp_path, caplog, size):
    folder = lact(tmp_path / "in", 6)
    ramp = np.stack(np.broadcast_arrays(*np.ogrid[0 : size[1], 0 : size[0]], 128), -1).astype(np.float32)
    colours = np.clip(ramp * (255 / size[1], 255 / size[0], 1), 0, 255).astype(np.uint8)
    Image.fromarray(colours).save(folder / "renderings" / "00000004.png")
    out = run(OpencvCamerasSource(held_out=2), folder, tmp_path / "raw")
    (scene,) = read_chunk(out / "test" / "000000.torch")
    found = np.asarray(Image.open(io.BytesIO(bytes(scene.images[4].tolist()))), float)
    assert found.shape == (48, 64, 3) and "scaled and cut to 64x48" in caplog.text
    assert json.loads((out / "import.json").read_text())["fitted"] == ["renderings/00000004.png"]
    # The ray through a pixel still meets the same colour: the ramps tell which pixel of the file it was.
    fx, fy, cx, cy = (scene.cameras[4, :4].double() * torch.tensor([64, 48, 64, 48])).tolist()
    for column, row in ((20, 16), (32, 24), (50, 40)):
        across, down = (column + 0.5 - cx) / fx * 50 + 30, (row + 0.5 - cy) / fy * 55 + 25
        wanted = (down - 0.5) * 255 / size[1], (across - 0.5) * 255 / size[0]
        assert np.abs(found[row, column, :2] - wanted).max() < 6


def test_unreadable_photograph_is_named(tmp_path):
    for row in range(4):
        picture(tmp_path / "in" / f"p{row}.jpg", row)
    whole = (tmp_path / "in" / "p2.jpg").read_bytes()
    (tmp_path / "in" / "p2.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"p2\.jpg: unreadable photograph"):
        run(PhotosSource(held_out=1), tmp_path / "in", tmp_path / "raw")


@pytest.mark.parametrize("wrong", [{"jpeg_quality": 0}, {"max_side": -1}, {"background": 2.0}])
def test_values_out_of_range_are_named(tmp_path, wrong):
    with pytest.raises(ConfigError, match=rf"source\.{next(iter(wrong))}="):
        run(OpencvCamerasSource(held_out=2, **wrong), lact(tmp_path / "in", 6), tmp_path / "raw")


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


@pytest.mark.parametrize("size", [(48, 64), (128, 96)])
def test_photographs_of_two_sizes_have_a_lens_a_size(tmp_path: Path, monkeypatch, size) -> None:
    jobs = []
    model = fake_model("1 PINHOLE 64 48 50 50 32 24\n2 PINHOLE {} {} 50 50 24 32\n".format(*size), lens=[1, 1, 2, 1])
    monkeypatch.setattr(photographs, "run_apart", lambda job, *rest: jobs.append(job) or model(job, *rest))
    for row in range(4):
        picture(tmp_path / "in" / f"{row}.png", row, size if row == 2 else (64, 48))
    run(PhotosSource(held_out=1), tmp_path / "in", tmp_path / "raw")
    groups = [[int(name[:6]) for name in group["names"]] for group in jobs[0]["cameras"]]
    assert groups == [[0, 1, 3], [2]] and [int(name[:6]) for name in jobs[0]["names"]] == [0, 1, 2, 3]
    run(PhotosSource(held_out=1, single_camera=False), tmp_path / "in", tmp_path / "own")
    assert "cameras" not in jobs[1] and not jobs[1]["single_camera"]


def test_file_names_need_not_be_utf8(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(photographs, "run_apart", fake_model("1 PINHOLE 64 48 50 50 32 24\n"))
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
