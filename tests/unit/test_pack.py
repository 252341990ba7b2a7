"""The packed store: lossless, the same whatever the workers or interruptions, and honest about damage."""

import io
import json
import pickle
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save

from novelview.config.schema import PackConfig
from novelview.errors import DataError
from novelview.files import sha256
from novelview.scenes import pack, store
from novelview.scenes.chunks import ChunkScene, chunk_files, read_chunk, write_chunk
from novelview.scenes.pack import pack_chunks
from novelview.scenes.store import INDEX, PackedStore, write_columns

GOLDEN = Path(__file__).parents[1] / "goldens" / "re10k_data"


def jpeg(seed: int, size: tuple[int, int] = (32, 18)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def scene(key: str, frames: int = 4, seed: int = 0) -> ChunkScene:
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(frames, 3, 3, generator=generator)).Q
    shift = torch.randn(frames, 3, 1, generator=generator)
    head = torch.tensor([0.5, 0.9, 0.5, 0.5, 0.0, 0.0]).expand(frames, 6)
    cameras = torch.cat([head, torch.cat([rotation, shift], 2).flatten(1)], 1)
    images = [jpeg(100 * seed + frame) for frame in range(frames)]
    return ChunkScene(key, f"https://example.org/{key}", torch.arange(frames) * 10, cameras, images)


@pytest.fixture
def raw(tmp_path) -> Path:
    for number in range(3):
        keys = [f"{name}{number}" for name in "zb"]
        pair = [scene(key, 3 + number, seed=10 * number + row) for row, key in enumerate(keys)]
        write_chunk(tmp_path / "raw" / "train" / f"{number:06d}.torch", pair)
    write_chunk(tmp_path / "raw" / "test" / "000000.torch", [scene("only", 2, seed=99)])
    return tmp_path / "raw"


def run(raw: Path, out: Path, cfg: PackConfig | None = None, **keywords) -> dict:
    files = {split: chunk_files(raw / split) for split in ("train", "test")}
    return pack_chunks(files, out, cfg or PackConfig(), progress=False, **keywords)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_depths_are_written_where_they_are_known(raw, tmp_path):
    assert run(raw, tmp_path / "known", facts={"depth_range": [1.5, 4.0]})["depth_range"] == [1.5, 4.0]
    assert "depth_range" not in run(raw, tmp_path / "unknown")


def test_an_index_joined_part_by_part_is_the_file_that_safetensors_writes(tmp_path):
    draw = np.random.default_rng(0)
    kinds = {"i": np.int64, "f": np.float32, "u": np.uint32, "s": np.uint16, "b": np.uint8, "é": np.int64}
    parts = [{name: draw.integers(0, 99, (rows, 3)).astype(kind) for name, kind in kinds.items()} for rows in (3, 0, 5)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in kinds}
    meta = {"format": "1", "shards": ['a"b', "\u00e9"]}
    long = {name: lambda name=name: (part[name] for part in parts) for name in "fsé"}
    write_columns(tmp_path / "parts", {name: whole[name] for name in "iub"}, meta, long)
    write_columns(tmp_path / "whole", whole, meta)
    wanted = save(whole, {"meta": json.dumps(meta)})
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes() == wanted


