"""A batch of scenes as 3D Gaussians."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """Gaussians of b scenes; in feed-forward models n is view-major, then row-major pixels.

    means: world coordinates (OpenCV), scene units. covariances: world, symmetric, scene units squared. opacities:
    [0,1]. harmonics: SH coefficients of red, green, blue, k = (degree + 1)^2 in the order l^2 + l + m.
    """

    means: Float[Tensor, "b n 3"]
    covariances: Float[Tensor, "b n 3 3"]
    opacities: Float[Tensor, "b n"]
    harmonics: Float[Tensor, "b n 3 k"]

    def to(self, device: torch.device | str) -> "Gaussians":
        """Return the same Gaussians on a device."""
        return Gaussians(*(value.to(device) for value in self.tensors()))

    def take(self, scene: int) -> "Gaussians":
        """Return one scene as a batch of one."""
        return Gaussians(*(value[scene : scene + 1] if scene != -1 else value[-1:] for value in self.tensors()))

    def detach(self) -> "Gaussians":
        """Return the same Gaussians without their history."""
        return Gaussians(*(value.detach() for value in self.tensors()))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return means, covariances, opacities, harmonics."""
        return self.means, self.covariances, self.opacities, self.harmonics
