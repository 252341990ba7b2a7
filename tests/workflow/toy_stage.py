"""Stands in for every stage of a copied checkout: its outputs are digests of its inputs, made in no time.

A training of LaCT has two steps; where `runtime` limits its time it makes one a call and ends with status 4, its state
kept in `io.checkpoints`. Once the file `toy-jobs` of the checkout has counted down, jobs end as if a signal had come.
"""

import hashlib
import os
import sys
from pathlib import Path

STAGE = Path(__file__).stem
WORDS = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
CONFIG = Path(sys.argv[sys.argv.index("--config") + 1]) if "--config" in sys.argv else None


def end(status: int) -> None:
    with open(os.environ["NOVELVIEW_ENDINGS"], "a") as stream:
        stream.write(f"{STAGE} {status}\n")
    sys.exit(status)


def put(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def read(name: str) -> str:
    """Return the digest of an input: a file, or a folder by the manifest or summary in it."""
    path = Path(WORDS[name])
    files = [path] if path.is_file() else [path / part for part in ("manifest.json", "summary.json")]
    return "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file())


def made() -> str:
    """Return what this stage makes of its inputs and its configuration."""
    inputs = "".join(
        read(key) for key in ("io.raw", "io.packed", "io.init", "io.weights", "io.pointmaps") if key in WORDS
    )
    own = "".join(word for key, word in sorted(WORDS.items()) if not key.startswith(("io.", "runtime.")))
    planned = CONFIG.name if CONFIG else ""  # of the configuration's digest
    return hashlib.sha256((STAGE + inputs + own + planned).encode()).hexdigest()


def count_down() -> None:
    left = int(Path("toy-jobs").read_text()) if Path("toy-jobs").exists() else 10_000
    if not left:
        end(3)
    Path("toy-jobs").write_text(str(left - 1))


def train(text: str) -> None:
    folder = Path(WORDS["io.checkpoints"])
    state = folder / f"toy-{text[:8]}.pt"
    limited = CONFIG is not None and "max_minutes: 1" in CONFIG.read_text()
    boxed = limited and "/lact/" in WORDS["io.out"]
    if boxed and not state.exists():
        put(str(state), text)
        end(4)
    with open("toy-resumed", "a") as stream:
        stream.write(f"{WORDS['io.out']} {'resumed' if state.exists() and state.read_text() == text else 'whole'}\n")
    put(WORDS["io.out"], text)
    put(WORDS["io.log"], f"step,seconds,made\n2,1.0,{text}\n")


def main() -> None:
    count_down()
    out, text = WORDS["io.out"], made()
    outputs = {
        "download": ["manifest.json"],
        "preprocess": ["manifest.json"],
        "pointmaps": ["manifest.json"],
        "evaluate": ["summary.json", "rows.csv", "gallery.safetensors"],
        "publish": ["model.safetensors", "README.md", "published.json"],
    }
    if STAGE == "train":
        train(text)
    elif STAGE == "figures":
        for suffix in ("svg", "png", "md", "tex", "csv"):
            put(f"{out}.{suffix}", text)
    elif STAGE in outputs:
        for name in outputs[STAGE]:
            put(f"{out}/{name}", text)
    else:
        put(out, text)
    if STAGE == "evaluate":
        put(WORDS["io.metrics"], "{}")
    end(0)


if __name__ == "__main__":
    main()
