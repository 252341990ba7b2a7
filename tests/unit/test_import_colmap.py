"""COLMAP models read as pycolmap reads them; photographs reconstructed in a process of their own. Lenses: projection
against pycolmap's, and undistortion against a picture taken without distortion."""

import io
import json

import numpy as np
import pycolmap
import pytest
import torch
from import_samples import DEPTH_RANGE, fake_model, look_at, picture, run
from PIL import Image
from scipy.spatial.transform import Rotation
from skimage import data

from novelview.config.sources import ColmapEstimator, ColmapSource, PhotosSource
from novelview.errors import DataError
from novelview.scenes.chunks import ChunkScene, read_chunk, read_raw
from novelview.scenes.estimation.estimate import Colmap
from novelview.scenes.imports import colmap, photographs
from novelview.scenes.imports.scene import ORIENTATION, Lens, flatten, undistort


@pytest.fixture
def reconstruction(tmp_path):
    """A synthetic model written in both formats, and its pictures."""
    options = pycolmap.SyntheticDatasetOptions(num_rigs=2, num_cameras_per_rig=1, num_frames_per_rig=5, num_points3D=30)
    made = pycolmap.synthesize_dataset(options)
    for suffix in ("bin", "txt"):
        folder = tmp_path / suffix / "sparse" / "0"
        folder.mkdir(parents=True)
        made.write_binary(folder) if suffix == "bin" else made.write_text(folder)
        for number, image in enumerate(made.images.values()):
            camera = made.cameras[image.camera_id]
            picture(tmp_path / suffix / "images" / image.name, number, (camera.width // 8, camera.height // 8))
    return tmp_path, made


@pytest.mark.parametrize("suffix", ["bin", "txt"])
def test_colmap_models_read_as_pycolmap_reads_them(reconstruction, suffix):
    folder, made = reconstruction
    _, found = colmap.read_model(folder / suffix / "sparse" / "0")
    truth = {image.name: image.cam_from_world().matrix() for image in made.images.values()}
    assert {pose.name for pose in found} == set(truth)
    assert all(np.allclose(pose.w2c[:3], truth[pose.name], atol=1e-9) for pose in found)
    scene = colmap.load(folder / suffix, ColmapSource())
    focal = {camera.camera_id: camera.focal_length for camera in made.cameras.values()}
    assert all(frame.lens.fx in focal.values() for frame in scene.frames) and len(scene.frames) == len(truth)


def test_colmap_imports(reconstruction):
    folder, _ = reconstruction
    out = run(ColmapSource(held_out=2), folder / "bin", folder / "raw")
    assert len(read_chunk(out / "test" / "000000.torch")[0].images) == 10


@pytest.mark.parametrize("model", ["EQUIRECTANGULAR", "INVALID", "BIFOCAL"])
def test_other_colmap_lenses_are_refused_by_name(tmp_path, model):
    (tmp_path / "cameras.txt").write_text(f"# comment\n1 {model} 64 48 " + "1 " * 12 + "\n")
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.png\n\n")
    with pytest.raises(DataError, match=f"camera model {model} is not supported"):
        colmap.read_model(tmp_path)


@pytest.mark.parametrize("suffix", ["bin", "txt"])
def test_every_lens_of_colmap_is_read_from_both_formats(tmp_path, suffix):
    made, names = pycolmap.Reconstruction(), [name for name, _ in colmap._models().values()]
    for number, name in enumerate(names, 1):
        camera = pycolmap.Camera.create_from_model_name(number, name, 50.0, 64, 48)
        camera.params = [*camera.params[: len(camera.params) - 1], 0.01]
        made.add_camera(camera)
    made.write_binary(tmp_path) if suffix == "bin" else made.write_text(tmp_path)
    reader = colmap._cameras_bin if suffix == "bin" else colmap._cameras_txt
    lenses = dict(colmap._read(tmp_path / f"cameras.{suffix}", reader))
    for number, name in enumerate(names, 1):
        point = np.array([0.2, -0.1])
        expected = made.cameras[number].img_from_cam(np.array([*point, 1.0]))
        assert np.allclose(lenses[number].project(point), expected, atol=1e-9), name
    assert len(names) == len(pycolmap.CameraModelId.__members__) - 2


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_truncated_colmap_models_are_refused(reconstruction, name, share):
    path = reconstruction[0] / "bin" / "sparse" / "0" / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=rf"{name}: damaged"):
        colmap.read_model(path.parent)


def test_photographs_turned_by_exif_come_out_upright(tmp_path, monkeypatch):
    upright = np.zeros((64, 48, 3), np.uint8)
    upright[:20] = 255
    for row in range(6):
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        path = tmp_path / "in" / f"{row}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.rot90(upright)).save(path, exif=exif, quality=95)
    monkeypatch.setattr(photographs, "run_apart", fake_model("1 SIMPLE_PINHOLE 48 64 50 24 32\n"))
    out = run(PhotosSource(held_out=2), tmp_path / "in", tmp_path / "raw")
    image = Image.open(io.BytesIO(bytes(read_chunk(out / "test" / "000000.torch")[0].images[0].tolist())))
    assert image.size == (48, 64) and np.abs(np.asarray(image).astype(int) - upright).mean() < 3


def test_unregistered_photographs_are_listed(tmp_path, monkeypatch):
    for row in range(10):
        picture(tmp_path / "in" / f"p{row}.jpg", row)
    model = fake_model("1 SIMPLE_PINHOLE 64 48 50 32 24\n", lambda row: row not in (3, 9))
    monkeypatch.setattr(photographs, "run_apart", model)
    out = run(PhotosSource(held_out=2), tmp_path / "in", tmp_path / "raw")
    report = json.loads((out / "import.json").read_text())
    assert report["unregistered"] == ["p3.jpg", "p9.jpg"] and len(report["pictures"]) == 8
    assert report["depth_range"] == DEPTH_RANGE == read_raw(out).depth_range
    with pytest.raises(DataError, match=r"8 of 10 photographs could be registered.*min_registered=0\.9"):
        run(PhotosSource(held_out=2, min_registered=0.9), tmp_path / "in", tmp_path / "raw")


def test_photographs_without_structure_fail_with_counts_and_a_log(tmp_path):
    for row in range(4):
        picture(tmp_path / "in" / f"p{row}.jpg", row)
    with pytest.raises(DataError, match=r"0 of 4 photographs could be registered") as caught:
        run(PhotosSource(held_out=1), tmp_path / "in", tmp_path / "data" / "raw")
    log = tmp_path / "data" / "pycolmap.log"
    assert "\n" not in str(caught.value) and str(log) in str(caught.value) and log.stat().st_size > 0


def corner(c2w: np.ndarray, width: int = 320, height: int = 240, focal: float = 300.0) -> tuple[np.ndarray, np.ndarray]:
    """Ray-cast a corner of three textured walls; return the picture and its z depths."""
    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    rays = np.concatenate([(pixels - (width / 2, height / 2)) / focal, np.ones((height, width, 1))], -1) @ c2w[:3, :3].T
    textures = [data.astronaut(), data.coffee(), data.rocket()]
    image, nearest = np.zeros((height, width, 3)), np.full((height, width), np.inf)
    for axis, texture in enumerate(textures):
        with np.errstate(divide="ignore"):
            depth = (2.0 - c2w[axis, 3]) / rays[..., axis]
        points = c2w[:3, 3] + depth[..., None] * rays
        u, v = (np.delete(points, axis, -1)[..., k] for k in (0, 1))
        rows, columns = (
            np.mod(x * 150, size).astype(int) for x, size in ((v, texture.shape[0]), (u, texture.shape[1]))
        )
        hit = (depth > 0) & (depth < nearest)
        image[hit], nearest[hit] = texture[rows, columns][hit], depth[hit]
    return image.astype(np.uint8), nearest


def rotation_errors(found: torch.Tensor, truth: np.ndarray) -> np.ndarray:
    """Degrees between relative rotations to the first camera, which no similarity changes."""
    relative = [m[:, :3, :3].transpose(0, 2, 1) @ m[0, :3, :3] for m in (found.numpy().astype(float), truth)]
    return np.degrees(Rotation.from_matrix(relative[0].transpose(0, 2, 1) @ relative[1]).magnitude())


def test_real_reconstruction_finds_the_cameras_and_repeats_itself(tmp_path):
    truth = [look_at(np.array([0.25 * i - 1, 0.1 * i - 1, -2.0]), np.array([1.2, 1.0, 1.2])) for i in range(8)]
    (tmp_path / "in").mkdir()
    pictures, depths = zip(*(corner(c2w) for c2w in truth), strict=True)
    for row, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / "in" / f"p{row}.jpg", quality=95)
    scenes = [
        photographs.load_photographs(tmp_path / "in", PhotosSource(), tmp_path / "log", threads=1) for _ in range(2)
    ]
    found = np.stack([frame.c2w for frame in scenes[0].frames])
    assert len(found) == 8 and rotation_errors(torch.from_numpy(found), np.stack(truth)).max() < 1.0
    assert abs(scenes[0].frames[0].lens.fx / 300 - 1) < 0.05
    assert np.array_equal(found, np.stack([frame.c2w for frame in scenes[1].frames]))
    scale = np.linalg.norm(np.ptp(found[:, :3, 3], 0)) / np.linalg.norm(np.ptp(np.stack(truth)[:, :3, 3], 0))
    low, high = np.array(scenes[0].depth_range) / scale
    assert np.percentile(depths, 0) * 0.9 < low < np.percentile(depths, 30)
    assert np.percentile(depths, 70) < high < np.percentile(depths, 100) * 1.1


