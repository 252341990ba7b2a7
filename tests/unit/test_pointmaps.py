"""Teacher pointmaps: exact ones lie on the rooms' surfaces, travel with the pictures, and are refused when unfit."""

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_vggt import tiny as tiny_vggt

from novelview.cameras.camera import unproject
from novelview.config.schema import AugmentConfig, ViewsConfig
from novelview.config.sources import RoomsSource
from novelview.errors import DataError
from novelview.models.vggt.model import VGGT
from novelview.scenes.batch import FrameCache
from novelview.scenes.dataset import TrainSet
from novelview.scenes.pointmaps import Pointmaps
from novelview.scenes.procedural.layout import room_for
from novelview.scenes.procedural.truth import exact_depth
from novelview.scenes.store import PackedStore
from novelview.stages import pointmaps as stage
from novelview.stages.cli import run_stage
from novelview.stages.download import download
from novelview.stages.pointmaps import pointmaps
from novelview.stages.poses import poses
from novelview.stages.preprocess import preprocess
from novelview.stages.train import train
from novelview.timebox import Share, Unfinished

VIEWS = ViewsConfig(
    image_size=24, patch_size=8, resize="centred", pose_normalisation="none", sampler="bounded", num_target=2,
    min_frame_dist=3, max_frame_dist=6,
)  # fmt: skip
SIZED = ["views.image_size=24", "views.patch_size=8", "views.resize=centred"]
ROOMS = [
    "source=rooms",
    *(
        "source.train_scenes=2",
        "source.test_seen_scenes=1",
        "source.test_new_scenes=0",
        "source.frames=10",
        "source.twins=0",
    ),
    *("source.gaps=[6]", "source.height=36", "source.width=64", "source.jpeg_quality=99"),
]


