"""Configuration nodes of the models; defaults are the published sizes."""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class DinoConfig:
    """DINOv2 ViT-B/14 with registers (specs/uplvsm.md section 2.3)."""

    img_size: int = 518
    patch_size: int = 14
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    num_register_tokens: int = 4
    init_values: float = 1.0
    qk_norm: bool = True
    interpolate_antialias: bool = True
    interpolate_offset: float = 0.0  # added to the patch grid before the position table is resized; DINOv2's own 0.1
    patch_std: float | None = None  # initial deviation of the patch convolution; None: PyTorch's default, as published
    patch_centred: bool = False  # patch bias starts where a mid-grey patch gives 0; published false
    pos_gain: float = 0.2  # amplitude of the sincos table
    pos_init: str = "normal"  # normal: std 0.02 as published | sincos: a table, for models without ViT blocks
    weights: str | None = None  # path of dinov2_vitb14_reg4_pretrain.pth; None starts from scratch and says so


@dataclass
class TransformerConfig:
    """The main QK-norm transformer (specs/uplvsm.md sections 2.1 and 7)."""

    d: int = 768
    d_head: int = 64
    qk_norm: bool = True
    qk_norm_eps: float = 1e-3
    qk_norm_init: float = 1.0
    special_init: bool = True
    depth_init: bool = True
    init_gain: float = 1.0  # multiplies every initial standard deviation; published 1, demo 5


@dataclass
class ModelConfig:
    """What every model's node has; `name` selects the registry entry."""

    name: str = MISSING


@dataclass
class PTLVSMConfig(ModelConfig):
    """PT-LVSM (specs/uplvsm.md section 4)."""

    name: str = "ptlvsm"
    patch_size: int = 14
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    dino: DinoConfig = field(default_factory=DinoConfig)
    n_layer: int = 24
    canonical_camera: bool = False  # re-express cameras relative to context view 0; off in the published config


@dataclass
class UPLVSMConfig(ModelConfig):
    """UP-LVSM (specs/uplvsm.md section 3)."""

    name: str = "uplvsm"
    patch_size: int = 14
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    dino: DinoConfig = field(default_factory=DinoConfig)
    encoder_n_layer: int = 6
    estimator_n_layer: int = 4
    decoder_n_layer: int = 14
    n_latent_vectors: int = 1024
    decoder_as_canonical: bool = False
    pose_head_std: float = 0.02
    pose_identity_bias: bool = False  # quaternion head starts at the identity rotation; published false


@dataclass
class LVSMConfig(ModelConfig):
    """What both variants of LVSM have (specs/lvsm.md sections 2 and 3)."""

    patch_size: int = 8  # published 8; 16 is faster and worse
    transformer: TransformerConfig = field(default_factory=lambda: TransformerConfig(qk_norm_eps=1e-5))


@dataclass
class LVSMDecoderOnlyConfig(LVSMConfig):
    """LVSM, decoder-only (specs/lvsm.md section 4)."""

    name: str = "lvsm_decoder_only"
    n_layer: int = 24


@dataclass
class LVSMEncoderDecoderConfig(LVSMConfig):
    """LVSM, encoder-decoder (specs/lvsm.md section 5)."""

    name: str = "lvsm_encoder_decoder"
    encoder_n_layer: int = 12
    decoder_n_layer: int = 12
    n_latent_vectors: int = 3072
    decoder_init_last_only: bool = False  # quirk of the reference before June 2025, see docs/quirks.md


@dataclass
class TTTConfig:
    """The fast-weight layer of LaCT (specs/lact.md section 3)."""

    d_head: int = 768  # width of a fast-weight head; as wide as the model: one head, as published
    inter_multi: float = 2  # hidden width of the fast weights over d_head; published 2 or 4
    base_lr: float = 0.01  # learning rate of a token before its projection moves it
    steps: int = 5  # Newton-Schulz iterations of an update; 0 only normalises
    precision: str = "accurate"  # accurate: float32 results also under autocast | reference: see docs/quirks.md


@dataclass
class LaCTConfig(ModelConfig):
    """LaCT for novel view synthesis (specs/lact.md); defaults are lact_l24_d768_ttt2x."""

    name: str = "lact"
    patch_size: int = 8
    d: int = 768
    d_head: int = 64  # width of a head of the attention within each view
    qk_norm: bool = True
    n_layer: int = 24
    mlp_multi: int = 4  # hidden width of the MLP over d
    ttt: TTTConfig = field(default_factory=TTTConfig)
    init_gain: float = 1.0  # multiplies the initial deviation of linear layers; published 1