def test_a_zooming_lens_keeps_the_focal_length_of_every_frame(tmp_path):
    """Stage poses with given intrinsics: COLMAP gets a lens a frame, and the cameras it finds are right."""
    truth = [look_at(np.array([0.25 * i - 1, 0.1 * i - 1, -2.0]), np.array([1.2, 1.0, 1.2])) for i in range(8)]
    focal = [300.0 + 20 * row for row in range(8)]
    images, cameras = [], []
    for c2w, length in zip(truth, focal, strict=True):
        Image.fromarray(corner(c2w, focal=length)[0]).save(stream := io.BytesIO(), "JPEG", quality=95)
        images.append(torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8))
        cameras.append([length / 320, length / 240, 0.5, 0.5, 0, 0, *np.linalg.inv(c2w)[:3].flatten()])
    scene = ChunkScene("a", "", torch.arange(8), torch.tensor(np.array(cameras, np.float32)), images)
    estimator = Colmap(ColmapEstimator(intrinsics="given", camera_model="PINHOLE"))
    (tmp_path / "work").mkdir()
    found = estimator.estimate(scene, list(range(8)), tmp_path / "work", tmp_path / "log")
    assert found.frames == list(range(8)) and (found.intrinsics - scene.cameras[:, :4]).abs().max() < 1e-6
    assert rotation_errors(torch.linalg.inv(found.w2c), np.stack(truth)).max() < 1.0


