"""Imports: axes and intrinsics against independent formulas, and the data set they become."""

import io
import json
import math

import numpy as np
import pytest
from import_samples import lact, nerf, picture, poses, run
from PIL import Image

from novelview.config.sources import OpencvCamerasSource, TransformsSource
from novelview.errors import DataError
from novelview.files import sha256
from novelview.scenes.chunks import read_chunk
from novelview.scenes.imports import camera_lists
from novelview.scenes.imports.scene import Lens, flatten, natural
from novelview.scenes.imports.write import choose_held_out, held_out_entries
from novelview.scenes.views import load_index


def test_transforms_become_opencv_cameras_in_natural_order(tmp_path):
    out = run(TransformsSource(held_out=2), nerf(tmp_path / "in", 11), tmp_path / "raw")
    (scene,) = read_chunk(out / "test" / "000000.torch")
    expected = np.stack([np.linalg.inv(pose)[:3].flatten() for pose in poses(11)])
    assert np.allclose(scene.cameras[:, 6:], expected, atol=1e-6)
    assert np.allclose(scene.cameras[:, :6], [50 / 64, 55 / 48, 30 / 64, 25 / 48, 0, 0])
    assert json.loads((out / "import.json").read_text())["pictures"] == [f"images/img{i}.png" for i in range(1, 12)]


def test_field_of_view_replaces_a_missing_focal_length(tmp_path):
    folder = nerf(tmp_path, 4, fl_x=None, fl_y=None, cx=None, cy=None, w=None, h=None, camera_angle_x=math.pi / 2)
    lens = camera_lists.load_transforms(folder, TransformsSource()).frames[0].lens
    assert (lens.width, lens.height) == (64, 48)
    assert np.allclose([lens.fx, lens.fy, lens.cx, lens.cy], [32, 32, 32, 24])


def test_frames_may_have_their_own_lens(tmp_path):
    folder = nerf(tmp_path, 4, frame={"fl_x": 70.0, "k1": 0.1, "p2": 0.01})
    scene = camera_lists.load_transforms(folder, TransformsSource())
    lens = scene.frames[0].lens
    assert (lens.fx, lens.fy, lens.radial, lens.tangential) == (70.0, 55.0, (0.1, 0, 0, 0), (0.0, 0.01))


