"""Twins: rooms of other content under the same cameras; whether a camera estimated in one is one in the other."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_results import write_results
from torch import Tensor, nn

from novelview.config.schema import EvalConfig, PackConfig, Study, ViewsConfig
from novelview.config.sources import RoomsSource, check_source
from novelview.errors import ConfigError, DataError
from novelview.evaluation.transfer import INDEX, NO_TWINS, pairs_of, transferability, write_transfer
from novelview.figures.results import Results
from novelview.figures.transfer import transfer, transfer_table
from novelview.scenes.batch import FrameCache, Views
from novelview.scenes.chunks import chunk_files, read_chunk
from novelview.scenes.pack import pack_chunks
from novelview.scenes.procedural.generate import generate, split_names
from novelview.scenes.procedural.layout import clearance_ok, room_for
from novelview.scenes.procedural.rendering import render_frames
from novelview.scenes.store import PackedStore

SOURCE = RoomsSource(
    **{"train_scenes": 1, "test_seen_scenes": 1, "test_new_scenes": 2, "twins": 3, "targets": 2, "frames": 12},
    **{"height": 28, "width": 28, "gaps": [6, 9]},
)
VIEWS = ViewsConfig(image_size=28)
CFG = EvalConfig(bootstrap=50)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twins")
    generate(SOURCE, folder / "raw", 0, progress=False)
    pack_chunks({"test": chunk_files(folder / "raw" / "test")}, folder / "packed", PackConfig(), progress=False)
    return folder / "raw"


@pytest.fixture
def cache(raw: Path) -> FrameCache:
    return FrameCache(PackedStore(raw.parent / "packed" / "test"), VIEWS, 16)


def test_twins_have_the_cameras_and_nothing_else_in_common() -> None:
    for number in range(SOURCE.twins):
        first, second = room_for(SOURCE, "new", number), room_for(SOURCE, "twin", number)
        assert torch.equal(first.c2w, second.c2w) and torch.equal(first.intrinsics, second.intrinsics)
        assert first.key != second.key and first.solids[0].half == second.solids[0].half
        assert first.solids[0].faces != second.solids[0].faces and first.solids[1:] != second.solids[1:]
        assert clearance_ok(second.c2w[:, :3, 3], second.solids) and len(second.solids) > 1
        pair = [render_frames(room, room.c2w[:3], 28, 28, 24).float() / 255 for room in (first, second)]
        assert (pair[0] - pair[1]).abs().mean() > 0.05


def test_they_stand_in_the_index_of_pairs_and_in_no_other(raw: Path) -> None:
    content = json.loads((raw / "indices" / INDEX).read_text())
    sets = json.loads((raw / "scenes.json").read_text())
    assert [row["set"] for row in sets.values()] == ["train", "seen", "new", "new", "new", "twin", "twin", "twin"]
    pairs: dict[int, list[str]] = {}
    for key, row in content.items():
        pairs.setdefault(row["pair"], []).append(sets[key]["set"])
        assert row["context"][1] - row["context"][0] == 9 and len(row["target"]) == SOURCE.targets
    assert pairs == {number: ["new", "twin"] for number in range(3)}
    judged = {key for name in split_names(SOURCE) for key in json.loads((raw / f"indices/{name}.json").read_text())}
    assert judged == {key for key, row in sets.items() if row["set"] in ("seen", "new")} - {
        room_for(SOURCE, "new", 2).key  # only there for its twin
    }


def test_without_twins_nothing_is_added(tmp_path: Path) -> None:
    generate(dataclasses.replace(SOURCE, twins=0, test_new_scenes=1), tmp_path, 0, progress=False)
    assert not (tmp_path / "indices" / INDEX).exists() and len(json.loads((tmp_path / "scenes.json").read_text())) == 3
    with pytest.raises(ConfigError, match=r"source\.twins=2: needs source\.gaps"):
        check_source(dataclasses.replace(SOURCE, gaps=[], twins=2))


class Fake(nn.Module):
    """Renders by looking the truth up: by the frame a camera is of, or by the picture it came from (a cheat)."""

    def __init__(self, cheats: bool, cache: FrameCache, blind: bool = False) -> None:
        super().__init__()
        self.cheats, self.cache, self.blind = cheats, cache, blind

    def estimate_poses(self, context: Views, images: Tensor) -> Tensor:
        """Return matrices that carry the number of the frame, and in a cheat the mean colour of the picture."""
        code = torch.eye(4).repeat(1, images.shape[1], 1, 1)
        for place in range(images.shape[1]):
            code[0, place, 0, 3] = float(self._frame(images[0, place]))
            code[0, place, :3, 2] = images[0, place].mean(dim=(1, 2))
        return code

    def _frame(self, image: Tensor) -> int:
        return min(self._all(), key=lambda one: float((self._picture(*one) - image).abs().mean()))[1]

    def _all(self) -> list[tuple[str, int]]:
        return [(scene, frame) for scene in self.cache.store.scenes for frame in range(12)]

    def _picture(self, scene: str, frame: int) -> Tensor:
        return self.cache.sample(scene, [frame], 0).images[0].float() / 255

    def render_path(self, context: Views, c2w: Tensor, intrinsics: Tensor) -> Tensor:
        """Return the truth at the frames, or flat colours for a cheat."""
        assert context.images is not None
        scene = min(
            self.cache.store.scenes,
            key=lambda one: min(float((self._picture(one, n) - context.images[0, 0]).abs().mean()) for n in range(12)),
        )
        made = []
        for camera in c2w[0]:
            true = self._picture(scene, round(float(camera[0, 3])))
            flat = camera[:3, 2, None, None].expand_as(true)
            made.append(torch.full_like(true, 0.5) if self.blind else flat if self.cheats else true)
        return torch.stack(made)[None]


def test_a_camera_transfers_and_a_code_does_not(raw: Path, cache: FrameCache, tmp_path: Path) -> None:
    honest = write_transfer(tmp_path, Fake(False, cache), cache, raw, CFG, CPU)
    assert honest and honest["reason"] is None and honest["pairs"] == 3
    assert honest["own"]["mean"] > 60 and honest["transfer"]["mean"] > 60 > honest["swapped"]["mean"]
    assert honest["transferability"]["mean"] == pytest.approx(1.0)
    cheat = write_transfer(tmp_path, Fake(True, cache), cache, raw, CFG, CPU)
    assert cheat and cheat["transfer"]["mean"] < cheat["own"]["mean"] - 1
    assert not cheat["transferability"] or cheat["transferability"]["mean"] < 0.5
    blind = write_transfer(tmp_path, Fake(False, cache, blind=True), cache, raw, CFG, CPU)
    assert blind and blind["transferability"] is None and blind["own"] == blind["swapped"]


def test_what_has_no_twins_says_so_and_what_estimates_nothing_is_not_asked(raw, cache, tmp_path: Path) -> None:
    told = write_transfer(tmp_path, Fake(False, cache), cache, tmp_path, CFG, CPU)
    assert told and (told["reason"], told["pairs"]) == (NO_TWINS, 0) and not list(tmp_path.iterdir())
    assert write_transfer(tmp_path, nn.Linear(2, 2), cache, raw, CFG, CPU) is None
    assert len(pairs_of(raw / "indices" / INDEX, cache)) == 3


def test_the_share_is_that_of_the_means_with_an_interval_over_pairs() -> None:
    own, swapped = np.array([20.0, 22.0, 21.0, 23.0]), np.array([18.0, 18.0, 18.0, 18.0])
    found = transferability(own, (own + swapped) / 2, swapped, 200, 0)
    assert found == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert transferability(swapped, own, swapped, 200, 0) is None


def told_of(folders: list[Path], told: dict[str, Any] | None) -> Results:
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        summary["transfer"] = told if summary["model"] == "uplvsm" else None
        (folder / "summary.json").write_text(json.dumps(summary))
    return Results(folders, study=Study(name="made-up"))


def test_the_page_has_pictures_and_a_table_of_pairs_or_the_reason(raw, cache, tmp_path: Path) -> None:
    folders, _ = write_results(tmp_path)
    told = write_transfer(folders[0], Fake(False, cache), cache, raw, CFG, CPU)
    results = told_of(folders, told)
    figure, table = transfer(results), transfer_table(results)
    assert len(figure.axes) == 3 * 6
    [row] = table.grids[0].rows
    assert row.head[0] == "UP-LVSM" and row.head[2] == "3" and row.cells[-1].whole == "1.00 [1.00, 1.00]"
    assert {record[2] for record in table.records} >= {"own", "transfer", "swapped", "transferability", "mean_context"}
    without = told_of(folders, {"reason": NO_TWINS, "pairs": 0, "measures": {}})
    assert NO_TWINS in transfer(without).texts[0].get_text() and not transfer_table(without).grids[0].rows
    assert any("n/a (no twins" in note for note in transfer_table(without).grids[0].notes)
    with pytest.raises(DataError, match="none of the models estimates cameras"):
        transfer(told_of(folders, None))


def test_rooms_of_an_index_that_are_not_packed_are_left_out(raw: Path, cache: FrameCache, tmp_path: Path) -> None:
    content = json.loads((raw / "indices" / INDEX).read_text())
    (tmp_path / INDEX).write_text(
        json.dumps({f"gone{key}" if row["pair"] == 0 else key: row for key, row in content.items()})
    )
    assert len(pairs_of(tmp_path / INDEX, cache)) == 2
    assert len(list(read_chunk(chunk_files(raw / "test")[0]))) > 0
