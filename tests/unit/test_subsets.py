"""Training subsets: the first chunks of a data set, and the published numbers of RealEstate10K's. The training sampler
and evaluation indices."""

import json
import logging
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from novelview.config.compose import compose
from novelview.config.schema import SUBSETS, PackConfig, ViewsConfig
from novelview.errors import ConfigError, DataError
from novelview.scenes.chunks import check_counts
from novelview.scenes.pack import pack_chunks
from novelview.scenes.samplers import select_targets, select_views
from novelview.scenes.store import PackedStore, first_chunks, subset_scenes
from novelview.scenes.views import EvalEntry, known_entries, load_index, save_index

PUBLISHED = compose("download", ["source=re10k", "path=x"]).source.subsets


class Chunks:
    """Scenes by chunk, as a packed store tells them."""

    def __init__(self, sizes: list[int]) -> None:
        self.where = {
            f"scene{number:03d}-{place}": f"{number:06d}.torch"
            for number, size in enumerate(sizes)
            for place in range(size)
        }
        self.scenes = sorted(self.where, reverse=True)
        self.chunks = [f"{number:06d}.torch" for number in range(len(sizes))]

    def chunk(self, scene: str) -> str:
        return self.where[scene]


def synthetic_re10k(little: int = 1202, medium: int = 4121, large: int = 16449, full: int = 66033) -> dict[str, str]:
    """Return an index.json of 4866 chunks whose first 76, 304 and 1216 hold so many scenes."""
    index: dict[str, str] = {}
    bounds = [(0, 76, little), (76, 304, medium - little), (304, 1216, large - medium), (1216, 4866, full - large)]
    for first, last, scenes in bounds:
        index |= {f"{first}-{scene}": f"{first + scene % (last - first):06d}.torch" for scene in range(scenes)}
    return index


def test_subsets_are_the_first_chunks_whole_and_nested() -> None:
    store = Chunks([1 + number % 3 for number in range(130)])
    kept = {name: subset_scenes(store, name) for name in SUBSETS}
    assert {store.chunk(scene) for scene in kept["little"]} == {"000000.torch", "000001.torch"}
    assert len({store.chunk(scene) for scene in kept["medium"]}) == 8
    assert set(kept["little"]) < set(kept["medium"]) < set(kept["large"]) < set(kept["full"])
    assert kept["full"] == store.scenes and kept["large"] == [one for one in store.scenes if one in set(kept["large"])]


def test_the_papers_chunk_counts() -> None:
    chunks = [f"{number:06d}.torch" for number in range(4866)]
    assert [len(first_chunks(chunks, name)) for name in ("little", "medium", "large", "full")] == [76, 304, 1216, 4866]
    assert first_chunks(chunks[::-1], "little") == chunks[:76]


def test_fewer_chunks_than_parts_is_refused_and_so_is_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match=r"subset=little: is 1/64 of the training chunks, and there are 5"):
        subset_scenes(Chunks([2] * 5), "little")
    with pytest.raises(ConfigError, match="subset=small: choose one of full"):
        subset_scenes(Chunks([2] * 5), "small")
    with pytest.raises(ConfigError, match=r"subset=small: choose one of full"):
        compose("train", ["subset=small"])


def test_a_packed_store_knows_its_scenes_chunks(tmp_path: Path, make_packed) -> None:
    store = PackedStore(make_packed(tmp_path, {"a": 3, "b": 3}) / "train")
    assert store.chunks == ["000000.torch"] and store.chunk("b") == "000000.torch"


def test_unreadable_chunks_keep_their_place(tmp_path: Path, make_packed) -> None:
    make_packed(tmp_path / "one", {"a": 2})
    make_packed(tmp_path / "two", {"b": 2})
    files = [tmp_path / f"{number:06d}.torch" for number in range(3)]
    files[0].write_bytes(b"no chunk")
    for file, name in zip(files[1:], ("one", "two"), strict=True):
        file.write_bytes((tmp_path / name / "raw/000000.torch").read_bytes())
    pack_chunks({"train": files}, tmp_path / "packed", PackConfig(max_bad_chunks=1), progress=False)
    store = PackedStore(tmp_path / "packed/train")
    assert store.chunks == [file.name for file in files] and store.chunk("b") == "000002.torch"


