"""A copy of the project in which everything is tiny, to run the real workflow in."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
ALL = {
    *("download_source", "pack_scenes", "pretrain_model", "finetune_model", "evaluate_model"),
    *("draw_figure", "write_table", "write_report"),
}
SOURCE = {
    **{"train_scenes": 3, "test_seen_scenes": 2, "test_new_scenes": 1, "twins": 2},
    **{"frames": 12, "height": 36, "width": 64, "gaps": [6, 9]},
}
RECIPE = {
    **{"views.min_frame_dist": 7, "views.max_frame_dist": 11},
    **{"train.steps": 6, "train.warmup": 1, "train.batch_size": 2},
}
EVAL = {
    **{"splits": ["full", "gap6", "gap9"], "bootstrap": 20, "gallery": 2},
    **{"video_frames": 3, "video_scenes": 1, "pose_scenes": 1},
}
RUNTIME = {"wandb": "disabled", "log_every": 2, "progress": False, "checkpoint_seconds": 0.0}


class Checkout:
    """The tracked files with a tiny configuration, run in place; a folder that has them already is kept as it is."""

    how = ("--cores", "2")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "Snakefile").exists():
            self._copy_project()
            self._shrink()

    def _copy_project(self) -> None:
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            if not name.startswith(("tests/", "docs/", "released/")):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)

    def _shrink(self) -> None:
        self.change("conf/source/rooms.yaml", SOURCE)
        self.change("conf/eval/rooms.yaml", EVAL)
        self.change("conf/runtime/demo.yaml", RUNTIME)
        self.change("conf/study/less3depend.yaml", {"models_at.demo": ["uplvsm", "ptlvsm"]})
        for model in ("uplvsm", "ptlvsm"):
            self.change_below(f"conf/models/{model}.yaml", "sizes.demo", {"patch_size": 14, "dino.patch_size": 14})
            for phase, size in {"pretrain": 28, "finetune": 42}.items():
                self.change_below(
                    f"conf/models/{model}.yaml", f"recipes.demo.{phase}", {**RECIPE, "views.image_size": size}
                )

    def copy(self, folder: Path) -> "Checkout":
        """Return a copy with results, records and times of change."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return type(self)(folder)

    def path(self, name: str) -> Path:
        """Return a path inside the checkout."""
        return self.folder / name

    def change(self, name: str, keys: dict[str, Any]) -> None:
        """Set dotted keys of a configuration file; the comments at its top, which Hydra reads, stay."""
        text = self.path(name).read_text()
        content = yaml.safe_load(text) or {}
        for key, value in keys.items():
            *parents, last = key.split(".")
            node = content
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        head = "".join(f"{line}\n" for line in text.splitlines() if line.startswith("#"))
        self.path(name).write_text(head + yaml.safe_dump(content, sort_keys=False))

    def change_below(self, name: str, place: str, keys: dict[str, Any]) -> None:
        """Set dotted keys below the key `place` of a configuration file."""
        self.change(name, {f"{place}.{key}": value for key, value in keys.items()})

    def call(self, *words: str, status: int = 0) -> str:
        """Run a command here as someone who activated the environment; return everything it printed."""
        own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
        own["PYTHONPATH"] = f"{self.path('src')}{os.pathsep}{self.path('kernels')}"
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, env=os.environ | own)
        output = done.stdout + done.stderr
        assert done.returncode == status, f"{shlex.join(words)}: status {done.returncode}\n{output[-6000:]}"
        return output

    def save(self, message: str) -> None:
        """Commit every change that git sees."""
        self.call("git", "add", "--all")
        self.call("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "-m", message)

    def pulled(self, folder: Path, link: str = "copy") -> "Checkout":
        """Return a clone of this repository that pulled everything, its files linked to DVC's cache by `link`."""
        self.call("git", "clone", "--quiet", str(self.folder), str(folder))
        clone = Checkout(folder)
        clone.call("dvc", "config", "--local", "cache.type", link)
        clone.call("dvc", "pull", "--quiet")
        return clone

    def command(self, *arguments: str, more: str = "") -> list[str]:
        """Return the Snakemake call; more: overrides for `--config set=`."""
        settings = ["--config", f"set={more}"] if more.strip() else []
        return [sys.executable, "-m", "snakemake", *self.how, *arguments, *settings]

    def run(self, *arguments: str, more: str = "") -> set[str]:
        """Run Snakemake; return the rules that ran, or would run."""
        output = self.call(*self.command(*arguments, more=more))
        found = re.findall(r"^(\w+) +\d+$", output.partition("Job stats:")[2], re.MULTILINE)
        return set(found) & ALL

    def plans(self, *arguments: str, more: str = "") -> set[str]:
        """Dry-run; return what each job that would run writes, below results/demo, as its command names it.

        Such as `models/uplvsm/rooms-full/x28/evaluation` or `less3depend/figures/gaps`: rule and wildcards in one."""
        output = self.call(*self.command("-n", *arguments, more=more))
        jobs = re.findall(r"^Shell command: .*? io\.out=(\S+)", output, re.MULTILINE)
        assert bool(jobs) != ("Nothing to be done" in output), output[-6000:]
        return {job.removeprefix("results/demo/") for job in jobs}

    def weights(self) -> dict[str, bytes]:
        """Return the bytes of all final weights by path."""
        paths = sorted((self.folder / "results").rglob("model.safetensors"))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}