MODELS = {
    "SIMPLE_PINHOLE": [300, 160, 120],
    "PINHOLE": [300, 310, 158, 123],
    "SIMPLE_RADIAL": [300, 160, 120, 0.08],
    "RADIAL": [300, 160, 120, -0.1, 0.03],
    "OPENCV": [300, 310, 158, 123, 0.06, -0.08, -0.001, 0.002],
    "OPENCV_FISHEYE": [300, 310, 158, 123, 0.05, -0.02, 0.004, -0.001],
    "FULL_OPENCV": [300, 310, 158, 123, 0.06, -0.08, -0.001, 0.002, 0.01, 0.02, -0.01, 0.005],
    "FOV": [300, 310, 158, 123, 0.6],
    "SIMPLE_RADIAL_FISHEYE": [300, 160, 120, 0.03],
    "RADIAL_FISHEYE": [300, 160, 120, 0.03, -0.01],
    "THIN_PRISM_FISHEYE": [300, 310, 158, 123, 0.05, -0.02, 0.001, -0.002, 0.004, -0.001, 0.001, 0.002],
    "RAD_TAN_THIN_PRISM_FISHEYE": [
        300, 310, 158, 123, 0.05, -0.02, 0.004, -0.001, 0.0, 0.0, 0.001, -0.002, 0.001, 0.0, 0.002, 0.0
    ],
    "SIMPLE_DIVISION": [300, 160, 120, -0.1],
    "DIVISION": [300, 310, 158, 123, -0.1],
    "SIMPLE_FISHEYE": [300, 160, 120],
    "FISHEYE": [300, 310, 158, 123],
    "EUCM": [300, 310, 158, 123, 0.5, 1.1],
}  # fmt: skip