def test_the_published_numbers_pass_and_others_are_refused_by_name() -> None:
    check_counts(synthetic_re10k(), PUBLISHED, "train")
    check_counts({"a": "x.torch"}, {}, "train")
    with pytest.raises(DataError, match=r"subset little has 76 chunks with 1,203 scenes, published are 76 with 1,202"):
        check_counts(synthetic_re10k(little=1203), PUBLISHED, "train")
    with pytest.raises(DataError, match=r"subset full has 4,866 chunks with 66,000 scenes.*allow_partial"):
        check_counts(synthetic_re10k(full=66000), PUBLISHED, "train")
    with pytest.raises(DataError, match=r"subset little has 0 chunks with 0 scenes"):
        check_counts({"a": "000000.torch"}, PUBLISHED, "train")


def test_another_choice_with_the_published_number_is_named() -> None:
    index = {f"{number}-{place}": f"{number:06d}.torch" for number in range(64) for place in range(1 + (number > 62))}
    with pytest.raises(DataError, match=r"\(the last chunks would have them\)"):
        check_counts(index, {"little": [1, 2]}, "train")


@pytest.mark.parametrize("more", [[], ["source.allow_partial=true"]])
def test_the_download_stage_refuses_a_partial_copy_unless_told(tmp_path: Path, make_packed, more: list[str]) -> None:
    make_packed(tmp_path, {"a": 3})
    train = tmp_path / "re10k/train"
    train.mkdir(parents=True)
    (tmp_path / "raw/000000.torch").rename(train / "000000.torch")
    (train / "index.json").write_text(json.dumps({"a": "000000.torch"}))
    words = [
        f"path={tmp_path / 're10k'}",
        "source=chunks",
        "+source.subsets.little=[76,1202]",
        f"io.out={tmp_path / 'out'}",
        *more,
    ]
    command = [sys.executable, "-m", "novelview.stages.download", *words, "runtime.progress=false"]
    done = subprocess.run(command, capture_output=True, text=True)
    if more:
        assert done.returncode == 0 and (tmp_path / "out/manifest.json").is_file(), done.stderr
    else:
        assert done.returncode == 2 and "subset little has 0 chunks" in done.stderr.splitlines()[-1]
        assert not (tmp_path / "out").exists()


CFG = ViewsConfig(num_views=5, num_target=3, min_frame_dist=4, max_frame_dist=9)


@dataclass
class Frames:
    """A store reduced to what index checks ask."""

    scenes: list[str] = field(default_factory=lambda: ["a", "b"])
    damaged: set[int] = field(default_factory=set)

    def frames(self, scene: str) -> int:
        return 10

    def bad(self, scene: str) -> set[int]:
        return self.damaged


@pytest.mark.parametrize("seed", range(50))
def test_views_are_two_ends_and_distinct_frames_between(seed) -> None:
    views = select_views(20, random.Random(seed), CFG)
    assert views is not None
    start, end, *inside = views
    assert 0 <= start < end < 20 and 4 <= end - start <= 9
    assert len(set(inside)) == 3 and all(start < frame < end for frame in inside)


def test_every_interval_length_and_start_is_drawn() -> None:
    rng = random.Random(0)
    drawn = [select_views(12, rng, CFG) for _ in range(2000)]
    assert {views[1] - views[0] for views in drawn if views} == set(range(4, 10))
    assert {views[0] for views in drawn if views} == set(range(8))


