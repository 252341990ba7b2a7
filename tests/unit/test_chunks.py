"""Chunks: the exact format, round trips, and one-line refusals of everything else."""

import io
import json
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch

from novelview.errors import DataError
from novelview.scenes import chunks
from novelview.scenes.chunks import ChunkScene, ChunkWriter, read_chunk, write_chunk

GOLDEN = Path(__file__).parents[1] / "goldens" / "re10k_data"


def scene(key: str = "0123456789abcdef", frames: int = 3, size: int = 50) -> ChunkScene:
    cameras = torch.zeros(frames, 18)
    cameras[:, :4] = torch.tensor([0.5, 0.9, 0.5, 0.5])
    cameras[:, 6:] = torch.eye(3, 4).flatten()
    images = [bytes([frame % 256]) * size for frame in range(frames)]
    return ChunkScene(key, "https://example.org/v", torch.arange(frames) * 33_333, cameras, images)


def raw(frames: int = 3, **changes) -> dict:
    base = scene(frames=frames)
    images = [torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in base.images]
    whole = {"url": base.url, "timestamps": base.timestamps, "cameras": base.cameras, "images": images, "key": base.key}
    return {key: value for key, value in (whole | changes).items() if value is not None}


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_chunk(path)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text


def test_golden_chunk_reads():
    scenes = read_chunk(GOLDEN / "000000.torch")
    assert [item.key for item in scenes] == ["000000000000abc0", "000000000000abc1"]
    assert all(item.cameras.shape == (9, 18) and len(item.images) == 9 for item in scenes)
    assert all(bytes(image[:2].tolist()) == b"\xff\xd8" for item in scenes for image in item.images)


def test_golden_index_is_regenerated(tmp_path):
    with ChunkWriter(tmp_path) as writer:
        for item in read_chunk(GOLDEN / "000000.torch"):
            writer.add(item)
    written = json.loads((tmp_path / "index.json").read_text())
    assert written == json.loads((GOLDEN / "index.json").read_text())


def test_round_trip_keeps_every_value(tmp_path):
    write_chunk(tmp_path / "a.torch", [scene("a"), scene("b", frames=5)])
    first, second = read_chunk(tmp_path / "a.torch")
    assert (first.key, second.key, first.url) == ("a", "b", "https://example.org/v")
    assert torch.equal(second.cameras, scene(frames=5).cameras) and torch.equal(first.timestamps, scene().timestamps)
    assert [bytes(image.tolist()) for image in second.images] == scene(frames=5).images


def test_written_chunk_has_the_published_layout(tmp_path):
    write_chunk(tmp_path / "a.torch", [scene()])
    (entry,) = torch.load(tmp_path / "a.torch", weights_only=True)
    assert set(entry) == {"url", "timestamps", "cameras", "images", "key"}
    assert entry["timestamps"].dtype == torch.int64 and entry["cameras"].dtype == torch.float32
    assert all(image.dtype == torch.uint8 and image.dim() == 1 for image in entry["images"])


def test_equal_scenes_give_equal_bytes(tmp_path):
    write_chunk(tmp_path / "a.torch", [scene()])
    write_chunk(tmp_path / "b.torch", [scene()])
    assert (tmp_path / "a.torch").read_bytes() == (tmp_path / "b.torch").read_bytes()


def test_a_view_is_saved_without_the_storage_behind_it(tmp_path):
    item = scene()
    item.images = list(torch.zeros(3, 1_000_000, dtype=torch.uint8)[:, :10])
    write_chunk(tmp_path / "a.torch", [item])
    assert (tmp_path / "a.torch").stat().st_size < 10_000


def test_old_format_reads(tmp_path):
    torch.save([raw()], tmp_path / "old.torch", _use_new_zipfile_serialization=False)
    (item,) = read_chunk(tmp_path / "old.torch")
    assert item.key == scene().key and len(item.images) == 3
    assert chunks.recorded_checksums(tmp_path / "old.torch") is None


def test_checksums_are_those_of_the_images(tmp_path):
    import zlib

    write_chunk(tmp_path / "a.torch", [scene()])
    known = chunks.recorded_checksums(tmp_path / "a.torch")
    assert known is not None and all(zlib.crc32(image) in known for image in scene().images)


def test_writer_closes_chunks_at_the_byte_limit(tmp_path):
    with ChunkWriter(tmp_path, chunk_bytes=300) as writer:
        for number in range(5):
            writer.add(scene(f"{number:016x}", frames=3, size=50))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000.torch",
        "000001.torch",
        "000002.torch",
        "index.json",
    ]
    index = json.loads((tmp_path / "index.json").read_text())
    assert list(index.values()) == ["000000.torch"] * 2 + ["000001.torch"] * 2 + ["000002.torch"]
    assert [item.key for item in read_chunk(tmp_path / "000001.torch")] == [f"{2:016x}", f"{3:016x}"]


def test_writer_refuses_a_key_twice_and_leaves_no_index(tmp_path):
    named = r"scene a is in both 000000\.torch and 000001\.torch"
    with pytest.raises(DataError, match=named), ChunkWriter(tmp_path, chunk_bytes=1) as writer:
        writer.add(scene("a"))
        writer.add(scene("a"))
    assert not (tmp_path / "index.json").exists()


