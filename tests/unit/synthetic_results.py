"""Finished results made up for the tests of figures and report: two models, two sets, wins and losses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from novelview.config.schema import Study
from novelview.evaluation.scores import ImageScores, write_rows

SETS = ("seen", "new")
SPLITS = ("large", "small", "gap18", "gap23")
SIDE, PATCH = 28, 14
STUDY = Study(name="made-up", title="Made-up <study>", published="Less3Depend/UP-LVSM 2506.09885")
ADVANTAGE = {"gap23": 1.4, "gap18": 0.2, "small": 0.9, "large": -0.7}  # dB over the best baseline, set seen


def write_results(root: Path, resolution: int = SIDE) -> tuple[list[Path], list[Path]]:
    """Write evaluations and training logs of two models under `root`; return (evaluation folders, training logs)."""
    folders, logs = [], []
    for model in ("uplvsm", "ptlvsm"):
        run = root / "models" / model / "rooms-full" / f"pretrain-x{resolution}"
        (run / "evaluation").mkdir(parents=True)
        write_log(run / "train.csv")
        write_evaluation(run / "evaluation", model, resolution)
        folders.append(run / "evaluation")
        logs.append(run / "train.csv")
    return folders, logs


def write_log(path: Path) -> None:
    """Write a training log with two skipped updates and one undefined gradient norm."""
    lines = [
        f"{step},{1 / step},{1 / step},{10 + step / 50},0.001,{'nan' if step == 100 else 1.5},0,{step}"
        for step in (50, 100)
    ]
    lines.append("150,0.005,0.005,13,0,9.5,2,150")
    path.write_text("\n".join(["step,loss,mse,psnr,lr,grad_norm,skipped,seconds", *lines]) + "\n")


def scores(model: str, set_name: str, split: str) -> dict[str, float]:
    """Return the mean PSNR of every row name on one split."""
    advantage = ADVANTAGE[split] - (1.0 if set_name == "new" else 0.0) - (0.3 if model == "uplvsm" else 0.0)
    best = 19.125
    values = {model: best + advantage, f"{model}_swapped_pose": best + advantage - 0.5}
    return values | {"nearest_context": best - 0.5, "mean_context": best, "mean_colour": best - 1.0}


def write_evaluation(folder: Path, model: str, resolution: int) -> None:
    """Write summary.json, rows.csv, gallery.safetensors and, for UP-LVSM, poses.json and a clip."""
    summary = {
        "model": model,
        "resolution": resolution,
        "dataset": "rooms",
        "given": {"context_poses": False, "target_poses": model == "ptlvsm", "target_images": model == "uplvsm"},
        "parameters": 12345,
        "protocol": "Every target once.",
        "versions": {"torch": "2.13.0"},
        "digest": "0123456789ab",
        "weights": {
            "sha256": "f" * 64,
            "digest": "ba9876543210",
            "config": {"train": {"seed": 777, "steps": 150, "batch_size": 8}},
        },
        "lpips_reason": "no weights",
        **_statistics(model),
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    _write_gallery(folder, model)
    if model == "uplvsm":
        _write_poses(folder)
        (folder / "path_seen-0.mp4").write_bytes(b"not really a video")


def _statistics(model: str) -> dict[str, Any]:
    groups, paired = [], []
    for place in ({"set": name, "split": split} for name in SETS for split in SPLITS):
        values = scores(model, place["set"], place["split"])
        shared = place | {"scenes": 4, "count": 12, "resampled": "scenes", "lpips": None}
        groups += [
            shared | {"model": name, "psnr": _score(value), "ssim": _score(0.6, 0.01), "sharpness": _score(0.7, 0.01)}
            for name, value in values.items()
        ]
        own = values.pop(model)
        paired += [
            shared
            | {
                "model": model,
                "baseline": name,
                "psnr": _score(own - value),
                "ssim": _score(0.0, 0.01),
                "sharpness": _score(0.0, 0.01),
            }
            for name, value in values.items()
        ]
    return {"groups": groups, "paired": paired}


def _score(mean: float, half: float = 0.25) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _write_gallery(folder: Path, model: str) -> None:
    generator = np.random.default_rng(3)
    tensors, entries, rows = {}, [], []
    for number, name in enumerate(SETS):
        context = generator.integers(0, 255, (2, 3, SIDE, SIDE), dtype=np.uint8)
        tensors |= {f"{number}.context": context, f"{number}.target": context[1:] // 2, f"{number}.render": context[:1]}
        if model == "uplvsm":
            patches = (SIDE // PATCH) ** 2
            tensors[f"{number}.attention"] = generator.random((patches, patches)).astype(np.float16)
        place = {"scene": f"{name}-{number}", "set": name, "split": "gap23", "entry": number}
        entries.append(place | {"context": [0, 23], "target": [11], "psnr": 12.34})
        copy = -10 * np.log10(np.mean((context[1] / 255 - context[1] // 2 / 255) ** 2))
        rows.append(
            ImageScores("nearest_context", **place, frame=11, psnr=float(copy), ssim=0.5, lpips=None, sharpness=0.9)
        )
    save_file(tensors, folder / "gallery.safetensors", {"gallery": json.dumps(entries)})
    write_rows(folder / "rows.csv", rows)


def _write_poses(folder: Path) -> None:
    true = np.tile(np.eye(4), (5, 1, 1))
    true[:, 0, 3] = np.linspace(0, 1, 5)
    estimated = true.copy()
    estimated[:, 2, 3] += 0.1
    errors = {"rotation_deg": [3.25] * 5, "translation": [0.1] * 5, "spread": 0.354}
    place = {"scene": "seen-0", "set": "seen", "split": "gap23"}
    paths = [place | {"true": true.tolist(), "estimated": estimated.tolist(), **errors}]
    (folder / "poses.json").write_text(json.dumps(paths))
