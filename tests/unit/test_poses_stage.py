"""Stage `poses`: cameras replaced, failures on record, runs that stop and go on, and what comes after it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from posed_samples import FRAMES, Fake, raw_data, scene, stage

from novelview.config.compose import compose
from novelview.config.sources import ColmapEstimator, RoomsSource, VggtEstimator
from novelview.config.stages import PreprocessStage
from novelview.errors import ConfigError, DataError
from novelview.evaluation.protocol import Splits
from novelview.files import read_json
from novelview.scenes.chunks import read_chunk, write_chunk
from novelview.scenes.estimation.estimate import Colmap, Estimate, Given, given_cameras
from novelview.scenes.estimation.replace import errors, place
from novelview.scenes.imports.reconstruct import Stopped, run_apart
from novelview.scenes.procedural.generate import make
from novelview.scenes.store import PackedStore
from novelview.scenes.views import load_index
from novelview.stages import poses
from novelview.stages.cli import run_stage
from novelview.stages.preprocess import preprocess

SPOILT = ["none", "boom", "killed", "empty", "nan", "flat", "stranger", "still"]
KEYS = ["whole", "part", *SPOILT]
Runner = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Return run(estimator, keys, **changes) -> the new data set."""

    def made(estimator: Any, keys: list[str] = KEYS, **changes: Any) -> Path:
        raw = tmp_path / "data" / "raw"
        if not raw.exists():
            raw_data(raw, keys)
        monkeypatch.setattr(poses, "estimator", lambda cfg: estimator)
        poses.poses(stage(raw, tmp_path / "out" / "raw", **changes))
        return tmp_path / "out" / "raw"

    return made


