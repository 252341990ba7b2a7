"""Stage `preprocess`: chunks to the packed store; `python -m novelview.stages.preprocess dataset=NAME`."""

import shutil
from pathlib import Path

from novelview.config.stages import PreprocessStage
from novelview.errors import ConfigError
from novelview.files import file_entries, holding_lock
from novelview.scenes.chunks import read_raw
from novelview.scenes.pack import pack_chunks
from novelview.scenes.store import MASKS
from novelview.stages.cli import log, run_stage
from novelview.timebox import TimeBox


def preprocess(cfg: PreprocessStage) -> None:
    """Pack the chunks that {io.raw}/manifest.json lists into {io.out}; damaged data beyond `pack` raises DataError.

    Goes on after the chunks that an earlier call packed; BoxEnded when the time box is over, after one new chunk."""
    box, run, out = TimeBox.of(cfg.runtime), cfg.runtime, Path(cfg.io["out"])
    raw = read_raw(Path(cfg.io["raw"]))
    if out.resolve() in (raw.folder.resolve(), raw.root.resolve()):
        raise ConfigError(f"io.out={out}: is the folder of the chunks; choose another for the packed store")
    with holding_lock(out):
        shutil.rmtree(out / MASKS, ignore_errors=True)
        if (raw.folder / MASKS).is_dir():
            shutil.copytree(raw.folder / MASKS, out / MASKS)
        masks = {MASKS: file_entries(out / MASKS)} if (out / MASKS).is_dir() else {}
        given = raw.checksums, raw.unposed, box, raw.facts | masks
        packed = pack_chunks(raw.chunks, out, cfg.pack, run.workers, run.progress, *given)
    for split, counts in packed["splits"].items():
        log.info("%s: %s", split, ", ".join(f"{value} {name}" for name, value in counts.items()))


if __name__ == "__main__":
    raise SystemExit(run_stage("preprocess", preprocess))
