"""Stage `publish`: weights with model card as a folder, and to the hub where `repo=owner/name` is given."""

import json
import re
import shutil
from pathlib import Path

from novelview.config.stages import PublishStage
from novelview.downloads.transfer import require_token, upload
from novelview.errors import ConfigError, DataError
from novelview.figures.released import card_title, model_card
from novelview.figures.results import read_evaluation
from novelview.files import sha256, write_json, write_text
from novelview.models.exchange import WEIGHTS, load_pretrained
from novelview.stages.cli import log, run_stage
from novelview.timebox import resuming_folder

REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
RECORD = "published.json"  # beside the folder's files: repository and commit, or null where nothing was sent
MADE = {WEIGHTS, "config.json", "README.md", "evaluation", RECORD}


def publish(cfg: PublishStage) -> None:
    """Write {io.out}/ with model.safetensors, config.json, README.md and evaluation/; send it where `repo` is named.

    The card's numbers come from {io.evaluation}/summary.json, which must be of these very weights. The token is
    HF_TOKEN or what `hf auth login` stored, never a key here. Raises NovelviewError."""
    if cfg.repo is not None:
        if not REPO.fullmatch(cfg.repo):
            raise ConfigError(f"repo={cfg.repo}: give owner/name of a repository on the hub")
        require_token()
    weights, out = Path(cfg.io["weights"]), Path(cfg.io["out"])
    evaluation = read_evaluation(cfg.io["evaluation"])
    _, config = load_pretrained(weights)
    if evaluation.summary.get("weights", {}).get("sha256") != sha256(weights):
        raise DataError(f"{evaluation.folder}: scores other weights than {weights}; evaluate these first")
    strange = sorted(item.name for item in out.iterdir() if item.name not in MADE) if out.is_dir() else []
    if strange or (out.exists() and not out.is_dir()):
        what = f"holds {strange[0]}, which" if strange else "is a file that"
        raise ConfigError(f"io.out={out}: {what} no publishing made, and it is replaced whole; choose another folder")
    with resuming_folder(out) as (folder, _):
        shutil.copyfile(weights, folder / WEIGHTS)
        write_text(folder / "config.json", json.dumps(config, indent=1, sort_keys=True) + "\n")
        write_text(folder / "README.md", model_card(evaluation, cfg.licence, cfg.repo))
        (folder / "evaluation").mkdir()
        for name in ("summary.json", "rows.csv"):
            shutil.copyfile(evaluation.folder / name, folder / "evaluation" / name)
        commit = upload(folder, cfg.repo, cfg.private, f"Publish {card_title(evaluation)}") if cfg.repo else None
        write_json(folder / RECORD, {"repo": cfg.repo, "commit": commit})
    sent = f"on the hub as {cfg.repo}, commit {commit}" if cfg.repo else "written, nothing sent (no repo)"
    log.info("%s: %s", out, sent)


if __name__ == "__main__":
    raise SystemExit(run_stage("publish", publish))