def test_cameras_return_to_the_given_ones_and_lenses_are_the_estimators(run: Runner) -> None:
    out = run(Fake(), ["whole", "other"])
    (one, other), truth = read_chunk(out / "test" / "000000.torch"), scene("whole", 0)
    assert (one.key, other.key) == ("whole", "other")
    torch.testing.assert_close(one.cameras[:, 6:], truth.cameras[:, 6:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.cameras[:, :4], 1.1 * truth.cameras[:, :4])
    assert [bytes(image.numpy()) for image in one.images] == truth.images
    record = read_json(out / "poses.json")
    own = record["scenes"]["whole"]
    assert own["placed"] == list(range(FRAMES)) and own["failure"] is None and own["set"] == "new"
    assert max(own["rotation_deg"]) < 1e-3 and max(own["translation"]) < 1e-4 and abs(own["focal"] - 1.1) < 1e-4
    assert abs(own["scale"] - 1 / 3) < 1e-4 and own["reprojection_px"] == 0.5
    assert own["depth_range"] == pytest.approx([own["scale"], 6 * own["scale"]])
    assert record["entries"] == {"near": {"index": 2, "kept": 2}, "wide": {"index": 1, "kept": 1}}
    assert not (out / "train").exists()


def test_every_failure_is_on_record_and_nothing_is_filled_in(run: Runner) -> None:
    out = run(Fake())
    record = read_json(out / "poses.json")
    reasons = {key: scene["failure"] for key, scene in record["scenes"].items() if scene["failure"]}
    assert list(reasons) == SPOILT
    words = ["registered", "RuntimeError: wires crossed", "SIGKILL", "none of 8", "finite", "finite", "not given"]
    for key, word in zip(SPOILT, [*words, "one place"], strict=True):
        assert word in reasons[key] and "\n" not in reasons[key], reasons[key]
    assert record["summary"]["placed_scenes"] == 2 and record["summary"]["placed_frames"] == FRAMES + 5
    assert sum(record["summary"]["failures"].values()) == len(SPOILT)
    written = {item.key: item for path in (out / "test").glob("*.torch") for item in read_chunk(path)}
    assert set(written) == {"whole", "part"} == set(read_json(out / "test" / "index.json"))
    part = written["part"]
    assert [row for row, image in enumerate(part.images) if not len(image)] == [4, 5, 7]
    torch.testing.assert_close(part.cameras[6, 6:], scene("part", 1).cameras[6, 6:], atol=1e-5, rtol=1e-5)
    assert read_json(out / "manifest.json")["unposed"] == {"part": [4, 5, 7]}


def test_what_follows_sees_the_same_entries_and_counts_the_missing_ones(run: Runner, tmp_path: Path) -> None:
    out = run(Fake())
    raw = tmp_path / "data" / "raw"
    for name in ("scenes.json", "indices/near.json"):
        assert (out / name).read_bytes() == (raw / name).read_bytes()
    # `whole` has no entry in `wide` and `part` lacks frames of its own: nothing is left to serve.
    assert read_json(out / "indices" / "wide.json") == {}
    assert read_json(out / "poses.json")["entries"] == {
        "near": {"index": 10, "kept": 2},
        "wide": {"index": 9, "kept": 0},
    }
    cfg = PreprocessStage(io={"raw": str(out), "out": str(tmp_path / "packed")})
    cfg.runtime.progress = False
    preprocess(cfg)
    store = PackedStore(tmp_path / "packed" / "test")
    assert store.bad("part") == {4, 5, 7} and read_json(tmp_path / "packed" / "manifest.json")["bad_frames"] == []
    indices = {name: load_index(out / "indices" / f"{name}.json") for name in ("near", "wide")}
    task = Splits.of(store, indices, {})
    assert task.coverage() == {"near": {"index": 10, "evaluated": 2}, "wide": {"index": 0, "evaluated": 0}}


def test_a_stopped_run_goes_on_and_mendable_failures_are_tried_again(run: Runner, tmp_path: Path) -> None:
    class Stops(Fake):
        def estimate(self, scene: Any, *rest: Any) -> Estimate:
            if scene.key == "part":
                raise KeyboardInterrupt
            return super().estimate(scene, *rest)

    with pytest.raises(KeyboardInterrupt):
        run(Stops())
    assert not (tmp_path / "out" / "raw").exists() and list((tmp_path / "out").iterdir()) == [
        tmp_path / "out" / "estimates"
    ]
    second = Fake()
    first = (run(second) / "test" / "000000.torch").read_bytes()
    assert "whole" not in second.calls and "part" in second.calls
    third = Fake()
    out = run(third)
    assert sorted(third.calls) == ["boom", "killed"] and (out / "test" / "000000.torch").read_bytes() == first
    damaged = tmp_path / "out" / "estimates" / "whole.json"
    damaged.write_text(damaged.read_text()[:-40])
    fourth = Fake()
    assert (run(fourth) / "test" / "000000.torch").read_bytes() == first and "whole" in fourth.calls


def test_other_settings_or_pictures_are_estimated_anew(run: Runner) -> None:
    run(Fake(), ["whole", "other"])
    again, fresh = Fake(), Fake()
    run(again, align="scale", length=2.0)
    assert again.calls == []
    cfg = {"poses": ColmapEstimator(seed=1)}
    run(fresh, **cfg)
    assert sorted(fresh.calls) == ["other", "whole"]


def test_processes_work_side_by_side_with_the_same_result(run: Runner, tmp_path: Path) -> None:
    one = run(Fake(), ["whole", "part", "other", "more"])
    files = {path.name: path.read_bytes() for path in one.rglob("*.torch")}
    (tmp_path / "out" / "estimates").rename(tmp_path / "gone")
    cfg = stage(tmp_path / "data" / "raw", tmp_path / "out" / "raw")
    cfg.runtime.workers = 2
    poses.poses(cfg)
    assert {path.name: path.read_bytes() for path in one.rglob("*.torch")} == files and len(files) == 2


@pytest.mark.parametrize(("align", "factor"), [("none", 3.0), ("scale", None)])
def test_without_truth_the_estimate_keeps_its_own_world(run: Runner, align: str, factor: float | None) -> None:
    out = run(Fake(), ["whole", "other"], align=align, length=2.5)
    found = torch.linalg.inv(given_cameras(read_chunk(out / "test" / "000000.torch")[0])[0])[:, :3, 3]
    true = torch.linalg.inv(given_cameras(scene("whole", 0))[0])[:, :3, 3]
    extent = 2.5 if factor is None else factor * torch.pdist(true).max().item()
    assert abs(torch.pdist(found).max().item() - extent) < 1e-4
    assert max(read_json(out / "poses.json")["scenes"]["whole"]["rotation_deg"]) < 1e-3


def test_training_scenes_are_estimated_whole(run: Runner) -> None:
    out = run(Fake(), ["whole"], splits=["train", "test"])
    assert [item.key for item in read_chunk(out / "train" / "000000.torch")] == ["learnt"]
    assert read_json(out / "poses.json")["scenes"]["learnt"]["asked"] == FRAMES


def test_entries_alone_or_a_thinned_scene(run: Runner) -> None:
    out = run(Fake(), ["one", "two"], poses=VggtEstimator(max_frames=0))
    scenes = read_json(out / "poses.json")["scenes"]
    assert scenes["one"]["placed"] == [0, 1, 2, 3] and scenes["two"]["placed"] == [0, 1, 2, 3, 5, 7]
    out = run(Fake(), poses=ColmapEstimator(max_frames=5))
    scenes = read_json(out / "poses.json")["scenes"]
    assert len(scenes["one"]["placed"]) == 5 and {0, 1, 2, 3} < set(scenes["one"]["placed"])
    assert scenes["two"]["placed"] == [0, 1, 2, 3, 5, 7]  # what entries name is never left out


def test_the_given_cameras_go_through_unchanged(run: Runner, tmp_path: Path) -> None:
    out = run(Given(), ["whole", "other"], align="none")
    ours, theirs = (read_chunk(folder / "test" / "000000.torch")[1] for folder in (out, tmp_path / "data" / "raw"))
    assert torch.equal(ours.cameras, theirs.cameras) and len(ours.images) == len(theirs.images)


@pytest.mark.parametrize(
    ("keys", "changes", "words"),
    [
        (["none", "boom"], {}, ["none of 2 scenes got cameras", "estimates/poses.json"]),
        (["other", "part"], {"splits": ["validation"]}, ["validation", "test, train"]),
    ],
)
def test_a_run_without_a_result_is_one_line_and_leaves_the_record(
    run: Runner, tmp_path: Path, keys: list[str], changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises((DataError, ConfigError)) as caught:
        run(Fake(), keys, **changes)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "raw").exists()
    if not changes:
        assert read_json(tmp_path / "out" / "estimates" / "poses.json")["summary"]["placed_scenes"] == 0


def test_a_chunk_that_changed_since_it_was_listed_is_refused(run: Runner, tmp_path: Path) -> None:
    run(Fake(), ["whole", "other"])
    chunk = tmp_path / "data" / "raw" / "test" / "000000.torch"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"000000\.torch: its content differs"):
        run(Fake())