def lens_of(model: str) -> Lens:
    return colmap._lens(model, 320, 240, tuple(map(float, MODELS[model])))


@pytest.mark.parametrize("model", MODELS)
def test_projection_is_colmaps(model):
    camera = pycolmap.Camera(model=model, width=320, height=240, params=MODELS[model])
    rays = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    expected = np.array([camera.img_from_cam(np.array([*ray, 1.0])) for ray in rays]).reshape(-1, 2)
    assert np.allclose(lens_of(model).project(rays), expected, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_flat_lens_is_covered_by_the_picture_and_as_wide_as_that_allows(model):
    lens = lens_of(model)
    flat = flatten(lens)
    corners = np.stack(np.meshgrid(np.linspace(0, 320, 81), np.linspace(0, 240, 61)), -1)
    pixels = lens.project((corners - (flat.cx, flat.cy)) / (flat.fx, flat.fy))
    assert (pixels >= -1e-3).all() and (pixels <= np.array([320, 240]) + 1e-3).all()
    slack = min(pixels.min(), (np.array([320, 240]) - pixels).min())
    assert slack < 0.01 and (flat.cx, flat.cy) == (lens.cx, lens.cy) and not flat.distorted


def test_a_lens_without_distortion_stays_as_it_is():
    assert flatten(lens_of("PINHOLE")) is not None and flatten(lens_of("PINHOLE")) == lens_of("PINHOLE")


@pytest.mark.parametrize("radial", [(-50.0, 0.0, 0.0, 0.0), (1e6, 0.0, 0.0, 0.0)])
def test_absurd_distortion_is_refused(radial):
    with pytest.raises(DataError, match="cannot be removed"):
        flatten(Lens(320, 240, 300, 300, 160, 120, radial))


def pattern(rays: np.ndarray) -> np.ndarray:
    waves = [np.sin(9 * rays[..., 0]), np.cos(8 * rays[..., 1]), np.sin(7 * (rays[..., 0] + rays[..., 1]))]
    return (127.5 + 120 * np.stack(waves, -1)).round().astype(np.uint8)


def grid(lens: Lens) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(lens.width) + 0.5, np.arange(lens.height) + 0.5), -1)


def invert(lens: Lens, pixels: np.ndarray) -> np.ndarray:
    """Rays of distorted pixels by fixed-point iteration, independent of the resampler."""
    target = (pixels - (lens.cx, lens.cy)) / (lens.fx, lens.fy)
    rays = target.copy()
    for _ in range(200):
        rays += target - (lens.project(rays) - (lens.cx, lens.cy)) / (lens.fx, lens.fy)
    return rays


@pytest.mark.parametrize("model", [model for model in MODELS if "PINHOLE" not in model])
def test_undistorted_picture_is_the_one_a_flat_lens_takes(model):
    lens = lens_of(model)
    flat = flatten(lens)
    seen = undistort(Image.fromarray(pattern(invert(lens, grid(lens)))), lens, flat)
    truth = pattern((grid(flat) - (flat.cx, flat.cy)) / (flat.fx, flat.fy))
    difference = np.abs(np.asarray(seen).astype(int) - truth)
    assert difference.max() <= 3 and difference.mean() < 0.6
