"""DL3DV scenes and LaCT's lists of scenes to chunks: poses, undistortion, splits, the hub, one-line errors."""

import json
from pathlib import Path

import fake_hub
import numpy as np
import pytest
import torch
from import_samples import GL, lact, picture, poses, run
from PIL import Image
from tiny_models import config, model_of

from novelview.config.compose import compose
from novelview.config.digest import resolved
from novelview.config.schema import ViewsConfig
from novelview.config.sources import Dl3dvSource, OpencvCamerasSource
from novelview.config.stages import TrainStage
from novelview.errors import ConfigError, DataError
from novelview.evaluation.scores import read_rows
from novelview.files import read_json
from novelview.models.registry import save_weights
from novelview.scenes.chunks import chunk_files, read_chunk
from novelview.scenes.imports import camera_lists
from novelview.scenes.imports.scene import Lens, inner_lens, undistort
from novelview.scenes.views import load_index
from novelview.stages.cli import run_stage
from novelview.stages.download import download
from novelview.stages.evaluate import evaluate
from novelview.stages.preprocess import preprocess

LENS = Lens(320, 180, 150.0, 152.0, 157.0, 93.0, (0.08, -0.03, 0.0, 0.0), (0.002, -0.003))
BARREL = Lens(320, 180, 150.0, 152.0, 157.0, 93.0, (-0.12, 0.02, 0.0, 0.0), (0.001, 0.002))