def test_absent_weights_and_a_data_set_onto_itself_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    raw = raw_data(tmp_path / "raw", ["whole"])
    words = [f"io.raw={raw}", f"io.out={tmp_path}/out", f"poses.weights={tmp_path}/no.safetensors"]
    assert run_stage("poses", poses.poses, ["poses=vggt", *words]) == 2
    assert "novelview.stages.fetch vggt" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert run_stage("poses", poses.poses, ["poses=colmap", f"io.raw={raw}", f"io.out={raw}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and (raw / "manifest.json").exists()


@pytest.mark.parametrize("word", ["poses=droid", "align=icp", "length=0", "poses.matcher=loftr", "poses.max_frames=-1"])
def test_wrong_settings_are_refused(word: str) -> None:
    with pytest.raises(ConfigError):
        compose("poses", [word])


@pytest.mark.parametrize(
    ("script", "seconds", "kind", "words"),
    [
        ("kill -9 $$", None, Stopped, "killed by SIGKILL"),
        ("sleep 20", 0.2, Stopped, "longer than 0.2 s"),
        ("echo no memory >&2; exit 3", None, DataError, "status 3 (no memory)"),
    ],
)
def test_a_process_that_dies_hangs_or_fails_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, seconds: float | None, kind: type, words: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    (tmp_path / "work").mkdir()
    with pytest.raises(kind, match=None) as caught:
        run_apart({}, tmp_path / "work", tmp_path / "log", 1, seconds)
    assert type(caught.value) is kind and words in str(caught.value) and str(tmp_path / "log") in str(caught.value)


def test_one_camera_fixes_no_scale() -> None:
    estimate = Estimate([0], torch.eye(4)[None].double(), torch.ones(1, 4))
    with pytest.raises(DataError, match="scale open"):
        place(estimate, torch.eye(4)[None].double(), "sim3", 1.0)
    assert place(estimate, torch.eye(4)[None].double(), "none", 1.0)[1] == 1.0


def test_too_few_frames_for_structure_from_motion(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 3"):
        Colmap(ColmapEstimator()).estimate(scene("two"), [0, 1], tmp_path, tmp_path / "log")


@pytest.mark.slow
def test_structure_from_motion_finds_the_cameras_of_a_scene(tmp_path: Path) -> None:
    """Real pycolmap on a clip of a sharp room; the lens is given in one run and estimated in the other."""
    room = make(RoomsSource(texture_texels=0), "new", 0)[0]
    write_chunk(tmp_path / "000000.torch", [room])
    clip = read_chunk(tmp_path / "000000.torch")[0]
    frames = list(range(0, 24, 2))
    given, intrinsics = given_cameras(clip)
    for kind in ("given", "estimate"):
        (tmp_path / kind).mkdir()
        estimate = Colmap(ColmapEstimator(intrinsics=kind)).estimate(clip, frames, tmp_path / kind, tmp_path / "log")
        found = errors(estimate, given[estimate.frames], intrinsics[estimate.frames])
        assert found is not None and len(estimate.frames) >= 8 and set(estimate.frames) <= set(frames)
        assert max(found["relative_rotation_deg"]) < 5 and estimate.quality["reprojection_px"] < 2
        assert abs(found["focal"] - 1) < (1e-6 if kind == "given" else 0.25)


def test_a_kept_estimate_that_changed_is_found_again_not_used(run: Runner, tmp_path: Path) -> None:
    fake = Fake()
    one = run(fake, ["whole", "other"])
    before = (one / "test" / "000000.torch").read_bytes()
    path = tmp_path / "out" / "estimates" / "whole.json"
    content = read_json(path)
    content["w2c"][3][0][3] += 0.25  # still a camera
    path.write_text(json.dumps(content))
    fake.calls.clear()
    assert (run(fake) / "test" / "000000.torch").read_bytes() == before and fake.calls == ["whole"]


def test_scenes_that_failed_for_want_of_time_or_memory_are_named_at_the_end_and_tried_again(run: Runner) -> None:
    fake = Fake()
    with pytest.raises(
        DataError, match=r"2 scenes failed: boom \(RuntimeError: wires crossed\), killed \(.*max_failed=2"
    ):
        run(fake, ["boom", "whole", "killed", "other"], max_failed=0)
    assert fake.calls == ["boom", "whole", "killed", "other"], "the others go on"
    fake.calls.clear()
    fake.spoilt = lambda key, found: found  # type: ignore[method-assign]
    assert (run(fake, max_failed=0) / "manifest.json").is_file() and fake.calls == ["boom", "killed"]