class Hostile:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_pickle_is_refused_and_not_executed(tmp_path, zipped):
    path, proof = tmp_path / "a.torch", tmp_path / "executed"
    torch.save([Hostile(proof)], path, _use_new_zipfile_serialization=zipped)
    refused(path)
    assert not proof.exists()


def test_bare_pickle_is_refused_and_not_executed(tmp_path):
    path, proof = tmp_path / "a.torch", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Hostile(proof)))
    refused(path)
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02", b"no chunk at all", b"\0" * 4096])
def test_rubbish_is_refused(tmp_path, content):
    path = tmp_path / "a.torch"
    path.write_bytes(content)
    refused(path)


def test_missing_file_is_refused(tmp_path):
    assert "no such chunk" in refused(tmp_path / "gone.torch")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_chunk_is_refused(tmp_path, share, zipped):
    buffer = io.BytesIO()
    torch.save([raw(frames=20)], buffer, _use_new_zipfile_serialization=zipped)
    whole = buffer.getvalue()
    path = tmp_path / "a.torch"
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path)


def test_mutated_chunks_read_checked_or_are_refused_on_one_line(tmp_path):
    whole, rng = bytearray((GOLDEN / "000000.torch").read_bytes()), random.Random(0)
    path, refusals = tmp_path / "a.torch", 0
    for _ in range(150):
        mutated = bytearray(whole)
        for _ in range(4):
            mutated[rng.choice([rng.randrange(1600), rng.randrange(len(whole))])] = rng.randrange(256)
        path.write_bytes(mutated)
        try:
            assert all(len(item.images) == len(item.cameras) for item in read_chunk(path))
        except DataError as error:
            refusals += 1
            assert "\n" not in str(error)
    assert refusals > 20


def test_compressed_archive_is_refused(tmp_path):
    plain, bomb = tmp_path / "plain.torch", tmp_path / "bomb.torch"
    torch.save([raw(images=[torch.zeros(10_000_000, dtype=torch.uint8)] * 3)], plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert bomb.stat().st_size < 100_000
    assert "compressed" in refused(bomb)


def test_expanded_tensor_is_refused(tmp_path):
    torch.save([raw(images=[torch.zeros(1, dtype=torch.uint8).expand(10**12)] * 3)], tmp_path / "a.torch")
    assert "frame 0" in refused(tmp_path / "a.torch")


def camera_with(value: float, column: int) -> torch.Tensor:
    cameras = scene().cameras
    cameras[1, column] = value
    return cameras


BAD = {
    "no list": {"a": 1},
    "no scenes": [],
    "no scene": [3],
    "no key": [raw(key=None)],
    "wrong key type": [raw(key=5)],
    "path as key": [raw(key="../../etc")],
    "no images": [raw(images=None)],
    "empty images": [raw(images=[])],
    "images of another type": [raw(images=["a", "b", "c"])],
    "float images": [raw(images=[torch.zeros(4)] * 3)],
    "two-dimensional images": [raw(images=[torch.zeros(4, 4, dtype=torch.uint8)] * 3)],
    "sparse images": [raw(images=[torch.zeros(4, dtype=torch.uint8).to_sparse()] * 3)],
    "fewer images": [raw(images=[torch.zeros(4, dtype=torch.uint8)] * 2)],
    "fewer timestamps": [raw(timestamps=torch.arange(2))],
    "float timestamps": [raw(timestamps=torch.zeros(3))],
    "no cameras": [raw(cameras=None)],
    "double cameras": [raw(cameras=scene().cameras.double())],
    "narrow cameras": [raw(cameras=scene().cameras[:, :17].clone())],
    "fewer cameras": [raw(cameras=scene(frames=2).cameras)],
    "nan camera": [raw(cameras=camera_with(float("nan"), 9))],
    "infinite camera": [raw(cameras=camera_with(float("inf"), 0))],
    "intrinsics in pixels": [raw(cameras=camera_with(300.0, 0))],
    "principal point in pixels": [raw(cameras=camera_with(160.0, 2))],
    "zero focal length": [raw(cameras=camera_with(0.0, 1))],
    "singular rotation": [raw(cameras=camera_with(0.0, 6))],
    "cameras that want gradients": [raw(cameras=scene().cameras.requires_grad_())],
    "repeated scene": [raw(), raw()],
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_content_is_refused(tmp_path, name):
    torch.save(BAD[name], tmp_path / "a.torch")
    refused(tmp_path / "a.torch")


def test_refusal_names_scene_and_frame(tmp_path):
    torch.save(BAD["nan camera"], tmp_path / "a.torch")
    text = refused(tmp_path / "a.torch")
    assert scene().key in text and "frame 1" in text


def test_missing_url_is_empty(tmp_path):
    torch.save([raw(url=None)], tmp_path / "a.torch")
    assert read_chunk(tmp_path / "a.torch")[0].url == ""


def test_folder_without_chunks_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no \.torch chunks"):
        chunks.chunk_files(tmp_path)
