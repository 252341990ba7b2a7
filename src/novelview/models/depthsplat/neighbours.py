"""Which views are matched with which (specs/depthsplat.md section 3)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

ALL_BELOW = 4  # with fewer views than this everyone meets everyone, unless a number of nearest views is asked for


def other_views(c2w: Float[Tensor, "b v 4 4"], local: int, nearest: int | None = None) -> Int[Tensor, "b v m"]:
    """Return the indices of the views that each view meets, itself left out.

    Up to 3 views: all others in order. More: the `local` nearest by the distance of camera centres, nearest first.
    nearest: replaces both rules by the nearest - 1 others, as the PM-Loss variant does in evaluation.
    """
    views = c2w.shape[1]
    if nearest is None and views < ALL_BELOW:
        table = torch.arange(views, device=c2w.device)
        others = torch.stack([torch.cat([table[:view], table[view + 1 :]]) for view in range(views)])
        return others.expand(len(c2w), -1, -1)
    count = min(local if nearest is None else nearest - 1, views - 1)
    centres = c2w[..., :3, 3].float()
    distance = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    distance.diagonal(dim1=1, dim2=2).fill_(-1.0)  # first also among views at one place
    return distance.argsort(dim=-1, stable=True)[..., 1 : count + 1]
