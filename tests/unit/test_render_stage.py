"""Stage `render`: a scene encoded once, any path, its state on disk, one-line errors; and the paths themselves."""

import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from import_samples import lact, run
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import config, model_of

from novelview.cameras.given import read_path
from novelview.cameras.paths import along, turntable
from novelview.cameras.poses import encoding_to_c2w
from novelview.config.digest import resolved
from novelview.config.schema import PackConfig, ViewsConfig
from novelview.config.sources import OpencvCamerasSource
from novelview.config.stages import PathConfig, TrainStage
from novelview.errors import DataError
from novelview.evaluation.clips import path_cameras
from novelview.models.registry import save_weights
from novelview.scenes.pack import pack_chunks
from novelview.scenes.store import PackedStore
from novelview.stages.cli import run_stage
from novelview.stages.render import render

VIEWS = {"image_size": 28, "image_width": 42, "resize": "cover", "sampler": "random"}
MODELS = dict.fromkeys(("lvsm_efficient", "lvsm_encoder_decoder", "ptlvsm", "uplvsm"), "scene") | {"lact": "none"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A packed scene of eight views, and weights of four models, the first of which leaves poses as they come."""
    root = tmp_path_factory.mktemp("views")
    run(OpencvCamerasSource(held_out=2), lact(root / "object"), root / "raw")
    splits = {split: sorted((root / "raw" / split).glob("*.torch")) for split in ("train", "test")}
    pack_chunks(splits, root / "packed", PackConfig(), progress=False)
    for name, poses in MODELS.items():
        changes = {"canonical_camera": True} if name == "ptlvsm" else {}
        stage = TrainStage(model=config(name, **changes), views=ViewsConfig(**VIEWS, pose_normalisation=poses))
        save_weights(root / f"{name}.safetensors", model_of(name, **changes), resolved(stage))
    return root


def call(data: Path, out: Path, name: str = "lact", *words: str) -> int:
    given = {"packed": data / "packed", "weights": data / f"{name}.safetensors", "out": out / "clip.mp4"}
    paths = [f"io.{key}={value}" for key, value in given.items()]
    return run_stage("render", render, [*paths, "runtime.device=cpu", "frames=5", "views=4", *words])


def frames_of(clip: Path) -> np.ndarray:
    with av.open(str(clip)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("name", ["lact", "lvsm_encoder_decoder", "lvsm_efficient", "ptlvsm"])
@pytest.mark.parametrize("path", ["turntable", "interpolate"])
def test_clips_of_every_posed_model(data: Path, tmp_path: Path, name: str, path: str) -> None:
    assert call(data, tmp_path, name, f"path={path}", f"io.images={tmp_path}/png") == 0
    clip = frames_of(tmp_path / "clip.mp4")
    assert clip.shape == (5, 224, 336, 3), "28 x 42 pixels, enlarged by whole pixels"
    pictures = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "png").glob("*.png"))]
    assert len(pictures) == 5 and pictures[0].shape == (28, 42, 3)
    assert any((pictures[0] != other).any() for other in pictures[1:]), "the camera moves"


@pytest.mark.parametrize("name", ["lact", "lvsm_encoder_decoder", "ptlvsm"])
def test_the_default_path_goes_through_the_cameras_and_its_file_gives_the_clip_again(data, tmp_path, name) -> None:
    for out, words in (("one", []), ("two", [f"path={tmp_path}/cameras.json"]), ("three", ["path=interpolate"])):
        more = [f"io.cameras={tmp_path}/cameras.json"] if out == "one" else []
        assert call(data, tmp_path, name, *words, *more, f"io.images={tmp_path}/{out}") == 0
    for number in range(5):
        one, two, three = (
            np.asarray(Image.open(tmp_path / out / f"{number:04d}.png"), int) for out in ("one", "two", "three")
        )
        assert np.array_equal(one, three) and np.abs(one - two).max() <= 2
    found, lens = read_path(tmp_path / "cameras.json", 28, 42)
    store = PackedStore(data / "packed/test")
    contexts = store.c2w(store.scenes[0])
    assert min(float((found[0] - c2w).abs().max()) for c2w in contexts) < 1e-4 and (lens[:, :2] > 0).all()


def nerfstudio(**changes: Any) -> dict[str, Any]:
    look = [1.0, 0, 0, 2, 0, 0, -1, 3, 0, 1, 0, 4, 0, 0, 0, 1]  # OpenGL axes, row by row
    camera = {"camera_to_world": look, "fov": 90.0, "aspect": 1.5}
    content = {"camera_type": "perspective", "render_height": 40, "render_width": 60, "fps": 24, "seconds": 1.0}
    return content | {"camera_path": [camera | changes.pop("camera", {})]} | changes


def test_a_camera_path_of_nerfstudio_is_read_in_opencv_axes(tmp_path: Path) -> None:
    (tmp_path / "path.json").write_text(json.dumps(nerfstudio()))
    c2w, lens = read_path(tmp_path / "path.json", 28, 42)
    assert c2w[0].tolist() == [[1, 0, 0, 2], [0, 0, 1, 3], [0, -1, 0, 4], [0, 0, 0, 1]]
    assert lens[0].tolist() == pytest.approx([14, 14, 21, 14])
    assert read_path(tmp_path / "path.json", 28, 28)[1][0].tolist() == pytest.approx([14, 14, 14, 14])


CAMERA = {"c2w": np.eye(4).tolist(), "fx": 3, "fy": 3, "cx": 2, "cy": 1.5}
OURS: dict[str, Any] = {"width": 4, "height": 3, "cameras": [CAMERA]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "holds no list 'cameras'"),
        ({**OURS, "cameras": []}, "holds no list 'cameras'"),
        ({**OURS, "cameras": [None]}, "holds no list 'cameras'"),
        ({**OURS, "width": None}, "key 'width' is missing"),
        ({**OURS, "height": 0}, "must be positive"),
        ({**OURS, "cameras": [{**CAMERA, "fx": -3}]}, "camera 0: focal length 'fx' is -3.0"),
        ({**OURS, "cameras": [{**CAMERA, "cy": "middle"}]}, "camera 0: key 'cy' is 'middle'"),
        ({**OURS, "cameras": [{**CAMERA, "c2w": [[1, 2], [3]]}]}, "camera 0: key 'c2w' is no finite"),
        ({**OURS, "cameras": [{**CAMERA, "c2w": (2 * np.eye(4)).tolist()}]}, "not orthonormal"),
        (nerfstudio(camera_type="equirectangular"), "'camera_type' is 'equirectangular'"),
        (nerfstudio(camera={"fov": 180}), "'fov' is 180"),
        (nerfstudio(camera={"camera_to_world": [1.0] * 15}), "no finite 4x4 matrix"),
        (nerfstudio(render_width=True), "'render_width' is True, not a number"),
    ],
)
def test_cameras_that_are_none_are_one_line_with_file_and_key(tmp_path: Path, content: Any, said: str) -> None:
    (tmp_path / "path.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        read_path(tmp_path / "path.json", 28, 42)
    assert str(caught.value).startswith(f"{tmp_path}/path.json") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["lact", "lvsm_encoder_decoder", "lvsm_efficient"])
def test_a_scene_is_encoded_once_and_viewed_later(data: Path, tmp_path: Path, name: str) -> None:
    state = f"{tmp_path}/scene.safetensors"
    words = ("path=interpolate", "resolution=42x28", "select=kmeans")
    assert call(data, tmp_path, name, *words, f"io.save_state={state}", f"io.images={tmp_path}/one") == 0
    later = ("path=interpolate", f"io.load_state={state}", f"io.packed={tmp_path}/gone", f"io.images={tmp_path}/two")
    assert call(data, tmp_path, name, *later) == 0
    for number in range(5):
        one, two = ((tmp_path / word / f"{number:04d}.png").read_bytes() for word in ("one", "two"))
        assert one == two
    assert Image.open(tmp_path / "two/0000.png").size == (28, 42)


def test_a_state_of_other_weights_or_a_damaged_one_is_refused(data: Path, tmp_path: Path, capsys) -> None:
    state = tmp_path / "scene.safetensors"
    assert call(data, tmp_path, "lact", f"io.save_state={state}") == 0
    other = data / "other.safetensors"
    other.write_bytes((data / "lvsm_encoder_decoder.safetensors").read_bytes())
    assert call(data, tmp_path, "other", f"io.load_state={state}") == 2
    assert "a scene of another model: model.name is lact there" in capsys.readouterr().err
    save_file({name: value for name, value in load_file(state).items() if "blocks" in name}, state)
    assert call(data, tmp_path, "lact", f"io.load_state={state}") == 2
    assert "not an encoded scene" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("lact", ["views=9"], "views=9: scene"),
        ("lact", ["resolution=30x42"], "resolution=30x42: both sides must be multiples of the patch size, 14"),
        ("lact", ["resolution=wide"], "write 256 for a square or 72x128"),
        ("lact", ["path=gone.json"], "gone.json: No such file"),
        ("lact", ["path=spiral"], "path=spiral: choose one of turntable, interpolate"),
        ("lact", ["camera_path=spiral"], "Available options"),
        ("lact", ["scene=nowhere"], "no scene 'nowhere'"),
        ("lact", ["path=interpolate", "views=1"], "a path needs two cameras, not 1"),
        ("lact", ["select=best"], "select=best: choose one of uniform, random, kmeans"),
        ("lact", ["io.out=clip.gif"], "io.out=clip.gif: clips are MP4 files"),
        ("lact", ["io.load_state=gone.safetensors"], "gone.safetensors: no such file"),
        ("uplvsm", [], "UPLVSM takes no target poses"),
    ],
)
def test_wrong_input_is_one_line(data: Path, tmp_path: Path, capsys, name: str, words: list[str], said: str) -> None:
    assert call(data, tmp_path, name, *words) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("error: ") and said in told[-1]
    assert not (tmp_path / "clip.mp4").exists()


def cameras(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    c2w = encoding_to_c2w(torch.randn(count, 7, generator=generator, dtype=torch.float64)).float()
    return c2w, torch.rand(count, 4, generator=generator) + 20


@pytest.mark.parametrize(
    ("path", "frames"),
    [
        (PathConfig(), 11),
        (PathConfig(between=2), 7),
        (PathConfig(between=2, loop=True), 10),
        (PathConfig(frames_per_leg=6, loop=True), 18),
        (PathConfig(order=True), 11),
    ],
)
def test_paths_pass_through_the_cameras(path: PathConfig, frames: int) -> None:
    c2w, lenses = cameras(3)
    found, intrinsics = path_cameras(path, 11, c2w, lenses)
    assert len(found) == len(intrinsics) == frames
    for camera in c2w:
        assert (found - camera).abs().amax(dim=(1, 2)).min() < 1e-5
    torch.testing.assert_close(found[:, :3, :3] @ found[:, :3, :3].mT, torch.eye(3).expand(frames, 3, 3))


def test_entrywise_blends_are_no_rotations_and_slerp_is() -> None:
    c2w, lenses = cameras(2)
    places = torch.tensor([0.0, 0.5, 1.0])
    blended, _ = along(c2w, lenses, places, "entrywise")
    torch.testing.assert_close(blended[1], c2w.mean(0))
    assert (blended[1, :3, :3] @ blended[1, :3, :3].T - torch.eye(3)).abs().max() > 1e-2
    turned, between = along(c2w, lenses, places)
    torch.testing.assert_close(turned[1, :3, :3] @ turned[1, :3, :3].T, torch.eye(3))
    torch.testing.assert_close(between[1], lenses.mean(0))
    with pytest.raises(DataError, match="two cameras"):
        along(c2w[:1], lenses[:1], places)


def test_a_turntable_looks_at_the_origin_and_stays_upright() -> None:
    c2w, intrinsics = turntable(24, 36, 64, hfov=60, elevation=20, swing=5, min_radius=2, max_radius=4)
    centres, forward, down = c2w[:, :3, 3], c2w[:, :3, 2], c2w[:, :3, 1]
    radius = centres.norm(dim=1)
    torch.testing.assert_close(forward, -centres / radius[:, None])
    assert radius.min() >= 2 and radius.max() <= 4 and (down[:, 2] < 0).all()
    elevation = torch.rad2deg(torch.asin(centres[:, 2] / radius))
    assert elevation.min() >= 15 - 1e-3 and elevation.max() <= 25 + 1e-3
    torch.testing.assert_close(torch.linalg.det(c2w[:, :3, :3]), torch.ones(24))
    fx, fy, cx, cy = intrinsics[0].tolist()
    assert fx == fy == pytest.approx(32 / np.tan(np.radians(30))) and (cx, cy) == (32, 18)
    swapped = turntable(24, 36, 64, swap_sides=True)[1][0].tolist()
    assert (swapped[2], swapped[3]) == (18, 32)
