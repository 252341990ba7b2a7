"""Stage `preprocess`: chunks to the packed store; `python -m novelview.stages.preprocess dataset=NAME`."""

import logging
import re
import sys
from pathlib import Path
from typing import Any

from novelview.config.schema import PreprocessStage
from novelview.errors import ConfigError, DataError
from novelview.files import read_json
from novelview.scenes.pack import pack_chunks
from novelview.stages.cli import run_stage

logger = logging.getLogger(__name__)
CHUNK = re.compile(r"(train|test)/[^/]+\.torch")


def preprocess(cfg: PreprocessStage) -> None:
    """Pack the chunks that {io.raw}/manifest.json lists into {io.out}; damaged data beyond `pack` raises DataError."""
    raw = Path(cfg.io["raw"])
    manifest = read_json(raw / "manifest.json")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DataError(f"{raw / 'manifest.json'}: lists no files; run the download stage again")
    # Chunks that were already on disk stay where they are; the manifest then names their folder.
    root = Path(str(manifest.get("root") or raw))
    out = Path(cfg.io["out"])
    if out.resolve() in (raw.resolve(), root.resolve()):
        raise ConfigError(f"io.out={out}: is the folder of the chunks; choose another for the packed store")
    files = _checksums(raw / "manifest.json", manifest["files"])
    splits = sorted({name.partition("/")[0] for name in files})
    if not splits:
        raise DataError(f"{raw / 'manifest.json'}: lists no chunks; run the download stage again")
    chunks = {split: [root / name for name in sorted(files) if name.startswith(f"{split}/")] for split in splits}
    packed = pack_chunks(chunks, out, cfg.pack, cfg.runtime.workers, cfg.runtime.progress, files)
    for split, counts in packed["splits"].items():
        logger.info("%s: %s", split, ", ".join(f"{value} {name}" for name, value in counts.items()))


def _checksums(manifest: Path, files: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of every listed chunk by {split}/{name}."""
    chunks = {name: entry for name, entry in files.items() if name.endswith(".torch")}
    for name, entry in chunks.items():
        checksum = entry.get("sha256") if isinstance(entry, dict) else None
        if not isinstance(checksum, str) or not CHUNK.fullmatch(name):
            raise DataError(f"{manifest}: its entry '{name}' is not one of ours; run the download stage again")
    return {name: entry["sha256"] for name, entry in chunks.items()}


if __name__ == "__main__":
    sys.exit(run_stage("preprocess", preprocess))