def nerfstudio(folder: Path, count: int = 6, size: tuple[int, int] = (320, 180), **top) -> Path:
    """Write a scene as the benchmark has it: cameras at full size, pictures at a quarter."""
    place = folder / "nerfstudio"
    entries = []
    for row, c2w in enumerate(poses(count)):
        picture(place / "images_4" / f"frame_{row + 1:05d}.png", row, (size[0] // 4, size[1] // 4))
        entries.append({"file_path": f"images/frame_{row + 1:05d}.png", "transform_matrix": (c2w @ GL).tolist()})
    lens = {"fl_x": 150.0, "fl_y": 152.0, "cx": 157.0, "cy": 93.0, "k1": 0.05, "k2": -0.01, "p1": 0.001, "p2": -0.002}
    content = {"w": size[0], "h": size[1], "camera_model": "OPENCV", **lens, "frames": entries, **top}
    (place / "transforms.json").write_text(json.dumps(content))
    return folder


def scenes(split: Path) -> list:
    return [scene for path in chunk_files(split) for scene in read_chunk(path)]


@pytest.mark.parametrize("lens", [LENS, BARREL])
def test_the_inner_lens_shows_every_covered_row_and_column_and_nothing_else(lens: Lens) -> None:
    flat = inner_lens(lens)
    along = np.linspace(0, 1, 200)
    sides = {
        "left": np.stack([0 * along, along], -1), "right": np.stack([0 * along + 1, along], -1),
        "top": np.stack([along, 0 * along], -1), "bottom": np.stack([along, 0 * along + 1], -1),
    }  # fmt: skip
    rays = {name: (side * (320, 180) - (flat.cx, flat.cy)) / (flat.fx, flat.fy) for name, side in sides.items()}
    seen = {name: lens.project(side) for name, side in rays.items()}
    margins = [
        seen["left"][:, 0], 320 - seen["right"][:, 0], seen["top"][:, 1], 180 - seen["bottom"][:, 1],
    ]  # fmt: skip
    for margin in margins:
        assert margin.min() == pytest.approx(0, abs=0.05), "each side touches the border of the distorted picture"
    assert inner_lens(flat) == flat
    np.testing.assert_allclose(lens.project(lens.unproject(seen["left"])), seen["left"], atol=1e-9)


def test_a_lens_that_folds_the_picture_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be removed"):
        inner_lens(Lens(320, 180, 60.0, 60.0, 160.0, 90.0, (-0.9, 0.0, 0.0, 0.0)))


def test_undistorted_pictures_are_what_a_flat_lens_would_have_seen() -> None:
    def pattern(rays: np.ndarray) -> np.ndarray:
        waves = [np.sin(6 * rays[..., 0]), np.cos(5 * rays[..., 1]), np.sin(4 * rays.sum(-1))]
        return (127.5 + 120 * np.stack(waves, -1)).round().astype(np.uint8)

    flat = inner_lens(LENS)
    columns, rows = np.meshgrid(np.arange(320) + 0.5, np.arange(180) + 0.5)
    pixels = np.stack([columns, rows], -1)
    bent = Image.fromarray(pattern(LENS.unproject(pixels)))
    direct = pattern((pixels - (flat.cx, flat.cy)) / (flat.fx, flat.fy))
    error = np.abs(np.asarray(undistort(bent, LENS, flat)).astype(int) - direct)
    assert error[2:-2, 2:-2].max() <= 3


def test_scenes_become_chunks_with_the_converters_cameras(tmp_path: Path) -> None:
    for name in ("aaa", "bbb"):
        nerfstudio(tmp_path / "dl3dv" / name)
    nerfstudio(tmp_path / "dl3dv" / "tall", size=(180, 320))
    run(Dl3dvSource(), tmp_path / "dl3dv", tmp_path / "raw", "dl3dv")
    found = scenes(tmp_path / "raw/test")
    assert [scene.key.partition("-")[0] for scene in found] == ["aaa", "bbb"] and not (tmp_path / "raw/train").exists()
    assert list(read_json(tmp_path / "raw/scenes.json").values()) == [{"set": "test"}] * 2
    for row, c2w in enumerate(poses(6)):
        turned = (c2w @ GL).copy()  # the converter's steps on the OpenGL pose of the file
        turned[:3, 1:3] *= -1
        turned = turned[[1, 0, 2, 3]]
        turned[2] *= -1
        w2c = found[0].cameras[row, 6:].reshape(3, 4).numpy()
        np.testing.assert_allclose(w2c, np.linalg.inv(turned)[:3], atol=1e-6)
    lens = Lens(80, 45, 37.5, 38.0, 39.25, 23.25, (0.05, -0.01, 0.0, 0.0), (0.001, -0.002))
    np.testing.assert_allclose(found[0].cameras[0, :4].numpy(), inner_lens(lens).normalised(), rtol=1e-6)


def test_train_and_test_folders_and_held_out_frames(tmp_path: Path) -> None:
    nerfstudio(tmp_path / "all/train/aaa")
    nerfstudio(tmp_path / "all/test/bbb")
    run(Dl3dvSource(), tmp_path / "all", tmp_path / "raw", "both")
    assert [len(scenes(tmp_path / f"raw/{split}")) for split in ("train", "test")] == [1, 1]
    assert [key.partition("-")[0] for key in read_json(tmp_path / "raw/scenes.json")] == ["bbb"]
    run(Dl3dvSource(split="held_out", held_out=2), tmp_path / "all/train", tmp_path / "own", "own")
    assert len(scenes(tmp_path / "own/train")[0].images) == 4
    assert len(load_index(tmp_path / "own/indices/held_out.json")) == 2


def test_a_list_of_scenes_in_lacts_form(tmp_path: Path) -> None:
    for name in ("one", "two"):
        lact(tmp_path / "objects" / name)
    listing = tmp_path / "objects/sample_data_path.json"
    listing.write_text(json.dumps(["one/opencv_cameras.json", "two/opencv_cameras.json"]))
    run(OpencvCamerasSource(split="test"), listing, tmp_path / "raw")
    assert [scene.key.partition("-")[0] for scene in scenes(tmp_path / "raw/test")] == ["one", "two"]
    assert [len(scene.images) for scene in scenes(tmp_path / "raw/test")] == [8, 8]
    listing.write_text(json.dumps(["three/opencv_cameras.json"]))
    with pytest.raises(DataError, match=r"names three/opencv_cameras.json, which does not exist"):
        run(OpencvCamerasSource(), listing, tmp_path / "raw")


@pytest.mark.parametrize(
    ("source", "change", "said"),
    [
        (Dl3dvSource(hashes=["zzz"]), "", "zzz: no nerfstudio/transforms.json"),
        (Dl3dvSource(images="images_8"), "", "images_8: no such folder"),
        (Dl3dvSource(), "portrait", "has no landscape scene"),
        (Dl3dvSource(), "empty", "no <scene>/nerfstudio/transforms.json"),
        (Dl3dvSource(), "picture", "1 of 6 pictures do not exist"),
        (Dl3dvSource(), "pose", "key 'transform_matrix' is missing"),
        (Dl3dvSource(), "broken", "transforms.json"),
    ],
)
def test_what_is_wrong_with_a_scene_is_one_line(tmp_path: Path, source: Dl3dvSource, change: str, said: str) -> None:
    root = tmp_path / "dl3dv"
    nerfstudio(root / "aaa", size=(180, 320) if change == "portrait" else (320, 180))
    file = root / "aaa/nerfstudio/transforms.json"
    if change == "empty":
        file.unlink()
    elif change == "picture":
        next((root / "aaa/nerfstudio/images_4").iterdir()).unlink()
    elif change == "pose":
        content = json.loads(file.read_text())
        del content["frames"][0]["transform_matrix"]
        file.write_text(json.dumps(content))
    elif change == "broken":
        file.write_text(file.read_text()[:50])
    with pytest.raises(DataError, match=said) as error:
        run(source, root, tmp_path / "raw")
    assert "\n" not in str(error.value) and not (tmp_path / "raw").exists()


def test_the_benchmark_is_fetched_by_scene_and_its_pickle_never(tmp_path: Path, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    files = {".cache/filelist.bin": b"a pickle", "benchmark-meta.csv": b"hash\naaa\nbbb\n"}
    for name in ("aaa", "bbb"):
        nerfstudio(tmp_path / "there" / name)
    files |= {
        str(path.relative_to(tmp_path / "there")): path.read_bytes()
        for path in (tmp_path / "there").rglob("*")
        if path.is_file()
    }
    files["aaa/gaussian_splat/point_cloud.ply"] = b"large"
    with fake_hub.running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("DL3DV/DL3DV-10K-Benchmark", files, "datasets")
        words = ["source=dl3dv", "source.hashes=[aaa]", f"io.out={tmp_path}/data/raw", "runtime.progress=false"]
        download(compose("download", words))
        asked = [path for _, path, _ in hub.asked if "/resolve/" in path]
        count = len(hub.asked)
        download(compose("download", words))
        assert len(hub.asked) == count, "what was fetched is not fetched again"
    assert [scene.key.partition("-")[0] for scene in scenes(tmp_path / "data/raw/test")] == ["aaa"]
    assert asked and all("/aaa/nerfstudio/" in path for path in asked)


def test_a_scene_must_be_named_before_terabytes_are_fetched() -> None:
    with pytest.raises(ConfigError, match=r"source.hashes is empty"):
        camera_lists.dl3dv_patterns(Dl3dvSource())
    assert camera_lists.dl3dv_patterns(Dl3dvSource(subset="full"))[1] == "*/nerfstudio/images_4/*"
    with pytest.raises(ConfigError, match=r"source.split=all"):
        compose("download", ["source=dl3dv", "source.split=all"])


def test_scene_keys_depend_on_names_and_pictures(tmp_path: Path) -> None:
    nerfstudio(tmp_path / "all/aaa")
    keys = []
    for dataset in ("one", "one", "two"):
        run(Dl3dvSource(), tmp_path / "all", tmp_path / "raw", dataset)
        keys.append(scenes(tmp_path / "raw/test")[0].key)
    assert keys[0] == keys[1] != keys[2]
    assert torch.equal(scenes(tmp_path / "raw/test")[0].timestamps, torch.arange(6))


def test_scenes_are_scored_from_any_number_of_chosen_views(tmp_path: Path, capsys) -> None:
    for name in ("aaa", "bbb"):
        nerfstudio(tmp_path / "dl3dv" / name, count=9)
    run(Dl3dvSource(), tmp_path / "dl3dv", tmp_path / "raw", "dl3dv")
    assert run_stage("preprocess", preprocess, [f"io.raw={tmp_path}/raw", f"io.out={tmp_path}/packed"]) == 0
    views = ViewsConfig(image_size=28, image_width=42, resize="cover", sampler="random")
    stage = TrainStage(model=config("lact"), views=views)
    save_weights(tmp_path / "weights.safetensors", model_of("lact"), resolved(stage))
    io = {name: tmp_path / name for name in ("raw", "packed", "out")} | {"weights": tmp_path / "weights.safetensors"}
    words = [*(f"io.{key}={value}" for key, value in io.items()), "eval=views_dl3dv", "eval.video_frames=2"]
    few = ["eval.context_counts=[2,4]", "eval.num_target=3", "eval.bootstrap=10", "eval.video_scenes=1"]
    assert run_stage("evaluate", evaluate, [*words, *few]) == 0
    rows = read_rows(tmp_path / "out/rows.csv")
    frames = {count: {(row.scene, row.frame) for row in rows if row.split == f"kmeans{count}"} for count in (2, 4)}
    assert frames[2] == frames[4] and len(frames[2]) == 6
    assert read_json(tmp_path / "out/summary.json")["resolution"] == "28x42"
    assert run_stage("evaluate", evaluate, [*words, "eval.context_counts=[8]", "eval.num_target=3"]) == 2
    assert "9 usable frames, 8 context and 3 target views are asked for" in capsys.readouterr().err
