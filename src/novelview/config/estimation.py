"""Configuration nodes of camera estimation: VGGT, and the stage that replaces a data set's cameras."""

from dataclasses import dataclass, field

from novelview.config.models import DinoConfig


def _patch_vit() -> DinoConfig:
    return DinoConfig(embed_dim=1024, depth=24, num_heads=16, qk_norm=False)


@dataclass
class CameraHeadConfig:
    """VGGT's camera head (specs/vggt.md section 1)."""

    trunk_depth: int = 4
    num_heads: int = 16
    num_iterations: int = 4


@dataclass
class DptConfig:
    """VGGT's dense heads (specs/vggt.md section 1)."""

    features: int = 256
    out_channels: list[int] = field(default_factory=lambda: [256, 512, 1024, 1024])
    intermediate_layer_idx: list[int] = field(default_factory=lambda: [4, 11, 17, 23])


@dataclass
class VGGTConfig:
    """VGGT (specs/vggt.md); the defaults are those of the published weights facebook/VGGT-1B."""

    embed_dim: int = 1024
    depth: int = 24  # pairs of attention within a frame and over all frames
    num_heads: int = 16
    num_register_tokens: int = 4
    rope_frequency: float = 100.0
    init_values: float = 0.01
    patch_vit: DinoConfig = field(default_factory=_patch_vit)
    camera_head: CameraHeadConfig = field(default_factory=CameraHeadConfig)
    dpt: DptConfig = field(default_factory=DptConfig)