@pytest.mark.parametrize("damage", ["none", "shard", "chunk"])
def test_a_last_step_that_failed_reads_no_finished_chunk_again(raw, tmp_path, monkeypatch, damage):
    """What was packed and not touched since is known by size and time; what was touched is read, and made again."""
    out, whole = tmp_path / "out", content_of(raw, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(
            pack, "write_columns", lambda path, *rest: _fail(path) if path.name == INDEX else write(path, *rest)
        )
        write = store.write_columns
        with pytest.raises(OSError, match="No space left"):
            run(raw, out)
    touched = {"shard": out / "train" / "shard-000001.bin", "chunk": raw / "train" / "000001.torch"}.get(damage)
    if touched:
        touched.write_bytes(touched.read_bytes()[:-1] + b"x" if damage == "shard" else touched.read_bytes())
    read, made, real = [], [], pack._pack
    monkeypatch.setattr(pack, "sha256", lambda path: read.append(path.name) or sha256(path))
    monkeypatch.setattr(pack, "_pack", lambda source, *rest: made.append(source.name) or real(source, *rest))
    monkeypatch.setattr(pack, "write_json", _fail)  # another last step fails; what was read now is known, too
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            run(raw, out)
    monkeypatch.undo()
    run(raw, out)
    assert content(out) == whole
    assert read == (["000001.torch"] if touched else []) and made == (["000001.torch"] if damage == "shard" else [])


def _fail(path: Path, *_: object) -> None:
    raise OSError(28, "No space left on device", str(path))


def content_of(raw: Path, out: Path) -> dict[str, bytes]:
    run(raw, out)
    return content(out)


def test_frames_come_back_byte_for_byte(raw, tmp_path):
    run(raw, tmp_path / "out")
    store = PackedStore(tmp_path / "out" / "train")
    originals = [item for path in chunk_files(raw / "train") for item in read_chunk(path)]
    assert store.scenes == sorted(item.key for item in originals)
    for item in originals:
        assert [store.jpeg(item.key, i) for i in range(store.frames(item.key))] == [
            image.numpy().tobytes() for image in item.images
        ]
        assert store._take("timestamp", item.key).tolist() == item.timestamps.tolist()
        assert store.url(item.key) == item.url


def test_cameras_are_the_chunks_and_their_float64_inverse(raw, tmp_path):
    run(raw, tmp_path / "out")
    store = PackedStore(tmp_path / "out" / "train")
    item = read_chunk(raw / "train" / "000001.torch")[1]
    assert torch.equal(store.intrinsics(item.key), item.cameras[:, :4])
    assert torch.equal(store.w2c(item.key)[:, :3], item.cameras[:, 6:].reshape(-1, 3, 4))
    assert store.w2c(item.key)[:, 3].tolist() == [[0, 0, 0, 1]] * len(item.images)
    inverse = np.linalg.inv(store.w2c(item.key).numpy().astype(np.float64)).astype(np.float32)
    assert np.array_equal(store.c2w(item.key).numpy(), inverse) and store.c2w(item.key).dtype == torch.float32


def test_image_is_the_decoded_frame(raw, tmp_path):
    run(raw, tmp_path / "out")
    store = PackedStore(tmp_path / "out" / "test")
    picture = store.image("only", 1)
    assert picture.mode == "RGB" and picture.size == (32, 18) and store.size("only") == (18, 32)
    assert picture.tobytes() == Image.open(io.BytesIO(jpeg(9901))).convert("RGB").tobytes()


def test_greyscale_frames_become_rgb(tmp_path):
    item, buffer = scene("grey", 1), io.BytesIO()
    Image.new("L", (8, 6), 77).save(buffer, "JPEG")
    item.images = [buffer.getvalue()]
    write_chunk(tmp_path / "a" / "000000.torch", [item])
    pack_chunks({"train": chunk_files(tmp_path / "a")}, tmp_path / "out", PackConfig(), progress=False)
    assert PackedStore(tmp_path / "out" / "train").image("grey", 0).getpixel((0, 0)) == (77, 77, 77)


def test_manifest_lists_every_file_and_nothing_else(raw, tmp_path):
    manifest = run(raw, tmp_path / "out")
    out = tmp_path / "out"
    listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    found = {
        name: ((out / name).stat().st_size, sha256(out / name)) for name in content(out) if name != "manifest.json"
    }
    assert listed == found and json.loads((out / "manifest.json").read_text()) == manifest
    assert manifest["splits"]["train"] == {"scenes": 6, "frames": 24, "chunks": 3, "bad_frames": 0}
    assert manifest["sources"]["train/000001.torch"] == sha256(raw / "train" / "000001.torch")


def test_workers_do_not_change_a_byte(raw, tmp_path):
    run(raw, tmp_path / "alone", workers=0)
    run(raw, tmp_path / "pair", workers=2)
    assert content(tmp_path / "alone") == content(tmp_path / "pair")


def test_interrupted_run_continues_with_what_is_left(raw, tmp_path, monkeypatch):
    run(raw, tmp_path / "whole")
    packed: list[str] = []
    original = pack._pack

    def counting(source, *rest):
        if len(packed) == 2:
            raise KeyboardInterrupt
        packed.append(source.name)
        return original(source, *rest)

    monkeypatch.setattr(pack, "_pack", counting)
    with pytest.raises(KeyboardInterrupt):
        run(raw, tmp_path / "cut")
    assert not (tmp_path / "cut" / "manifest.json").exists()
    (tmp_path / "cut" / "train" / ".shard-000002.99.partial.bin").write_bytes(b"half")
    packed.clear()
    run(raw, tmp_path / "cut")
    assert packed == ["000002.torch", "000000.torch"]
    assert content(tmp_path / "whole") == content(tmp_path / "cut")


@pytest.mark.parametrize("damage", ["shard", "record", "source"])
def test_only_intact_parts_of_the_same_source_are_kept(raw, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(pack, "_refuse_damage", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(raw, tmp_path / "out")
    monkeypatch.undo()
    train = tmp_path / "out" / "train"
    if damage == "source":
        write_chunk(raw / "train" / "000001.torch", [scene("fresh", 2, seed=5)])
    else:
        path = train / ("shard-000001.bin" if damage == "shard" else "parts/000001.safetensors")
        path.write_bytes(path.read_bytes()[:-1] + b"\x01\x02"[: 1 + (damage == "record")])
    run(raw, tmp_path / "out")
    run(raw, tmp_path / "clean")
    assert content(tmp_path / "out") == content(tmp_path / "clean")


def test_shards_of_an_earlier_source_are_removed(raw, tmp_path):
    run(raw, tmp_path / "out")
    (raw / "train" / "000002.torch").unlink()
    run(raw, tmp_path / "out")
    run(raw, tmp_path / "clean")
    assert content(tmp_path / "out") == content(tmp_path / "clean")


def test_store_survives_pickling_and_threads(raw, tmp_path):
    run(raw, tmp_path / "out")
    store = pickle.loads(pickle.dumps(PackedStore(tmp_path / "out" / "train")))
    wanted = [(key, i) for key in store.scenes for i in range(store.frames(key))]
    expected = {pair: store.jpeg(*pair) for pair in wanted}
    wrong: list[tuple[str, int]] = []

    def read(shift: int) -> None:
        wrong.extend(p for p in wanted[shift:] + wanted[:shift] if store.jpeg(*p) != expected[p])

    threads = [threading.Thread(target=read, args=(shift,)) for shift in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_mixed_sizes_within_a_scene(tmp_path):
    item = scene("mixed", 3)
    item.images[1] = jpeg(1, (20, 40))
    write_chunk(tmp_path / "a" / "000000.torch", [item])
    pack_chunks({"train": chunk_files(tmp_path / "a")}, tmp_path / "out", PackConfig(), progress=False)
    store = PackedStore(tmp_path / "out" / "train")
    assert [store.size("mixed", i) for i in range(3)] == [(18, 32), (40, 20), (18, 32)]
    assert store.image("mixed", 1).size == (20, 40)


def test_scene_in_two_chunks_is_refused_by_name(raw, tmp_path):
    write_chunk(raw / "train" / "000003.torch", [scene("b1")])
    with pytest.raises(DataError, match=r"scene b1 is in both 000001\.torch and 000003\.torch"):
        run(raw, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_changed_download_is_refused(raw, tmp_path):
    sums = {"train/000001.torch": "0" * 64, "train/000000.torch": sha256(raw / "train" / "000000.torch")}
    with pytest.raises(DataError, match=r"1 damaged chunks.*train/000001\.torch.*manifest"):
        run(raw, tmp_path / "out", checksums=sums)


def test_index_opens_without_reading_frames(raw, tmp_path):
    run(raw, tmp_path / "out")
    store = PackedStore(tmp_path / "out" / "train")
    assert all(
        isinstance(column.base, memoryview | np.ndarray) or column.base is not None
        for column in store._columns.values()
    )
    assert len(store) == 6 and "z0" in store and "nowhere" not in store


@pytest.mark.parametrize("call", [lambda s: s.frames("nowhere"), lambda s: s.jpeg("z0", 3), lambda s: s.jpeg("z0", -1)])
def test_wrong_scene_or_frame_is_one_line(raw, tmp_path, call):
    run(raw, tmp_path / "out")
    with pytest.raises(DataError) as caught:
        call(PackedStore(tmp_path / "out" / "train"))
    assert "\n" not in str(caught.value)


def test_golden_chunk_packs(tmp_path):
    pack_chunks({"test": [GOLDEN / "000000.torch"]}, tmp_path, PackConfig(), progress=False)
    store = PackedStore(tmp_path / "test")
    assert store.scenes == ["000000000000abc0", "000000000000abc1"] and store.size(store.scenes[0]) == (45, 80)
    assert zlib.crc32(store.jpeg(store.scenes[0], 0)) == int(store._columns["crc"][0])
