"""The batch every model receives: posed images of context and target views."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class Views:
    """Views of `b` scenes, `v` each.

    images: [b v 3 h w], RGB in [0,1]; None for cameras without a picture (a rendered path).
    c2w: [b v 4 4], OpenCV camera-to-world (x right, y down, z forward), normalised scene units.
    intrinsics: [b v 4], fx fy cx cy in pixels of the image as fed to the model.
    frame: [b v], frame number in the scene; None for cameras on a path.
    points: [b v 3 h w], what a teacher says every pixel sees: points of a world that the views of a scene share, which
    need not be that of c2w; None where no loss asks for them.
    """

    images: Float[Tensor, "b v 3 h w"] | None
    c2w: Float[Tensor, "b v 4 4"]
    intrinsics: Float[Tensor, "b v 4"]
    frame: Int[Tensor, "b v"] | None = None
    points: Float[Tensor, "b v 3 h w"] | None = None

    def take(self, index: Int[Tensor, "b k"]) -> "Views":
        """Select views `index[i]` of scene i."""
        rows = torch.arange(index.shape[0], device=index.device)[:, None]
        return self._map(lambda field: field[rows, index])

    def span(self, start: int, stop: int) -> "Views":
        """Select views start..stop of every scene."""
        return self._map(lambda field: field[:, start:stop])

    def to(self, device: torch.device | str) -> "Views":
        """Move every field to `device`."""
        return self._map(lambda field: field.to(device, non_blocking=True))

    def _map(self, function) -> "Views":
        fields = {name: getattr(self, name) for name in ("images", "c2w", "intrinsics", "frame", "points")}
        return replace(self, **{name: None if field is None else function(field) for name, field in fields.items()})


@dataclass
class Batch:
    """Context and target views of `b` scenes with the scenes' names."""

    scene: list[str]
    context: Views
    target: Views

    def to(self, device: torch.device | str) -> "Batch":
        """Move both sets of views to `device`."""
        return Batch(self.scene, self.context.to(device), self.target.to(device))
