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
