"""Which photographs of one collection are kept for evaluation, and which two show the model the scene around each."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from novelview.errors import DataError
from novelview.scenes.views import EvalEntry


def choose_held_out(frames: int, held_out: int) -> list[int]:
    """Return `held_out` evenly spaced frame numbers, never the first or the last, so training frames lie on both sides.

    Raises DataError when fewer than half of the frames, or no two of them, would remain for training.
    """
    if frames < 3:
        raise DataError(f"{frames} usable picture(s): at least 3 are needed, 2 to train on and 1 for evaluation")
    if held_out < 1 or frames - held_out < max(2, held_out):
        raise DataError(
            f"{frames} pictures with source.held_out={held_out}: keep at least 1 for evaluation and at least as many, "
            f"and 2, for training; set source.held_out to 1..{max(1, min(frames // 2, frames - 2))}"
        )
    return [int(number) for number in np.linspace(0, frames - 1, held_out + 2).round()[1:-1]]


def held_out_entries(
    scene: str, centres: Float[NDArray, "n 3"], held_out: Sequence[int], context_gap: int = 0
) -> list[EvalEntry]:
    """Return one evaluation entry a held-out frame: two training frames around it, in order, and itself as target.

    Frame order is the file names' order, along which people walk. With context_gap 0 the first context is the training
    frame whose camera stands nearest to the target's, the second the nearest among those on the target's other side in
    the sequence: two different views that bracket it. A gap g > 0 takes, on each side, the training frame whose number
    is closest to g/2 away.
    """
    training = [frame for frame in range(len(centres)) if frame not in set(held_out)]
    entries = []
    for target in held_out:
        sides = [[f for f in training if f < target], [f for f in training if f > target]]
        if context_gap:
            near = [min(side, key=lambda f: abs(abs(f - target) - context_gap / 2)) for side in sides]
        else:
            distance = np.linalg.norm(centres - centres[target], axis=1)
            near = [min(side, key=lambda f: float(distance[f])) for side in sides]
        entries.append(EvalEntry(scene, (near[0], near[1]), (target,), None))
    return entries
