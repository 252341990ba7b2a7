"""A copy of the project in which everything is tiny, to run the real workflow in."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = (
    "source.train_scenes=3 source.test_seen_scenes=2 source.test_new_scenes=1 source.frames=12 source.height=36"
    " source.width=64 source.gaps=[6,9] views.image_size=28 views.min_frame_dist=7 views.max_frame_dist=11"
    " train.steps=6 train.warmup=1 train.batch_size=2 eval.splits=[full,gap6,gap9] eval.bootstrap=20 eval.gallery=2"
    " eval.video_frames=3 eval.video_scenes=1 eval.pose_scenes=1 runtime.wandb=disabled runtime.log_every=2"
    " runtime.progress=false runtime.checkpoint_seconds=0"
)
ALL = {
    *("download_source", "pack_scenes", "pretrain_model", "finetune_model", "evaluate_model"),
    *("draw_figure", "write_table", "write_report"),
}


class Checkout:
    """A copy of the project's tracked files, run in place."""

    how = ("--cores", "2")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            if not name.startswith(("tests/", "docs/")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        # Both phases must differ in size, and this study's finetuning would set 126.
        for model in ("uplvsm", "ptlvsm"):
            recipe = folder / f"conf/recipe/demo/{model}/finetune.yaml"
            recipe.write_text(recipe.read_text().replace("image_size: 126", "image_size: 42"))
            recipe = folder / f"conf/recipe/demo/{model}/pretrain.yaml"
            recipe.write_text(recipe.read_text().replace("image_size: 56", "image_size: 28"))

    def command(self, *arguments: str, more: str = "") -> list[str]:
        settings = TINY.replace(" views.image_size=28", "") + f" {more}"
        return [sys.executable, "-m", "snakemake", *self.how, *arguments, "--config", f"set={settings}"]

    def run(self, *arguments: str, more: str = "") -> set[str]:
        """Run Snakemake; return the rules that ran, or would run."""
        done = subprocess.run(self.command(*arguments, more=more), cwd=self.folder, capture_output=True, text=True)
        output = done.stdout + done.stderr
        assert done.returncode == 0, output[-6000:]
        found = re.findall(r"^(\w+) +\d+$", output.partition("Job stats:")[2], re.MULTILINE)
        return set(found) & ALL

    def weights(self) -> dict[str, bytes]:
        """Return the bytes of all final weights by path."""
        paths = sorted((self.folder / "results").rglob("model.safetensors"))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}
