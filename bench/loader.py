"""Training samples a second of one loader process: `python bench/loader.py`.

A few rooms of conf/source/rooms_mini.yaml are made in a temporary folder; samples are those of PT-LVSM at scale mini.
A row a size: milliseconds a frame that has to be decoded, and a sample whose frames are all kept."""

import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from common import append

from novelview.config.compose import compose
from novelview.config.schema import PackConfig
from novelview.files import file_entries, write_json
from novelview.scenes.chunks import read_raw
from novelview.scenes.dataset import TrainSet
from novelview.scenes.pack import pack_chunks
from novelview.scenes.procedural import generate
from novelview.scenes.store import PackedStore

ROOMS, BATCHES = 6, 20


def packed(folder: Path) -> PackedStore:
    """Make the rooms; return their packed store."""
    whole = compose("download", ["source=rooms_mini"]).source
    source = replace(whole, train_scenes=ROOMS, test_seen_scenes=1, test_new_scenes=1, supersample=1)
    generate(source, folder / "raw", 0, progress=False)
    write_json(folder / "raw/manifest.json", {"files": file_entries(folder / "raw"), "source": asdict(source)})
    raw = read_raw(folder / "raw")
    pack_chunks(raw.chunks, folder / "packed", PackConfig(), 0, False, raw.checksums, raw.unposed)
    return PackedStore(folder / "packed/train")


def measure(store: PackedStore, phase: str) -> dict[str, object]:
    """Return the row of a phase's image size."""
    cfg = compose("train", ["scale=mini", "model=ptlvsm", f"phase={phase}"])
    data = TrainSet(store, cfg.views, 1, 4096, shared=True)
    begin = time.perf_counter()
    for scene in store.scenes:
        data.cache.frames(scene, range(store.frames(scene)))
    decoded = time.perf_counter() - begin
    begin = time.perf_counter()
    for number in range(BATCHES):
        data.batch(number, cfg.train.batch_size)
    seconds = (time.perf_counter() - begin) / BATCHES / cfg.train.batch_size
    frames = sum(store.frames(scene) for scene in store.scenes)
    return {
        **{"size": cfg.views.image_size, "views": cfg.views.num_views},
        "ms_a_decoded_frame": round(1000 * decoded / frames, 2),
        "ms_a_kept_sample": round(1000 * seconds, 2),
        "kept_images_a_second": round(cfg.views.num_views / seconds),
    }


def main() -> None:
    """Measure both sizes with one thread; append and print the rows."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = packed(Path(folder))
        append("loader", [measure(store, phase) for phase in ("pretrain", "finetune")])


if __name__ == "__main__":
    main()
