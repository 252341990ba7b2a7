"""Names of weights in published DepthSplat checkpoints (specs/depthsplat.md section 11)."""

from collections.abc import Mapping

from torch import Tensor

FULL, PREDICTOR = "encoder.", "depth_predictor."


def own_names(state: Mapping[str, Tensor], depth_only: bool) -> dict[str, Tensor]:
    """Return the encoder's weights under our names.

    Full models have `encoder.*` beside what training needs, which is left out; depth models the bare names of the
    depth predictor. depth_only: keep the depth predictor alone, also of a full model.
    """
    if any(key.startswith(FULL) for key in state):
        found = {key: value for key, value in state.items() if key.startswith(FULL)}
    else:
        prefix = FULL if any(key.startswith(PREDICTOR) for key in state) else FULL + PREDICTOR
        found = {prefix + key: value for key, value in state.items()}
    return {key: value for key, value in found.items() if not depth_only or key.startswith(FULL + PREDICTOR)}
