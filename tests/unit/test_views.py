"""The training sampler and evaluation indices."""

import json
import logging
import random
from dataclasses import dataclass, field

import pytest

from novelview.config.schema import ViewsConfig
from novelview.errors import ConfigError, DataError
from novelview.scenes.samplers import select_targets, select_views
from novelview.scenes.views import EvalEntry, known_entries, load_index, save_index

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
