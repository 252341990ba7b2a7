"""What people have: photographs of every format, size and number, videos, COLMAP folders, masks, far coordinates."""

import io
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pillow_heif
import pycolmap
import pytest
import torch
from import_samples import fake_model, nerf, picture, poses, run
from PIL import Image
from scipy.spatial.transform import Rotation

from novelview.config.schema import LossConfig, ViewsConfig
from novelview.config.sources import ColmapSource, PhotosSource, TransformsSource, UnposedSource
from novelview.config.stages import PreprocessStage
from novelview.errors import ConfigError, DataError
from novelview.evaluation.metrics import psnr, sharpness, ssim
from novelview.files import source_state
from novelview.losses.photometric import TrainingLoss
from novelview.models.render import Render
from novelview.scenes.batch import Batch, FrameCache, collate
from novelview.scenes.chunks import read_chunk, read_raw
from novelview.scenes.dataset import mirror
from novelview.scenes.imports import photographs, scene, video
from novelview.scenes.store import PackedStore
from novelview.stages.preprocess import preprocess

LENS = "1 PINHOLE 64 48 50 50 32 24\n"


def report(out: Path) -> dict:
    return json.loads((out / "import.json").read_text())


def frame(out: Path, number: int) -> Image.Image:
    return Image.open(io.BytesIO(bytes(read_chunk(out / "test" / "000000.torch")[0].images[number].tolist())))


@pytest.fixture
def reconstructed(monkeypatch):
    monkeypatch.setattr(photographs, "run_apart", fake_model(LENS))


def test_what_pillow_reads_is_read_and_the_rest_is_listed_with_its_reason(tmp_path, reconstructed, caplog):
    folder = tmp_path / "in"
    for row, suffix in enumerate(["jpg", "JPEG", "png", "gif", "avif", "webp", "heic", "bmp"]):
        picture(folder / f"{row}.{suffix}".replace("heic", "jpg"), row)
    pillow_heif.from_pillow(Image.open(folder / "6.jpg")).save(folder / "6.heic")
    (folder / "6.jpg").rename(folder / "named.HEIC")  # a JPEG, whatever its name says
    for name in ("clip.mov", "shot.DNG", "notes.txt", ".DS_Store"):
        (folder / name).write_bytes(b"x")
    picture(folder / "more" / "x.jpg")
    out = run(PhotosSource(), folder, tmp_path / "raw")
    assert len(report(out)["pictures"]) == 9 and "6.heic" in report(out)["pictures"]
    assert set(report(out)["left_out"]) == {"clip.mov", "shot.DNG", "notes.txt", "more"}
    assert "left out 4" in caplog.text and "video; give it alone" in caplog.text and "develop it" in caplog.text


def test_heic_without_its_reader_is_listed_not_dropped(tmp_path, reconstructed, monkeypatch):
    for row in range(4):
        picture(tmp_path / "in" / f"{row}.jpg", row)
    pillow_heif.from_pillow(Image.open(tmp_path / "in" / "0.jpg")).save(tmp_path / "in" / "9.heic")
    monkeypatch.setattr(scene, "read_heif", lambda: False)
    out = run(PhotosSource(), tmp_path / "in", tmp_path / "raw")
    assert report(out)["left_out"] == {"9.heic": "HEIC; install pillow-heif to read it"}


