"""Training subsets: the first chunks of a data set, and the published numbers of RealEstate10K's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from novelview.config.compose import compose
from novelview.config.schema import SUBSETS, PackConfig
from novelview.errors import ConfigError, DataError
from novelview.scenes.chunks import check_counts
from novelview.scenes.pack import pack_chunks
from novelview.scenes.store import PackedStore, first_chunks, subset_scenes

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