def teach(words: list[str]) -> int:
    return run_stage("pointmaps", pointmaps, words)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with raw, packed and pointmaps of two small rooms."""
    folder = tmp_path_factory.mktemp("rooms")
    assert run_stage("download", download, [*ROOMS, f"io.out={folder}/raw"]) == 0
    assert run_stage("preprocess", preprocess, [*_io(folder)[:1], f"io.out={folder}/packed"]) == 0
    assert teach([*SIZED, *_io(folder), f"io.out={folder}/points"]) == 0
    return folder


def _io(folder: Path) -> list[str]:
    return [f"io.raw={folder}/raw", f"io.packed={folder}/packed"]


def test_every_point_lies_on_a_surface_and_in_its_own_pixel(data: Path) -> None:
    store = PackedStore(data / "packed/train")
    points = Pointmaps(data / "points", VIEWS, "exact")
    samples = TrainSet(store, VIEWS, seed=1, pointmaps=points)
    for position in range(4):
        sample = samples.sample_at(position, 1)
        assert sample.points is not None and sample.points.shape == (4, 3, 24, 24)
        pose = sample.c2w.double()
        local = torch.einsum("vji,vjhw->vihw", pose[:, :3, :3], sample.points - pose[:, :3, 3, None, None])
        fx, fy, cx, cy = sample.intrinsics.double()[..., None, None].unbind(1)
        grid = torch.arange(24) + 0.5
        assert torch.allclose(fx * local[:, 0] / local[:, 2] + cx, grid.double().expand(4, 24, 24), atol=1e-3)
        assert torch.allclose(fy * local[:, 1] / local[:, 2] + cy, grid.double()[:, None].expand(4, 24, 24), atol=1e-3)
        _on_a_surface(sample.scene, store, sample.points)


def _on_a_surface(scene: str, store: PackedStore, points: torch.Tensor) -> None:
    room = room_for(RoomsSource(train_scenes=2, frames=10), "train", int(store.url(scene).rpartition("/")[2]))
    shell = torch.tensor(room.solids[0].half)[:, None, None]
    to_wall = (shell - points.abs()).amin(dim=1)
    assert float(to_wall.min()) > -1e-3
    for point in points.movedim(1, -1)[to_wall > 0.02].tolist():
        assert min(solid.distance(tuple(point)) for solid in room.solids[1:]) < 0.02


def test_two_views_of_a_wall_agree(data: Path) -> None:
    store = PackedStore(data / "packed/train")
    maps, scene = Pointmaps(data / "points", VIEWS, "exact"), store.scenes[0]
    first, second = maps.points(scene, [0, 2]).flatten(2).transpose(1, 2)
    nearest = torch.cdist(first, second).amin(dim=1)
    assert float(nearest.median()) < 0.15  # metres: about a pixel of these coarse maps


def test_mirrored_samples_are_mirrored_worlds(data: Path) -> None:
    store = PackedStore(data / "packed/train")
    maps = Pointmaps(data / "points", VIEWS, "exact")
    plain = TrainSet(store, VIEWS, seed=1, pointmaps=maps)
    mirrored = TrainSet(store, replace(VIEWS, augment=AugmentConfig(mirror=True, swap_context=True)), 1, pointmaps=maps)
    seen = set()
    for position in range(12):
        one, other = plain.sample_at(position, 1), mirrored.sample_at(position, 1)
        assert one.points is not None and other.points is not None
        flipped = bool((other.intrinsics - one.intrinsics).abs().max() > 1e-6) or not torch.equal(one.c2w, other.c2w)
        local = torch.einsum("vji,vjhw->vihw", other.c2w[:, :3, :3], other.points - other.c2w[:, :3, 3, None, None])
        fx, _, cx, _ = other.intrinsics[..., None, None].unbind(1)
        across = fx * local[:, 0] / local[:, 2] + cx
        assert torch.allclose(across, (torch.arange(24) + 0.5).expand(4, 24, 24), atol=2e-3)
        seen.add(flipped)
    assert seen == {True, False}


def test_batches_carry_the_points_of_their_contexts_alone(data: Path) -> None:
    maps = Pointmaps(data / "points", VIEWS, "exact")
    batch = TrainSet(PackedStore(data / "packed/train"), VIEWS, seed=1, pointmaps=maps).batch(0, 2).to_batch()
    assert batch.context.points is not None and batch.context.points.shape == (2, 2, 3, 24, 24)
    assert batch.target.points is None
    expected = maps.points(batch.scene[0], batch.context.frame[0].tolist())
    assert torch.equal(batch.context.points[0], expected)


def test_unfit_pointmaps_are_refused_in_one_line(data: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(DataError, match="by teacher exact, the training asks for vggt"):
        Pointmaps(data / "points", VIEWS, "vggt")
    with pytest.raises(DataError, match="made for image_size=24, not for 32"):
        Pointmaps(data / "points", replace(VIEWS, image_size=32), "exact")
    with pytest.raises(DataError, match="no such file"):
        Pointmaps(tmp_path / "nothing", VIEWS, "exact")
    maps = Pointmaps(data / "points", VIEWS, "exact")
    with pytest.raises(DataError, match="no pointmaps of scene elsewhere"):
        maps.points("elsewhere", [0])
    with pytest.raises(DataError, match="no pointmap of a frame"):
        maps.points(next(iter(maps.scenes)), [99])
    content = json.loads((data / "points/manifest.json").read_text())
    copy = tmp_path / "cut"
    copy.mkdir()
    for entry in content["scenes"].values():
        (copy / entry["file"]).write_bytes((data / "points" / entry["file"]).read_bytes()[:-5])
    (copy / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="bytes instead of"):
        Pointmaps(copy, VIEWS, "exact")


def test_a_teacher_that_cannot_teach_says_why_and_writes_nothing(data: Path, tmp_path: Path, capsys) -> None:
    given = [*SIZED, *_io(data), f"io.out={tmp_path}/vggt", "teacher=vggt", f"weights={tmp_path}/absent.safetensors"]
    assert teach(given) == 2
    assert "weights of VGGT are not here" in capsys.readouterr().err
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "manifest.json").write_text(json.dumps({"files": {}, "source": {"kind": "photos"}}))
    assert teach([*SIZED, f"io.raw={raw}", f"io.packed={data}/packed", f"io.out={tmp_path}/exact"]) == 2
    error = capsys.readouterr().err
    assert "no exact depth" in error and error.count("\n") == 1
    assert not (tmp_path / "vggt").exists() and not (tmp_path / "exact").exists()


def test_vggt_teaches_all_frames_of_a_scene_in_one_world(data: Path, tmp_path: Path, monkeypatch) -> None:
    torch.manual_seed(0)
    model = VGGT(tiny_vggt()).requires_grad_(False).eval()
    monkeypatch.setattr("novelview.stages.pointmaps.load_vggt", lambda path: model)
    size = ["views.image_size=40", *SIZED[1:]]  # no multiple of 14: pictures shrink to 28, points grow back to 40
    assert teach([*size, *_io(data), f"io.out={tmp_path}/vggt", "teacher=vggt"]) == 0
    store, views = PackedStore(data / "packed/train"), replace(VIEWS, image_size=40)
    scene = store.scenes[1]
    points = Pointmaps(tmp_path / "vggt", views, "vggt").points(scene, range(10))
    images = torch.stack(FrameCache(store, views, 0).frames(scene, range(10)))[None].float() / 255
    small = torch.nn.functional.interpolate(images[0], (28, 28), mode="bilinear", align_corners=False)[None]
    maps = model(small)["world_points"][0].movedim(-1, 1)
    grown = torch.nn.functional.interpolate(maps, (40, 40), mode="nearest")
    assert points.shape == (10, 3, 40, 40)
    assert torch.allclose(points, grown, rtol=2e-3, atol=1e-4)  # kept as float16


def test_replaced_cameras_have_no_exact_depth(data: Path, tmp_path: Path) -> None:
    source = json.loads((data / "raw/manifest.json").read_text())["source"]
    for content, why in (
        ({"source": {**source, "seed": 1}}, "not the rooms' own"),
        ({"source": source, "poses": {"estimator": "colmap"}}, "cameras are estimated"),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        found, reason = exact_depth(tmp_path, PackedStore(data / "packed/train"))
        assert found is None and reason is not None and why in reason


def test_unprojection_inverts_projection() -> None:
    depth = torch.rand(2, 5, 7, dtype=torch.float64) + 1
    c2w = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    c2w[1, :3, :3] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    c2w[1, :3, 3] = torch.tensor([1.0, 2, 3])
    lens = torch.tensor([[6.0, 5.0, 3.5, 2.5]]).expand(2, 4)
    points = unproject(depth, c2w, lens)
    local = torch.einsum("vji,vjhw->vihw", c2w[:, :3, :3], points - c2w[:, :3, 3, None, None])
    assert torch.allclose(local[:, 2], depth)
    assert torch.allclose(6 * local[:, 0] / local[:, 2] + 3.5, (torch.arange(7) + 0.5).double().expand(2, 5, 7))


@pytest.mark.slow
def test_a_training_with_pm_loss_goes_on_to_the_same_bytes(data: Path, tmp_path: Path) -> None:
    size = ["views.image_size=32", "views.patch_size=16", "views.resize=centred"]
    assert teach([*size, *_io(data), f"io.out={tmp_path}/points"]) == 0
    words = [
        *("model=depthsplat", "scale=demo", "recipe=demo/depthsplat_pm/pretrain", "views.image_size=32"),
        *("views.min_frame_dist=5", "views.max_frame_dist=8", "views.dist_steps=3"),
        *("views.start_min_dist=2", "views.start_max_dist=3", "train.steps=4", "train.batch_size=1"),
        *(f"io.packed={data}/packed", f"io.pointmaps={tmp_path}/points", "runtime.wandb=disabled"),
        *("runtime.checkpoint_seconds=0", "runtime.keep_checkpoints=9", "runtime.log_every=1", "runtime.device=cpu"),
    ]
    assert run_stage("train", train, [*words, *_outputs(tmp_path / "whole")]) == 0
    second = next((tmp_path / "whole/checkpoints").glob("*-000000002-*.pt"))
    (tmp_path / "part/checkpoints").mkdir(parents=True)
    shutil.copy(second, tmp_path / "part/checkpoints")
    assert run_stage("train", train, [*words, *_outputs(tmp_path / "part")]) == 0
    logs = [(tmp_path / name / "train.csv").read_text().splitlines() for name in ("whole", "part")]
    assert logs[0][0] == "step,loss,mse,psnr,pointmap,lr,grad_norm,skipped,seconds"
    assert [line.rpartition(",")[0] for line in logs[0]] == [line.rpartition(",")[0] for line in logs[1]]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "part")]
    assert weights[0] == weights[1]
    without = [word for word in words if not word.startswith("io.pointmaps")]
    assert run_stage("train", train, [*without, *_outputs(tmp_path / "none")]) == 2


def _outputs(folder: Path) -> list[str]:
    files = {"out": "model.safetensors", "log": "train.csv", "checkpoints": "checkpoints"}
    return [f"io.{key}={folder}/{name}" for key, name in files.items()]


def test_a_scene_that_fails_is_named_and_others_are_made_once(data: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    asked, own = [], stage._exact

    def failing(*given):
        def teach_all_but_one(scene: str, frames: list[int]) -> torch.Tensor:
            asked.append(scene)
            if scene == PackedStore(data / "packed/train").scenes[0] and len(asked) <= 4:
                raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
            return own(*given)(scene, frames)

        return teach_all_but_one

    monkeypatch.setattr(stage, "_exact", failing)
    scenes = PackedStore(data / "packed/train").scenes
    words = [*SIZED, *_io(data), f"io.out={tmp_path}/exact"]
    assert teach(words) == 2 and asked == scenes
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"no pointmaps of 1 scenes: {scenes[0]} (CUDA out of memory. Tried to allocate 2 GiB)" in error
    assert not (tmp_path / "exact").exists()
    asked += ["-"] * 4
    assert teach(words) == 0 and asked[len(scenes) + 4 :] == scenes[:1]
    for path in (data / "points").iterdir():
        assert path.name == "config.yaml" or (tmp_path / "exact" / path.name).read_bytes() == path.read_bytes()


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, "runtime.progress=false"], capture_output=True, text=True, env=environment)


def test_processes_share_the_scenes_and_the_result_is_one_process_s(data: Path, tmp_path: Path) -> None:
    for time in range(2):  # the second call finds what the first one's processes left of themselves, and no more
        out = tmp_path / "shared" / "points"
        done = torchrun("novelview.stages.pointmaps", *SIZED, *_io(data), f"io.out={out}", "runtime.device=cpu")
        assert done.returncode == 0, done.stderr
        found = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "config.yaml"}
        assert found == {name: (data / "points" / name).read_bytes() for name in found} and len(found) == 3
        assert [path.name for path in (tmp_path / "shared").iterdir()] == ["points"], time


def test_reports_of_an_earlier_launch_are_not_taken_for_those_of_this_one(tmp_path: Path) -> None:
    """An error keeps the units, and in them what the processes of that launch said."""
    units = Unfinished(tmp_path / "out", "stamp")
    for rank in (1, 0):
        assert Share(rank, 2, "first").meet(units, f"first {rank}") == (["first 0", "first 1"] if rank == 0 else None)
    late = threading.Timer(0.5, lambda: Share(1, 2, "second").meet(units, "second 1"))
    late.start()
    assert Share(0, 2, "second").meet(units, "second 0") == ["second 0", "second 1"]
    late.join()


def test_processes_share_the_scenes_of_poses(data: Path, tmp_path: Path) -> None:
    words = ["novelview.stages.poses", "poses=given", f"io.raw={data}/raw", "splits=[train,test]"]
    done = torchrun(*words, f"io.out={tmp_path}/two/raw")
    assert done.returncode == 0, done.stderr
    assert run_stage("poses", poses, [*words[1:], f"io.out={tmp_path}/one/raw", "runtime.progress=false"]) == 0
    chunks = {path.relative_to(tmp_path / "one"): path.read_bytes() for path in (tmp_path / "one/raw").rglob("*.torch")}
    assert len(chunks) == 2 and all((tmp_path / "two" / name).read_bytes() == own for name, own in chunks.items())
    logged = [path.name for path in (tmp_path / "two/estimates").glob("*.json")]
    assert len(logged) == 4  # three scenes and poses.json
