"""What a rendering is asked for besides Gaussians and cameras."""

from dataclasses import dataclass

from novelview.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """width, height: pixels. near < z < far is drawn. eps2d: px^2 added to the variances on the image.

    alpha_max: the largest alpha of one Gaussian. three_sigma: the INRIA kernel's shorter extent.
    """

    width: int
    height: int
    near: float = 0.01
    far: float = 1e10
    eps2d: float = 0.3
    alpha_max: float = 0.99
    three_sigma: bool = False

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ConfigError(f"an image has at least one pixel, got width {self.width}, height {self.height}")
        if not 0 < self.near < self.far:
            raise ConfigError(f"0 < near < far must hold, got near {self.near}, far {self.far}")