def test_too_few_photographs_name_what_was_left_out(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nef").write_bytes(b"x")
    with pytest.raises(DataError, match=r"0 photographs .*left out a\.nef: camera raw"):
        run(PhotosSource(), tmp_path / "in", tmp_path / "raw")
    with pytest.raises(DataError, match=r"a\.nef: is a file; give the photographs' folder, or a video"):
        run(PhotosSource(), tmp_path / "in" / "a.nef", tmp_path / "raw")


@pytest.mark.parametrize(("count", "kept"), [(3, 1), (12, 1), (17, 2), (40, 5)])
def test_an_eighth_is_held_out_by_default(tmp_path, reconstructed, caplog, count, kept):
    for row in range(count):
        picture(tmp_path / "in" / f"{row}.png", row)
    with caplog.at_level(logging.INFO):
        out = run(PhotosSource(), tmp_path / "in", tmp_path / "raw")
    assert len(report(out)["held_out"]) == kept and f"{kept} of {count} pictures are kept" in caplog.text


@pytest.mark.parametrize("source", [PhotosSource, UnposedSource])
def test_too_many_held_out_are_refused_before_the_reconstruction(tmp_path, monkeypatch, source):
    monkeypatch.setattr(photographs, "run_apart", lambda *_: pytest.fail("reconstructed"))
    for row in range(12):
        picture(tmp_path / "in" / f"{row}.png", row)
    with pytest.raises(DataError, match=r"12 pictures with source\.held_out=10.*1\.\.6"):
        run(source(held_out=10), tmp_path / "in", tmp_path / "raw")


def test_fewer_are_held_out_where_photographs_found_no_pose(tmp_path, monkeypatch, caplog):
    for row in range(12):
        picture(tmp_path / "in" / f"{row}.png", row)
    monkeypatch.setattr(photographs, "run_apart", fake_model(LENS, keep=lambda row: row > 1))
    out = run(PhotosSource(held_out=6), tmp_path / "in", tmp_path / "raw")
    assert len(report(out)["held_out"]) == 5 and "5 kept for evaluation, not 6" in caplog.text


def colmap_model(folder: Path, names: list[str], points: int = 0, binary: bool = False) -> np.ndarray:
    """Write a model of pictures with the cameras of `poses`, each of which sees all points; return their z depths."""
    folder.mkdir(parents=True)
    world = np.random.default_rng(0).uniform(-0.5, 0.5, (points, 3))
    rows, depths = [], []
    for row, c2w in enumerate(poses(len(names))):
        w2c = np.linalg.inv(c2w)
        x, y, z, w = Rotation.from_matrix(w2c[:3, :3]).as_quat()
        rows.append(f"{row + 1} {w} {x} {y} {z} {' '.join(map(str, w2c[:3, 3]))} 1 {names[row]}")
        rows.append(" ".join([*(f"1.0 2.0 {number + 1}" for number in range(points)), "3.0 4.0 -1"]))
        depths.append(world @ w2c[2, :3] + w2c[2, 3])
    (folder / "cameras.txt").write_text(LENS)
    (folder / "images.txt").write_text("\n".join(rows) + "\n")
    tracks = " ".join(f"{image + 1} {{0}}" for image in range(len(names)))
    lines = [f"{at + 1} {' '.join(map(str, xyz))} 1 2 3 0.5 {tracks.format(at)}" for at, xyz in enumerate(world)]
    (folder / "points3D.txt").write_text("# points\n" + "\n".join(lines) + "\n")
    if binary:
        pycolmap.Reconstruction(str(folder)).write_binary(str(folder))
        for name in ("cameras", "images", "points3D"):
            (folder / f"{name}.txt").unlink()
    return np.concatenate(depths)


@pytest.mark.parametrize("above", ["", "colmap"])
def test_of_several_colmap_models_the_one_with_most_images_is_taken_and_said(tmp_path, caplog, above):
    names = [f"{row}.jpg" for row in range(12)]
    for row, name in enumerate(names):
        picture(tmp_path / "images" / name, row)
    colmap_model(tmp_path / above / "sparse" / "0", names[:4])
    colmap_model(tmp_path / above / "sparse" / "1", names[2:])
    out = run(ColmapSource(), tmp_path, tmp_path / "raw")
    assert report(out)["pictures"] == names[2:] and report(out)["unregistered"] == names[:2]
    assert "sparse/1: of 2 models, the one with most images (10)" in caplog.text and "sparse/0 (4)" in caplog.text


@pytest.mark.parametrize("binary", [False, True])
def test_colmap_points_say_between_which_depths_the_scene_lies(tmp_path, binary):
    for row in range(6):
        picture(tmp_path / "images" / f"{row}.jpg", row)
    depths = colmap_model(tmp_path / "sparse" / "0", [f"{row}.jpg" for row in range(6)], 50, binary)
    out = run(ColmapSource(), tmp_path, tmp_path / "raw")
    assert read_raw(out).depth_range == pytest.approx(np.percentile(depths, [1, 99]).tolist(), rel=1e-9)
    path = tmp_path / "sparse" / "0" / f"points3D.{'bin' if binary else 'txt'}"
    path.write_bytes(path.read_bytes()[:-70] if binary else b"1 nan 0 0 1 2 3 0.5\n")
    with pytest.raises(DataError, match=r"points3D.*damaged"):
        run(ColmapSource(), tmp_path, tmp_path / "raw")
    path.unlink()
    assert read_raw(run(ColmapSource(), tmp_path, tmp_path / "raw")).depth_range is None


def moved(folder: Path, offset: list[float]) -> Path:
    nerf(folder)
    content = json.loads((folder / "transforms.json").read_text())
    for entry in content["frames"]:
        for axis in range(3):
            entry["transform_matrix"][axis][3] += offset[axis]
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("offset", [[5e5, 4.2e6, 1e2], [-2.7e6, -4.3e6, 3.8e6], [1e8, 0, 0]])
def test_cameras_far_from_the_origin_keep_their_distances(tmp_path, caplog, offset):
    out = run(TransformsSource(held_out=2), moved(tmp_path / "in", offset), tmp_path / "raw")
    w2c = torch.eye(4, dtype=torch.float64).repeat(8, 1, 1)
    w2c[:, :3] = read_chunk(out / "test" / "000000.torch")[0].cameras[:, 6:].double().view(-1, 3, 4)
    centres = torch.linalg.inv(w2c)[:, :3, 3].numpy()
    true = np.stack([c2w[:3, 3] for c2w in poses(8)])
    apart = np.linalg.norm(np.diff(centres, axis=0), axis=1), np.linalg.norm(np.diff(true, axis=0), axis=1)
    assert np.abs(apart[0] / apart[1] - 1).max() < 1e-5 and "moved by" in caplog.text
    kept = json.loads((out / "manifest.json").read_text())["import"]["offset"]
    assert np.abs(centres + kept - true - offset).max() < 1e-5 and report(out)["offset"] == kept


def test_cameras_near_the_origin_stay_where_they_are(tmp_path):
    out = run(TransformsSource(held_out=2), moved(tmp_path / "in", [9.0, -20.0, 5.0]), tmp_path / "raw")
    assert "offset" not in report(out)


def masked(folder: Path, kind: str, area: tuple[slice, slice]) -> Path:
    """Pictures whose `area` holds another colour than the rest, and masks that say so, as `kind` has them."""
    nerf(folder, 8, w=64, h=48, cx=32.0, cy=24.0)
    for row in range(8):
        pixels = np.full((48, 64, 3), 100, np.uint8)
        pixels[area] = 255
        counts = np.full((48, 64), 255, np.uint8)
        counts[area] = 0
        Image.fromarray(pixels).save(folder / "images" / f"img{row + 1}.png")
        names = {"nerfstudio": f"masks/{row}.png", "instant-ngp": f"images/dynamic_mask_img{row + 1}.png"}
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(counts if kind == "nerfstudio" else 255 - counts).save(folder / names[kind])
    content = json.loads((folder / "transforms.json").read_text())
    for entry in content["frames"] if kind == "nerfstudio" else ():
        entry["mask_path"] = f"masks/{int(entry['file_path'][10:-4]) - 1}.png"
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def packed(raw: Path, out: Path) -> Path:
    config = PreprocessStage(dataset="d", io={"raw": str(raw), "out": str(out)})
    config.runtime.progress, config.runtime.workers = False, 0
    preprocess(config)
    return out


@pytest.mark.parametrize("kind", ["nerfstudio", "instant-ngp"])
@pytest.mark.parametrize("changes", [{}, {"max_side": 32}])
def test_masked_pixels_count_neither_in_losses_nor_in_scores(tmp_path, kind, changes):
    source = masked(tmp_path / "in", kind, (slice(10, 30), slice(20, 50)))
    out = run(TransformsSource(held_out=2, jpeg_quality=100, **changes), source, tmp_path / "raw")
    assert report(out)["masks"] == 8
    views = ViewsConfig(image_size=24, patch_size=8, resize="cover", pose_normalisation="none")
    for split in ("train", "test"):
        store = PackedStore(packed(out, tmp_path / "packed") / split)
        cache = FrameCache(store, views, 0)
        sample = cache.sample(store.scenes[0], [0, 1, 2], 0)
        assert sample.masks is not None and sample.masks.shape == (3, 24, 24)
        grey = (sample.images.float() - 100).abs().amax(dim=1) < 4
        assert grey[sample.masks].all() and 0.4 < sample.masks.float().mean() < 0.9
    target = collate([sample], 1).to_batch().target
    wrong = torch.where(target.masks[:, :, None], target.images, 1 - target.images)  # all that is masked is wrong
    batch = Batch(["a"], target, target)
    loss = TrainingLoss(LossConfig(perceptual=0.0))
    assert loss(Render(wrong), batch)["loss"] == 0
    half = target.images + 0.1
    assert loss(Render(half), batch)["mse"] == pytest.approx(0.01, rel=1e-4)
    assert psnr(half, target.images, target.masks).flatten().tolist() == pytest.approx([20.0, 20.0], abs=1e-3)
    for metric, best in ((psnr, 100.0), (ssim, 1.0), (sharpness, 1.0)):
        assert metric(wrong, target.images, target.masks).flatten().tolist() == pytest.approx([best] * 2, abs=1e-5)
        everything = torch.ones_like(target.masks)
        assert torch.allclose(metric(half, target.images, everything), metric(half, target.images), atol=1e-5)
    assert torch.equal(mirror(sample).masks, sample.masks.flip(-1))
    store_mask = next((tmp_path / "packed" / "masks").rglob("*.png"))
    Image.new("1", (64, 48)).save(store_mask)
    with pytest.raises(DataError, match=r"\.png: .*(content differs|bytes instead of)"):
        cache.sample(store.scenes[0], list(range(8)), 0)


def test_masks_that_do_not_fit_are_one_line(tmp_path):
    folder = masked(tmp_path / "in", "nerfstudio", (slice(0, 9), slice(0, 9)))
    Image.new("L", (48, 64)).save(folder / "masks" / "3.png")
    with pytest.raises(DataError, match=r"3\.png: a mask of 48x64, and its picture images/img4\.png 64x48"):
        run(TransformsSource(held_out=2), folder, tmp_path / "raw")
    (folder / "masks" / "3.png").unlink()
    with pytest.raises(DataError, match=r"img4\.png: .?mask_path.? masks/3\.png does not exist"):
        run(TransformsSource(held_out=2), folder, tmp_path / "raw")


def test_masks_beside_photographs_lie_where_colmap_looks_for_them(tmp_path, reconstructed):
    for row in range(4):
        picture(tmp_path / "in" / f"{row}.png", row)
    picture(tmp_path / "in" / "masks" / "2.png.png", 0, mode="RGB")
    out = run(PhotosSource(), tmp_path / "in", tmp_path / "raw")
    assert report(out)["masks"] == 1 and [path.name for path in (out / "masks").rglob("*.png")] == ["000002.png"]


def test_null_is_a_key_that_is_not_there(tmp_path):
    frame = {"k1": None, "fl_x": None}
    plain = run(TransformsSource(held_out=2), nerf(tmp_path / "plain"), tmp_path / "a")
    null = run(TransformsSource(held_out=2), nerf(tmp_path / "null", frame=frame, k2=None, p1=None), tmp_path / "b")
    assert torch.equal(*(read_chunk(out / "test" / "000000.torch")[0].cameras for out in (plain, null)))


def test_a_small_file_of_very_many_pixels_is_one_line(tmp_path):
    folder = nerf(tmp_path / "in", w=None, h=None, cx=None, cy=None)
    Image.new("1", (16320, 12240)).save(folder / "images" / "img3.png")
    with pytest.raises(DataError, match=r"img3\.png: unreadable picture \(16320x12240 pixels in \d+ bytes"):
        run(TransformsSource(held_out=2), folder, tmp_path / "raw")


def test_a_photograph_of_200_megapixels_is_read_reduced(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (1224, 1632), dtype=np.uint8)
    Image.fromarray(noise).resize((16320, 12240), Image.Resampling.NEAREST).save(tmp_path / "a.jpg")
    small, factor = scene.read_picture(tmp_path / "a.jpg", False, 640)
    assert factor == 8 and small.size == (2040, 1530)
    reference = Image.fromarray(noise).resize((2040, 1530), Image.Resampling.BILINEAR)
    assert np.corrcoef(np.asarray(small)[..., 0].ravel(), np.asarray(reference).ravel())[0, 1] > 0.8


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_reading_reduced_keeps_camera_and_picture_together(tmp_path, mode):
    """A picture with sides that no factor divides: the same scene point has the same colour as at full size."""
    wide, high = 3001, 2003
    ramp = np.linspace(0, 255, wide)[None].repeat(high, 0)
    Image.fromarray(ramp.astype(np.uint8)).convert(mode).save(tmp_path / "a.png")
    small, factor = scene.read_picture(tmp_path / "a.png", False, 100)
    lens = scene.Lens(wide, high, 2000.0, 2000.0, 1500.0, 1000.0)
    reduced = lens.resized(1 / factor, 1 / factor, small.size)
    assert factor == 10 and small.size == (300, 200)
    for x in (40, 150, 260):  # the ray of a pixel of the small picture, followed to the large one
        across = (x + 0.5 - reduced.cx) / reduced.fx * lens.fx + lens.cx
        assert abs(np.asarray(small.convert("L"))[100, x] - ramp[0, int(across)]) < 1.5


@pytest.mark.slow
def test_three_distorted_photographs_of_48_megapixels_need_half_a_gigabyte(tmp_path):
    """The memory of the import alone: a process that imports tiny pictures of the same kind is taken off."""
    big = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).resize((8000, 6000))
    for size in ((64, 48), (8000, 6000)):
        focal: Any = {"fl_x": size[0] * 0.8, "fl_y": size[0] * 0.8}
        folder = nerf(tmp_path / str(size[0]), 3, w=None, h=None, cx=None, cy=None, k1=-0.1, **focal)
        for row in range(3):
            big.resize(size, Image.Resampling.NEAREST).save(folder / "images" / f"img{row + 1}.png", compress_level=1)
    code = (
        "import resource, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); "
        "from import_samples import run; "
        "from novelview.config.sources import TransformsSource as S; run(S(held_out=1), *map(Path, sys.argv[2:])); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    peaks = []
    for name in ("64", "8000"):
        command = [
            sys.executable,
            "-c",
            code,
            str(Path(__file__).parents[1]),
            str(tmp_path / name),
            str(tmp_path / name / "o"),
        ]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 500


def film(path: Path, count: int = 60, turn: int = 0, size: tuple[int, int] = (96, 64)) -> Path:
    """Write a video of which every fifth frame is sharp: its brightness is its number, its upper half is red."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = dict[str, object](crf="4")
        if turn:
            stream.set_display_rotation(turn)
        for number in range(count):
            pixels = np.full((size[1], size[0], 3), 60, np.uint8)
            pixels[: size[1] // 2, :, 0] = 220
            if number % 5 == 2:
                pixels[::4, ::4] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.mark.parametrize(("frames", "drawn"), [(12, 12), (48, 48), (500, 60)])
def test_of_a_video_the_sharpest_frame_of_each_interval_is_taken(tmp_path, frames, drawn):
    film(tmp_path / "a.mp4")
    with video.as_photographs(tmp_path / "a.mp4", frames) as folder:
        names = [path.name for path in photographs.list_photographs(folder)[0]]
    assert len(names) == drawn and not folder.exists()
    if frames == 12:
        seconds = [float(name.removeprefix("a-").removesuffix("s.jpg")) for name in names]
        assert [round(second * 24) for second in seconds] == list(range(2, 60, 5))


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_a_video_is_turned_as_the_phone_was_held(tmp_path, turn):
    film(tmp_path / "a.mov", 10, turn)
    with video.as_photographs(tmp_path / "a.mov", 3) as folder:
        upright = np.asarray(Image.open(photographs.list_photographs(folder)[0][0])).astype(int)
    first = np.asarray(Image.fromarray(np.eye(2, dtype=np.uint8)).rotate(turn, expand=True))
    assert upright.shape[:2] == ((64, 96) if turn == 180 else (96, 64)) and first.shape == (2, 2)
    red = upright[..., 0] > 150
    side = {180: red[40:], 90: red[:, :24], -90: red[:, -24:]}[turn]
    assert side.mean() > 0.9 and red.mean() < 0.65


@pytest.mark.parametrize("damage", ["cut", "text", "sound"])
def test_what_is_no_whole_video_is_one_line(tmp_path, damage):
    path = film(tmp_path / "a.mp4")
    if damage == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
            sound.rate = 8000
            for packet in [*stream.encode(sound), *stream.encode()]:
                container.mux(packet)
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "cut" else b"hello")
    with pytest.raises(DataError, match=r"a\.mp4: (unreadable video|has no pictures)") as caught:
        run(UnposedSource(), path, tmp_path / "raw")
    assert "\n" not in str(caught.value)


def test_photographs_without_cameras_serve_those_who_need_none(tmp_path):
    out = run(UnposedSource(video_frames=12), film(tmp_path / "a.mp4"), tmp_path / "raw")
    assert json.loads((out / "manifest.json").read_text())["import"]["posed"] is False
    entry = next(iter(json.loads((out / "indices" / "held_out.json").read_text()).values()))
    (target,) = entry["target"]
    assert entry["context"] == [target - 1, target + 1]
    packed(out, tmp_path / "packed")
    store = PackedStore(tmp_path / "packed" / "train")
    store.require_cameras(False, "uplvsm")
    with pytest.raises(ConfigError, match=r"came without cameras.*lact needs them"):
        store.require_cameras(True, "lact")


@pytest.mark.parametrize("change", ["add", "edit", "content", "rename", "touch", "copy"])
def test_the_state_of_a_source_follows_its_files(tmp_path, change):
    folder = nerf(tmp_path / "in")
    before = source_state(folder)
    assert before == source_state(folder / "transforms.json")
    if change == "add":
        picture(folder / "images" / "new.png")
    elif change == "edit":
        picture(folder / "images" / "img3.png", 99)
    elif change == "content":
        text = (folder / "transforms.json").read_text()
        (folder / "transforms.json").write_text(text.replace('"fl_x": 50.0', '"fl_x": 51.0'))
    elif change == "rename":
        (folder / "images" / "img3.png").rename(folder / "images" / "img33.png")
    elif change == "touch":
        (folder / "transforms.json").touch()
    else:
        shutil.copytree(folder, tmp_path / "copy")
        folder = tmp_path / "copy"
    assert (source_state(folder) == before) == (change in ("touch", "copy"))
    assert source_state(tmp_path / "nowhere") == ""