@pytest.mark.parametrize("keys", [{"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}])
def test_fisheye_is_recognised(tmp_path, keys):
    scene = camera_lists.load_transforms(nerf(tmp_path, 4, **keys), TransformsSource())
    assert scene.frames[0].lens.model == "OPENCV_FISHEYE"


def test_names_without_suffix_are_found(tmp_path):
    folder = nerf(tmp_path, 4)
    file = folder / "transforms.json"
    file.write_text(file.read_text().replace(".png", ""))
    assert camera_lists.load_transforms(folder, TransformsSource()).frames[0].path.name == "img1.png"


def test_missing_pictures_are_an_error_unless_allowed_and_then_listed(tmp_path):
    folder = nerf(tmp_path / "in", 8)
    (folder / "images" / "img3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 8 pictures do not exist, first images/img3\.png"):
        camera_lists.load_transforms(folder, TransformsSource())
    out = run(TransformsSource(held_out=2, allow_missing=True), folder, tmp_path / "raw")
    assert json.loads((out / "import.json").read_text())["missing"] == ["images/img3.png"]
    assert json.loads((out / "manifest.json").read_text())["import"]["missing"] == 1
    assert len(read_chunk(out / "test" / "000000.torch")[0].images) == 7


def test_distortion_is_removed_and_the_new_focal_length_written(tmp_path):
    folder = nerf(tmp_path / "in", 6, fl_x=60.0, fl_y=60.0, cx=32.0, cy=24.0, k1=-0.15)
    out = run(TransformsSource(held_out=2), folder, tmp_path / "raw")
    flat = flatten(Lens(64, 48, 60, 60, 32, 24, (-0.15, 0, 0, 0)))
    assert np.allclose(read_chunk(out / "test" / "000000.torch")[0].cameras[0, :4], flat.normalised())


def test_pictures_may_be_smaller_copies(tmp_path):
    out = run(TransformsSource(held_out=2), nerf(tmp_path / "in", 6, w=128, h=96), tmp_path / "raw")
    assert np.allclose(read_chunk(out / "test" / "000000.torch")[0].cameras[0, :2], [50 / 128, 55 / 96])


def test_layout_and_evaluation_entries(tmp_path):
    out = run(TransformsSource(held_out=3), nerf(tmp_path / "in", 11), tmp_path / "raw")
    (test,), (train,) = (read_chunk(out / split / "000000.torch") for split in ("test", "train"))
    held_out = choose_held_out(11, 3)
    kept = [row for row in range(11) if row not in held_out]
    assert test.key == train.key and train.timestamps.tolist() == kept
    assert [bytes(i.tolist()) for i in train.images] == [bytes(test.images[row].tolist()) for row in kept]
    assert json.loads((out / "scenes.json").read_text()) == {test.key: {"set": "held_out"}}
    entries = load_index(out / "indices" / "held_out.json")
    assert [entry.target for entry in entries] == [(row,) for row in held_out]
    for entry in entries:
        assert entry.context[0] < entry.target[0] < entry.context[1] and not set(entry.context) & set(held_out)


def test_manifest_is_complete_and_a_second_import_agrees(tmp_path):
    folder = nerf(tmp_path / "in", 8)
    first = run(TransformsSource(held_out=2), folder, tmp_path / "a")
    second = run(TransformsSource(held_out=2), folder, tmp_path / "b")
    manifest = json.loads((first / "manifest.json").read_text())
    found = {str(p.relative_to(first)) for p in first.rglob("*") if p.is_file()} - {"manifest.json", ".source"}
    assert set(manifest["files"]) == found and manifest["source"]["kind"] == "transforms"
    assert all(sha256(first / name) == entry["sha256"] for name, entry in manifest["files"].items())
    assert json.loads((second / "manifest.json").read_text()) == manifest


def test_scene_key_depends_on_data_set_and_content(tmp_path):
    folder = nerf(tmp_path / "in", 6)
    keys = [
        set(json.loads((run(TransformsSource(held_out=2), folder, tmp_path / n, n) / "scenes.json").read_text()))
        for n in "ab"
    ]
    picture(folder / "images" / "img1.png", 77)
    third = set(
        json.loads((run(TransformsSource(held_out=2), folder, tmp_path / "c", "a") / "scenes.json").read_text())
    )
    assert len(keys[0] | keys[1] | third) == 3 and all(len(key) == 16 for key in keys[0])


def test_pictures_are_shrunk_to_the_longer_side(tmp_path):
    out = run(TransformsSource(held_out=2, max_side=32), nerf(tmp_path / "in", 6), tmp_path / "raw")
    (scene,) = read_chunk(out / "test" / "000000.torch")
    image = Image.open(io.BytesIO(bytes(scene.images[0].tolist())))
    assert image.size == (32, 24) and image.format == "JPEG"
    assert np.allclose(scene.cameras[0, :4], [50 / 64, 55 / 48, 30 / 64, 25 / 48])


def test_download_again_replaces_the_old_folder_whole(tmp_path):
    out = run(TransformsSource(held_out=2), nerf(tmp_path / "in", 8), tmp_path / "raw")
    (out / "train" / "stranger").write_text("old")
    run(TransformsSource(held_out=2), tmp_path / "in", out)
    assert (
        not (out / "train" / "stranger").exists()
        and [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    )


def test_failed_download_leaves_the_old_data(tmp_path):
    out = run(TransformsSource(held_out=2), nerf(tmp_path / "in", 8), tmp_path / "raw")
    before = (out / "manifest.json").read_text()
    (tmp_path / "in" / "images" / "img5.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"img5\.png: unreadable picture"):
        run(TransformsSource(held_out=2), tmp_path / "in", out)
    assert (out / "manifest.json").read_text() == before and not (tmp_path / ".raw.partial").exists()


def test_transparent_pixels_show_the_background(tmp_path):
    folder = lact(tmp_path / "in", 6)
    for row in range(6):
        Image.new("RGBA", (64, 48), (200, 0, 0, 0)).save(folder / "renderings" / f"{row:08d}.png")
    out = run(OpencvCamerasSource(held_out=2, background=0.5), folder, tmp_path / "raw")
    image = read_chunk(out / "test" / "000000.torch")[0].images[0]
    assert Image.open(io.BytesIO(bytes(image.tolist()))).getpixel((30, 20)) == (128, 128, 128)


def test_opencv_cameras_are_read_in_pixels_of_the_stored_picture(tmp_path):
    out = run(OpencvCamerasSource(held_out=2), lact(tmp_path / "in", 6), tmp_path / "raw")
    (scene,) = read_chunk(out / "test" / "000000.torch")
    assert np.allclose(scene.cameras[2, :4], [50 / 64, 55 / 48, 30 / 64, 25 / 48])
    assert np.allclose(scene.cameras[2, 6:], np.linalg.inv(poses(6)[2])[:3].flatten(), atol=1e-6)


@pytest.mark.parametrize(("frames", "held_out"), [(50, 10), (4, 2), (3, 1), (24, 12), (101, 7)])
def test_held_out_frames_are_spaced_and_inside(frames, held_out):
    chosen = choose_held_out(frames, held_out)
    assert len(set(chosen)) == held_out and chosen[0] > 0 and chosen[-1] < frames - 1
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(("frames", "held_out"), [(10, 6), (3, 2), (10, 0)])
def test_too_many_held_out_frames_are_refused(frames, held_out):
    with pytest.raises(DataError, match=r"source\.held_out"):
        choose_held_out(frames, held_out)


def test_contexts_stand_nearest_on_both_sides():
    centres = np.array([[0, 0, 0], [5, 0, 0], [3.1, 0, 0], [3, 0, 0], [9, 0, 0], [3.2, 0, 0]], float)
    (entry,) = held_out_entries("s", centres, [3])
    assert entry.context == (2, 5) and entry.target == (3,)
    (entry,) = held_out_entries("s", centres, [3], context_gap=4)
    assert entry.context == (1, 5)


def test_natural_order():
    assert sorted(["img10", "img9", "img1b", "a2/9", "a2/10"], key=natural) == [
        "a2/9",
        "a2/10",
        "img1b",
        "img9",
        "img10",
    ]


@pytest.mark.parametrize(
    ("lens", "told"),
    [
        ({"fl_x": 600.0, "fl_y": 600.0, "cx": 64.0, "cy": 48.0, "w": None, "h": None}, "principal point lies outside"),
        ({"cx": -3.0}, "principal point lies outside"),
        ({"fl_x": 3000.0}, "focal lengths of 46.9 widths"),
        ({"fl_x": 2.0, "fl_y": 2.0}, "focal lengths of 0.0312 widths"),
    ],
)
def test_a_lens_that_no_camera_has_is_one_line(tmp_path, lens: dict, told: str) -> None:
    nerf(tmp_path / "in", 4, **lens)
    with pytest.raises(DataError) as caught:
        run(TransformsSource(held_out=1), tmp_path / "in", tmp_path / "out")
    assert told in str(caught.value) and "img1.png" in str(caught.value) and "\n" not in str(caught.value)