@dataclass
class DptConfig:
    """The dense heads of DepthSplat (specs/depthsplat.md section 7); defaults go with ViT-S."""

    out_channels: list[int] = field(default_factory=lambda: [48, 96, 192, 384])  # of the four maps before fusion
    features: int = 32  # width of the fusion of the depth head
    gaussian_features: int = 64  # width of the fusion of the Gaussian features


@dataclass
class GaussianConfig:
    """From features to Gaussians (specs/depthsplat.md section 8); in brackets the PM-Loss variant (specs/pmloss.md)."""

    sh_degree: int = 2  # [4]
    scale_activation: str = "softplus"  # softplus(s-4), world units | exp [exp(s-4), not clamped from below]
    scale_min: float = 1e-10
    scale_max: float = 3.0  # [0.3]
    offset_mode: str = "ori"  # ori: sigmoid(o)-0.5 px | pixel: tanh(o)*factor/2 | unconstrained: factor*o
    offset_factor: float = 0.5
    unit_rays: bool = False  # depth is the distance along the ray instead of z [true]
    sh_from_image: bool = True  # the pixel's colour is added to the constant harmonic
    sh_rotation: str = "published"  # published: not exactly equivariant | equivariant; see docs/quirks.md
    confidence_activation: str = "none"  # none | softplus | sigmoid: one more channel, added to the match probability
    second_channel_bias: float = 0.0  # initial bias of channel 1 of the head [0.5]
    upsampler: str = "dpt"  # features at full size: dpt | resize_conv [resize_conv]
    upsampler_channels: int = 128  # of resize_conv, over all scales
    regressor: str = "conv"  # conv: two convolutions | unet [unet]
    regressor_channels: int = 64  # [32]
    large_unet: bool = False  # channel factors 1 2 4 4 4 instead of 1 1 1 1 1 [true]


@dataclass
class DepthSplatConfig(ModelConfig):
    """DepthSplat (specs/depthsplat.md); defaults are the small model, RE10K at 256x256."""

    name: str = "depthsplat"
    patch_size: int = 16  # image sides are multiples of it: 4 times lowest_feature_resolution
    near: float = 0.5  # nearest and farthest depth in the units of the poses
    far: float = 100.0
    num_scales: int = 1
    upsample_factor: int = 4  # from the finest predicted depth to the image
    lowest_feature_resolution: int = 4  # image side over that of the coarsest map: upsample_factor * 2^(num_scales-1)
    num_depth_candidates: int = 128  # at the coarsest scale, a quarter at the next
    cnn_channels: list[int] = field(default_factory=lambda: [64, 96, 128])
    feature_channels: int = 128
    transformer_layers: int = 6
    attention_splits: int = 2  # windows a side
    many_view_mask: str = "published"  # published: misplaced with 3 views or more | aligned; see docs/quirks.md
    local_mv_match: int = 2  # of more than 3 views, each meets this many nearest others
    transformer_nearest_views: int | None = None  # the view itself included; replaces local_mv_match [evaluation: 3]
    cost_volume_nearest_views: int | None = None  # likewise
    depth_unet_channels: int = 128
    unet_head_channels: int = 32
    supervise_all_scales: bool = False  # in training the finest scale gives a prediction before refinement, too [true]
    train_depth_only: bool = False  # build the depth predictor alone
    dino: DinoConfig = field(
        default_factory=lambda: DinoConfig(
            embed_dim=384,
            num_heads=6,
            num_register_tokens=0,
            qk_norm=False,
            interpolate_antialias=False,
            interpolate_offset=0.1,
        )
    )
    dino_layers: list[int] = field(default_factory=lambda: [2, 5, 8, 11])  # whose outputs are used; vitl 4 11 17 23
    dpt: DptConfig = field(default_factory=DptConfig)
    gaussian: GaussianConfig = field(default_factory=GaussianConfig)
    match_weights: str | None = None  # UniMatch weights CNN and transformer start from; dino.weights: Depth Anything V2
    rasterizer: str = "auto"  # auto | torch | gsplat