@pytest.mark.parametrize(("frames", "accepted"), [(4, False), (5, False), (6, True), (10, True)])
def test_short_scenes_are_refused_without_a_draw(frames, accepted) -> None:
    rng = random.Random(1)
    before = rng.getstate()
    assert (select_views(frames, rng, CFG) is not None) == accepted
    assert (rng.getstate() == before) != accepted


def test_an_interval_too_short_for_its_views_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"min_frame_dist=3.*raise it to 4"):
        select_views(20, random.Random(0), ViewsConfig(num_views=5, min_frame_dist=3, max_frame_dist=9))


def test_targets_may_include_inputs_or_are_the_first_others() -> None:
    rng = random.Random(12)
    assert {position for _ in range(200) for position in select_targets(rng, CFG)} == set(range(5))
    without = ViewsConfig(num_views=8, num_target=4, target_has_input=False)
    state = rng.getstate()
    assert select_targets(rng, without) == [2, 3, 4, 5]
    assert rng.getstate() == state


def test_an_index_survives_saving_and_loading(tmp_path) -> None:
    entries = [EvalEntry("a", (0, 8), (1, 2, 7), 0.25), EvalEntry("b", (0, 5), (3,)), EvalEntry("b", (1, 6), (2, 4))]
    save_index(tmp_path / "index.json", entries)
    assert load_index(tmp_path / "index.json") == entries
    content = json.loads((tmp_path / "index.json").read_text())
    assert content["a"] == {"context": [0, 8], "target": [1, 2, 7], "overlap": 0.25}
    assert isinstance(content["b"], list)


def test_scenes_without_a_valid_pair_are_left_out(tmp_path) -> None:
    (tmp_path / "index.json").write_text('{"a": null, "b": {"context": [0, 1], "target": [2]}, "c": [null]}')
    assert load_index(tmp_path / "index.json") == [EvalEntry("b", (0, 1), (2,))]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        ('{"a": 3}', "scene a: expected"),
        ('{"a": {"context": [0, 1]}}', "scene a: 'target' must be"),
        ('{"a": {"context": [0, 1.5], "target": [1]}}', "scene a: 'context' must be"),
        ('{"a": {"context": [0, 1], "target": []}}', "scene a: 'target' must be"),
        ('{"a": {"context": [0, -1], "target": [1]}}', "scene a: 'context' must be"),
        ('{"a": {"context": [0, true], "target": [1]}}', "scene a: 'context' must be"),
        ('{"a": {"context": [0, 1], "target": [1], "overlap": "x"}}', "scene a: 'overlap' must be"),
    ],
)
def test_a_wrong_index_is_one_line_naming_file_and_scene(tmp_path, content, said) -> None:
    path = tmp_path / "index.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        load_index(path)
    assert said in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_index_says_so(tmp_path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_index(tmp_path / "none.json")


def test_unknown_scenes_are_counted_and_left_out(caplog) -> None:
    entries = [EvalEntry("a", (0, 1), (2,)), EvalEntry("x", (0, 1), (2,)), EvalEntry("y", (0, 99), (2,))]
    with caplog.at_level(logging.WARNING):
        assert known_entries(entries, Frames(), "small.json") == entries[:1]
    assert "small.json: 2 of 3 entries" in caplog.text


def test_entries_on_damaged_frames_are_counted_and_left_out(caplog) -> None:
    entries = [EvalEntry("a", (0, 1), (2,)), EvalEntry("b", (0, 4), (5,))]
    with caplog.at_level(logging.WARNING):
        assert known_entries(entries, Frames(damaged={5}), "i") == entries[:1]
    assert "i: 1 entries left out" in caplog.text


def test_an_index_of_another_data_set_is_an_error() -> None:
    with pytest.raises(DataError, match="none of its 1 entries"):
        known_entries([EvalEntry("x", (0, 1), (2,))], Frames(), "i")
    with pytest.raises(DataError, match="frame 10 does not exist, the scene has 10 frames"):
        known_entries([EvalEntry("a", (0, 1), (10,))], Frames(), "i")
