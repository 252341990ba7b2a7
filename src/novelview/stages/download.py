"""Stage `download`: any source to chunks; `python -m novelview.stages.download source=photos path=FOLDER`."""

from pathlib import Path
from typing import Any

from novelview.config.compose import SOURCES
from novelview.config.digest import digest, resolved, source_digest
from novelview.config.stages import DownloadStage
from novelview.downloads.registry import is_remote
from novelview.errors import ConfigError
from novelview.files import SOURCE_STATE, expanded, file_entries, locating, source_state, write_json, write_text
from novelview.stages.cli import run_stage
from novelview.timebox import TimeBox, resuming_folder, stamp_of

MADE = {"train", "test", "masks", "indices", "scenes.json", "import.json", "manifest.json", "config.yaml", SOURCE_STATE}


def download(cfg: DownloadStage) -> None:
    """Fill {io.out} with train/, test/, indices/, scenes.json and, last, manifest.json.

    A sibling folder takes the final name when it is complete: a stopped run leaves the old data or none. Rooms go on
    after the last one finished when the time box was over (BoxEnded), one a call at least; a box does not end other
    sources. Raises NovelviewError for anything wrong with the source."""
    source: Any = cfg.source
    box, run, out = TimeBox.of(cfg.runtime), cfg.runtime, expanded(cfg.io["out"])
    if source.kind not in SOURCES:
        raise ConfigError(f"source.kind={source.kind}: choose one of {', '.join(SOURCES)}")
    _refuse_foreign(out, cfg.path)
    traced, state = _traced_on(cfg), read_state(source.kind, cfg.path)  # before it is read: what changes later shows
    stamp = stamp_of(digest(cfg), source_digest("download"), *traced.values())
    with locating(out), resuming_folder(out, stamp) as (folder, units):
        if source.kind == "rooms":
            from novelview.scenes.procedural.generate import generate

            generate(source, folder, run.workers, run.progress, traced.get("device", "cpu"), units, box)
            extra: dict[str, Any] = traced
        else:
            extra = _imported(cfg, folder)
            write_text(folder / SOURCE_STATE, state)
        files = extra.pop("files", {}) | file_entries(folder)
        write_json(folder / "manifest.json", {"files": files, "source": resolved(cfg)["source"], **extra})


def read_state(kind: str, path: str | None) -> str:
    """Return what `files.source_state` says of a data source, empty for what comes over the network or from nowhere."""
    if kind == "rooms" or not path or is_remote(path):
        return ""
    return source_state(path, "*/nerfstudio/*" if kind == "dl3dv" else "**/*")  # its pictures are millions


def _traced_on(cfg: DownloadStage) -> dict[str, str]:
    """Return {"device": "cuda"} where rooms are traced on a GPU, whose rounding differs from a CPU's; else nothing.

    Scale demo stays on the CPU unless runtime.device says otherwise: its rooms are the same everywhere."""
    wanted = cfg.runtime.device
    if cfg.source.kind != "rooms" or wanted == "cpu" or (wanted == "auto" and cfg.scale == "demo"):
        return {}
    from novelview.devices import pick_device

    return {"device": "cuda"} if pick_device(wanted).type == "cuda" else {}


def _imported(cfg: DownloadStage, folder: Path) -> dict[str, Any]:
    """Write the scenes of a folder as chunks, or link those that it holds; return what the manifest says of them."""
    from novelview.downloads.fetch import fetch_chunks
    from novelview.scenes.imports import camera_lists, chunk_folder, write

    source: Any = cfg.source
    run, address = cfg.runtime, cfg.path or (camera_lists.BENCHMARK if source.kind == "dl3dv" else "")
    about = source, folder, cfg.dataset, run.progress
    remote = bool(address) and is_remote(address)
    # Beside the final folder, which is replaced whole: a stopped download and the log of a failed reconstruction stay.
    beside = expanded(cfg.io["out"]).absolute().parent
    if source.kind == "chunks":
        path = fetch_chunks(address, beside / "chunks", run.progress) if remote else _path(cfg)
        return chunk_folder.link(path, source, folder, run.workers, run.progress)
    if source.kind == "dl3dv":
        path = camera_lists.fetch_dl3dv(address, source, beside) if remote else _path(cfg)
        return write.write_collection(camera_lists.load_dl3dv(path, source), *about)
    path = _path(cfg)
    if source.kind in ("photos", "unposed"):
        from novelview.scenes.imports import photographs, video

        with video.as_photographs(path, source.video_frames, run.progress) as pictures:
            log = beside / "pycolmap.log"
            posed = source.kind == "photos"
            given = (pictures, source, log, run.threads)
            scene = photographs.load_photographs(*given) if posed else photographs.load_unposed(pictures, source)
            scene.where = path  # the pictures of a video lie in a folder of their own
            return write.write_scene(scene, *about)
    if source.kind == "opencv_cameras" and (scenes := camera_lists.load_opencv_list(path, source)):
        return write.write_collection({source.split: scenes}, *about)
    if source.kind == "colmap":
        from novelview.scenes.imports import colmap

        return write.write_scene(colmap.load(path, source), *about)
    is_transforms = source.kind == "transforms"
    load = camera_lists.load_transforms if is_transforms else camera_lists.load_opencv_cameras
    return write.write_scene(load(path, source), *about)


def _path(cfg: DownloadStage) -> Path:
    if not cfg.path:
        raise ConfigError(f"source={cfg.source.kind} reads a folder of yours: give it as path=FOLDER")
    return expanded(cfg.path).absolute()


def _refuse_foreign(out: Path, path: str | None) -> None:
    """Raise ConfigError where `out`, which is replaced whole, holds anything but an earlier download, or the source."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"io.out={out}: is a file; give the name of a folder")
    source = expanded(path).resolve() if path and "://" not in path else None
    strange = sorted(item.name for item in out.iterdir() if item.name not in MADE) if out.exists() else []
    what = f"holds {strange[0]}, which no download made" if strange else ""
    if source and (source == out.resolve() or out.resolve() in source.parents):
        what = f"holds the source {path}"
    if what:
        raise ConfigError(f"io.out={out}: {what}, and it is replaced whole; choose another folder")


if __name__ == "__main__":
    raise SystemExit(run_stage("download", download))
