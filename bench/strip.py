"""The strip of pictures in the README: two contexts, the truth, the render of a posed model, one row a scene.

python bench/strip.py WEIGHTS PACKED SIZE OUT.png SCENE [SCENE ...]: frames 3 and 15 of each scene are given, frame 9 is
rendered at SIZE pixels. WEIGHTS may be NAME.safetensors:STATE.pt, for the model of an unfinished training. Scores go to
results/strip.csv: PSNR of the render and of the best trivial baseline."""

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from common import append

from novelview.models.registry import load_weights
from novelview.scenes.batch import FrameCache, collate
from novelview.scenes.store import PackedStore
from novelview.stages.evaluate import views_of

TITLES = ("given", "given", "true view between them", "what the network drew")
FRAMES = [3, 15, 9]


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the PSNR in dB of images in [0,1]."""
    return -10 * torch.log10((image - truth).square().mean()).item()


def main(weights: str, packed: str, size: str, out: str, *scenes: str) -> None:
    """Write the strip and its rows."""
    file, _, state = weights.partition(":")
    model, config = load_weights(Path(file))
    if state:
        model.load_state_dict(torch.load(state, map_location="cpu", weights_only=True)["model"])
    views = replace(views_of(config, file), image_size=int(size))
    cache = FrameCache(PackedStore(Path(packed)), views, 0)
    figure, axes = plt.subplots(len(scenes), 4, figsize=(8, 2 * len(scenes) + 0.25), squeeze=False, dpi=96)
    rows = []
    for line, scene in zip(axes, scenes, strict=True):
        batch = collate([cache.sample(scene, FRAMES, 0)], 2).to_batch(torch.device("cpu"))
        with torch.no_grad():
            render = model.eval()(batch.context, batch.target).images[0, 0].clamp(0, 1)
        context, truth = batch.context.images[0], batch.target.images[0, 0]
        trivial = [*context, context.mean(0), context.mean((0, 2, 3))[:, None, None].expand_as(truth)]
        best = max(psnr(image, truth) for image in trivial)
        for axis, picture in zip(line, (*context, truth, render), strict=True):
            axis.imshow(picture.permute(1, 2, 0).numpy())
            axis.axis("off")
        rows.append({"model": config["model"]["name"], "scene": scene, "size": size})
        rows[-1] |= {"psnr": f"{psnr(render, truth):.2f}", "best_baseline": f"{best:.2f}"}
    for axis, title in zip(axes[0], TITLES, strict=True):
        axis.set_title(title, fontsize=9)
    figure.subplots_adjust(0, 0, 1, 1 - 0.25 / figure.get_figheight(), 0.02, 0.02)
    figure.savefig(out, metadata={"Software": None})
    append("strip", rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
