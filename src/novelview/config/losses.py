"""Configuration nodes of the training losses; defaults are the published values of the models without Gaussians."""

from dataclasses import dataclass, field


@dataclass
class PointmapLossConfig:
    """PM-Loss: the means of the Gaussians against a teacher's pointmap (specs/pmloss.md sections 1 and 2)."""

    weight: float = 0.0  # published 0.005; above 0 the training needs io.pointmaps
    apply_after: int = 0  # first step (0-based) whose loss has the term
    teacher: str = "exact"  # exact: the procedural rooms' own depth | vggt: the world points of VGGT-1B
    ignore_large: float = 100.0  # a scene's loss above this counts a 1e-5th
    detach_alignment: bool = False  # no gradient through the alignment; published false


@dataclass
class LossConfig:
    """Weights of the training losses (specs/uplvsm.md section 6; for Gaussians specs/depthsplat.md section 11)."""

    mse: float = 1.0
    perceptual: float = 0.5
    lpips: float = 0.0
    lpips_from: int = 0  # first step (0-based) whose loss has the LPIPS term; LaCT: 5000
    lpips_weights: str | None = "pretrained/vgg16-397923af.pth"  # backbone, needed when lpips > 0
    vgg_weights: str | None = "pretrained/imagenet-vgg-verydeep-19.mat"  # needed when perceptual > 0
    ignore_large_mse: float = 0.0  # squared errors from this on are left out of the mean; 0: none are; PM-Loss: 0.2
    intermediate_decay: float = 0.9  # the i-th of K coarser predictions weighs this to the power K - i
    damp_above: float = 0.0  # a photometric loss above this counts a 1e-8th; 0: never; PM-Loss: 0.1
    damp_after: int = 300  # last step (0-based) that damp_above leaves alone
    stale_lpips: bool = False  # quirk of PM-Loss's trainer, see docs/quirks.md
    pointmap: PointmapLossConfig = field(default_factory=PointmapLossConfig)
