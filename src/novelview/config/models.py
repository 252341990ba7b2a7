"""Configuration nodes of the models; defaults are the published sizes."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from omegaconf import MISSING

from novelview.config.keys import key, refuse

LAYOUTS = {(1, 4, 4), (2, 2, 4), (2, 4, 8)}  # num_scales, upsample_factor, lowest_feature_resolution
GROUPS = 8  # of GroupNorm
MIN_VIEWS = 2  # that DepthSplat matches


def _cameras() -> str:
    """Return the key `model.cameras`, a field of each class that has it."""
    return key("plucker", "prope: matrices relative to each other (specs/prope.md)", choices="plucker | prope | both")


@dataclass
class DinoConfig:
    """DINOv2 ViT-B/14 with registers (specs/uplvsm.md section 2.3)."""

    img_size: int = key(518, above=0)
    patch_size: int = key(14, above=0)
    embed_dim: int = key(768, above=0)
    depth: int = key(12, at_least=0)
    num_heads: int = key(12, above=0)
    mlp_ratio: float = 4.0
    num_register_tokens: int = key(4, at_least=0)
    init_values: float = 1.0
    qk_norm: bool = True
    interpolate_antialias: bool = True
    interpolate_offset: float = key(0.0, "added to the patch grid before the table is resized; DINOv2: 0.1")
    patch_std: float | None = key(None, "initial deviation of the patch convolution; None: PyTorch's, as published")
    patch_centred: bool = key(False, "patch bias starts where a mid-grey patch gives 0; published false")
    pos_gain: float = key(0.2, "amplitude of the sincos table")
    pos_init: str = key("normal", choices="normal: std 0.02, published | sincos: a table, for models without blocks")
    weights: str | None = key(None, "path of dinov2_vitb14_reg4_pretrain.pth; None starts from scratch and says so")

    def check_heads(self) -> None:
        """Raise ConfigError for a width that the heads do not divide."""
        heads, width = self.num_heads, self.embed_dim
        refuse(width % heads, f"model.dino.num_heads={heads}: does not divide embed_dim={width}")


@dataclass
class TransformerConfig:
    """The main QK-norm transformer (specs/uplvsm.md sections 2.1 and 7)."""

    d: int = key(768, above=0)
    d_head: int = key(64, above=0)
    qk_norm: bool = True
    qk_norm_eps: float = key(1e-3, above=0)
    qk_norm_init: float = 1.0
    special_init: bool = True
    depth_init: bool = True
    init_gain: float = key(1.0, "multiplies every initial standard deviation; published 1, demo 5", above=0)


@dataclass
class ModelConfig:
    """What every model's node has; `code`: the class that is built from it, imported where one is built."""

    code: ClassVar[str] = ""
    needs_cameras: ClassVar[bool] = True  # as the class says
    name: str = MISSING

    def without_weights(self) -> "ModelConfig":
        """Return the node without the pretrained backbones it starts from, because other weights replace them."""
        dino = getattr(self, "dino", None)
        changes: dict[str, Any] = {"dino": replace(dino, weights=None)} if isinstance(dino, DinoConfig) else {}
        return replace(self, **changes, **({"match_weights": None} if hasattr(self, "match_weights") else {}))

    def check(self) -> None:
        """Raise ConfigError for widths that do not go together."""
        transformer, dino = getattr(self, "transformer", None), getattr(self, "dino", None)
        if isinstance(transformer, TransformerConfig):
            d, d_head = transformer.d, transformer.d_head
            refuse(d % d_head, f"model.transformer.d={d}: not a multiple of d_head={d_head}")
            cameras = getattr(self, "cameras", "plucker")
            wrong = cameras != "plucker" and d_head % 8
            refuse(wrong, f"model.transformer.d_head={d_head}: model.cameras={cameras} needs a multiple of 8")
            if isinstance(dino, DinoConfig):
                width = dino.embed_dim
                refuse(width != d, f"model.dino.embed_dim={width}: must equal model.transformer.d={d}")
                dino.check_heads()


@dataclass
class PTLVSMConfig(ModelConfig):
    """PT-LVSM (specs/uplvsm.md section 4)."""

    code: ClassVar[str] = "novelview.models.ptlvsm.PTLVSM"
    name: str = "ptlvsm"
    patch_size: int = key(14, above=0)
    transformer: TransformerConfig = key(TransformerConfig)
    dino: DinoConfig = key(DinoConfig)
    n_layer: int = key(24, above=0)
    canonical_camera: bool = key(False, "re-express cameras relative to context view 0; off in the published config")


@dataclass
class UPLVSMConfig(ModelConfig):
    """UP-LVSM (specs/uplvsm.md section 3)."""

    code: ClassVar[str] = "novelview.models.uplvsm.build"  # which of two, `cameras` says
    needs_cameras: ClassVar[bool] = False
    name: str = "uplvsm"
    patch_size: int = key(14, above=0)
    transformer: TransformerConfig = key(TransformerConfig)
    dino: DinoConfig = key(DinoConfig)
    encoder_n_layer: int = key(6, above=0)
    estimator_n_layer: int = key(4, above=0)
    decoder_n_layer: int = key(14, above=0)
    n_latent_vectors: int = key(1024, above=0)
    decoder_as_canonical: bool = False
    cameras: str = _cameras()
    free_code: bool = key(False, "control of evaluation transfer: the seven numbers are no camera but a free code")
    pose_head_std: float = 0.02
    pose_identity_bias: bool = key(False, "quaternion head starts at the identity rotation; published false")

    def check(self) -> None:
        """Raise ConfigError for widths that do not go together, and for a code that is a camera."""
        super().check()
        both = self.free_code and self.cameras != "plucker"
        refuse(both, f"model.free_code=true: no camera, so model.cameras={self.cameras} has none; use plucker")


@dataclass
class LVSMConfig(ModelConfig):
    """What both variants of LVSM have (specs/lvsm.md sections 2 and 3)."""

    patch_size: int = key(8, "published 8; 16 is faster and worse", above=0)
    transformer: TransformerConfig = key(lambda: TransformerConfig(qk_norm_eps=1e-5))


@dataclass
class LVSMDecoderOnlyConfig(LVSMConfig):
    """LVSM, decoder-only (specs/lvsm.md section 4)."""

    code: ClassVar[str] = "novelview.models.lvsm.LVSMDecoderOnly"
    name: str = "lvsm_decoder_only"
    n_layer: int = key(24, above=0)
    cameras: str = _cameras()


@dataclass
class LVSMEfficientConfig(LVSMConfig):
    """Efficient-LVSM (specs/efficient_lvsm.md): encoder and decoder layers in pairs, one read by the other."""

    code: ClassVar[str] = "novelview.models.lvsm_efficient.EfficientLVSM"
    name: str = "lvsm_efficient"
    n_layer: int = key(12, "of the encoder, and of the decoder", above=0)
    cameras: str = _cameras()
    encoder_default_init: bool = key(True, "quirk: the encoder keeps PyTorch's initial values, see docs/quirks.md")


@dataclass
class LVSMEncoderDecoderConfig(LVSMConfig):
    """LVSM, encoder-decoder (specs/lvsm.md section 5)."""

    code: ClassVar[str] = "novelview.models.lvsm.LVSMEncoderDecoder"
    name: str = "lvsm_encoder_decoder"
    encoder_n_layer: int = key(12, above=0)
    decoder_n_layer: int = key(12, above=0)
    n_latent_vectors: int = key(3072, above=0)
    decoder_init_last_only: bool = key(False, "quirk of the reference before June 2025, see docs/quirks.md")

    def check(self) -> None:
        """Raise ConfigError for widths or initialisations that do not go together."""
        super().check()
        alone = self.decoder_init_last_only and not self.transformer.special_init
        refuse(alone, "model.decoder_init_last_only=true: needs model.transformer.special_init=true")


@dataclass
class TTTConfig:
    """The fast-weight layer of LaCT (specs/lact.md section 3)."""

    d_head: int = key(768, "width of a fast-weight head; as wide as the model: one head, as published", above=0)
    inter_multi: float = key(2, "hidden width of the fast weights over d_head; published 2 or 4", above=0)
    base_lr: float = key(0.01, "learning rate of a token before its projection moves it", above=0)
    steps: int = key(5, "Newton-Schulz iterations of an update; 0 only normalises", at_least=0)
    precision: str = key("accurate", choices="accurate: float32 results under autocast | reference: docs/quirks.md")


@dataclass
class LaCTConfig(ModelConfig):
    """LaCT for novel view synthesis (specs/lact.md); defaults are lact_l24_d768_ttt2x."""

    code: ClassVar[str] = "novelview.models.lact.LaCT"
    name: str = "lact"
    patch_size: int = key(8, above=0)
    d: int = key(768, above=0)
    d_head: int = key(64, "width of a head of the attention within each view", above=0)
    qk_norm: bool = True
    n_layer: int = key(24, above=0)
    mlp_multi: int = key(4, "hidden width of the MLP over d", above=0)
    ttt: TTTConfig = key(TTTConfig)
    init_gain: float = key(1.0, "multiplies the initial deviation of linear layers; published 1", above=0)

    def check(self) -> None:
        """Raise ConfigError for widths that do not go together."""
        for name, width in (("d_head", self.d_head), ("ttt.d_head", self.ttt.d_head)):
            refuse(self.d % width, f"model.d={self.d}: not a multiple of model.{name}={width}")
        hidden, factor = int(self.ttt.d_head * self.ttt.inter_multi), self.ttt.inter_multi
        refuse(hidden < 1, f"model.ttt.inter_multi={factor}: leaves no hidden unit; raise it")


@dataclass
class DptConfig:
    """The dense heads of DepthSplat (specs/depthsplat.md section 7); defaults go with ViT-S."""

    out_channels: list[int] = key([48, 96, 192, 384], "of the four maps before fusion")
    features: int = key(32, "width of the fusion of the depth head")
    gaussian_features: int = key(64, "width of the fusion of the Gaussian features")


@dataclass
class GaussianConfig:
    """From features to Gaussians (specs/depthsplat.md section 8); in brackets the PM-Loss variant (specs/pmloss.md)."""

    sh_degree: int = key(2, "[4]", within=(0, 4))
    scale_activation: str = key("softplus", choices="softplus: softplus(s-4), world units | exp: [exp(s-4), unbounded]")
    scale_min: float = key(1e-10, at_least=0)
    scale_max: float = key(3.0, "[0.3]", above=0)
    offset_mode: str = key("ori", choices="ori: sigmoid(o)-0.5 px | pixel: tanh(o)*factor/2 | unconstrained: factor*o")
    offset_factor: float = key(0.5, above=0)
    unit_rays: bool = key(False, "depth is the distance along the ray instead of z [true]")
    sh_from_image: bool = key(True, "the pixel's colour is added to the constant harmonic")
    sh_rotation: str = key("published", "see docs/quirks.md", choices="published: not exactly so | equivariant")
    confidence_activation: str = key("none", "added to the match probability", choices="none | softplus | sigmoid")
    second_channel_bias: float = key(0.0, "initial bias of channel 1 of the head [0.5]")
    upsampler: str = key("dpt", "features at full size [resize_conv]", choices="dpt | resize_conv")
    upsampler_channels: int = key(128, "of resize_conv, over all scales", above=0)
    regressor: str = key("conv", "[unet]", choices="conv: two convolutions | unet")
    regressor_channels: int = key(64, "[32]")
    large_unet: bool = key(False, "channel factors 1 2 4 4 4 instead of 1 1 1 1 1 [true]")


@dataclass
class DepthSplatConfig(ModelConfig):
    """DepthSplat (specs/depthsplat.md); defaults are the small model, RE10K at 256x256."""

    code: ClassVar[str] = "novelview.models.depthsplat.model.DepthSplat"
    name: str = "depthsplat"
    patch_size: int = key(16, "image sides are multiples of it: 4 times lowest_feature_resolution")
    near: float = key(0.5, "nearest and farthest depth in the units of the poses", above=0)
    far: float = key(100.0, above=0)
    num_scales: int = 1
    upsample_factor: int = key(4, "from the finest predicted depth to the image")
    lowest_feature_resolution: int = key(4, "image side over the coarsest map's: upsample_factor * 2^(num_scales-1)")
    num_depth_candidates: int = key(128, "at the coarsest scale, a quarter at the next")
    cnn_channels: list[int] = key([64, 96, 128])
    feature_channels: int = key(128, above=0)
    transformer_layers: int = key(6, at_least=0)
    attention_splits: int = key(2, "windows a side", above=0)
    many_view_mask: str = key("published", "see docs/quirks.md", choices="published: misplaced from 3 views | aligned")
    local_mv_match: int = key(2, "of more than 3 views, each meets this many nearest others", above=0)
    transformer_nearest_views: int | None = key(None, "itself included; replaces local_mv_match [evaluation: 3]")
    cost_volume_nearest_views: int | None = key(None, "likewise")
    depth_unet_channels: int = 128
    unet_head_channels: int = key(32, above=0)
    supervise_all_scales: bool = key(False, "in training the finest scale predicts before refinement, too [true]")
    train_depth_only: bool = key(False, "build the depth predictor alone")
    dino: DinoConfig = key(
        lambda: DinoConfig(
            embed_dim=384,
            num_heads=6,
            num_register_tokens=0,
            qk_norm=False,
            interpolate_antialias=False,
            interpolate_offset=0.1,
        )
    )
    dino_layers: list[int] = key([2, 5, 8, 11], "whose outputs are used; vitl 4 11 17 23")
    dpt: DptConfig = key(DptConfig)
    gaussian: GaussianConfig = key(GaussianConfig)
    match_weights: str | None = key(None, "UniMatch weights CNN and transformer start from; dino: Depth Anything")
    rasterizer: str = key("auto", choices="auto | torch | gsplat")

    def check(self) -> None:
        """Raise ConfigError for what no model can be built with (specs/depthsplat.md section 1)."""
        self._check_layout()
        self._check_widths()
        self._check_backbone()
        self._check_gaussians()

    def _check_layout(self) -> None:
        layout = self.num_scales, self.upsample_factor, self.lowest_feature_resolution
        known = " or ".join("/".join(map(str, each)) for each in sorted(LAYOUTS))
        names, given = "num_scales/upsample_factor/lowest_feature_resolution", "/".join(map(str, layout))
        refuse(layout not in LAYOUTS, f"model.{names}={given}: must be {known}")
        size = 4 * self.lowest_feature_resolution
        wrong = self.patch_size != size
        refuse(wrong, f"model.patch_size={self.patch_size}: must be 4 * lowest_feature_resolution, {size}")
        refuse(not self.near < self.far, f"model.near={self.near}: must be below model.far={self.far}")
        splits = self.attention_splits
        refuse(splits not in (1, 2, 4), f"model.attention_splits={splits}: choose one of 1, 2, 4")
        for name in ("transformer_nearest_views", "cost_volume_nearest_views"):
            value = getattr(self, name)
            few = value is not None and value < MIN_VIEWS
            refuse(few, f"model.{name}={value}: counts the view itself, so give {MIN_VIEWS} or more, or null")

    def _check_widths(self) -> None:
        finest, candidates = 4 ** (self.num_scales - 1), self.num_depth_candidates
        refuse(
            candidates % finest or candidates // finest < 4,
            f"model.num_depth_candidates={candidates}: must be a multiple of {finest}, {4 * finest} or more",
        )
        widths, channels = self.cnn_channels, self.feature_channels
        refuse(len(widths) != 3 or min(widths) < 1, f"model.cnn_channels={widths}: give the widths of 3 layers")
        refuse(channels % 4, f"model.feature_channels={channels}: must be a multiple of 4")
        for scale in range(self.num_scales):
            self._check_unet("model.depth_unet_channels", self.depth_unet_channels, 2**scale)

    def _check_unet(self, name: str, channels: int, shrink: int) -> None:
        width, step, head = channels // shrink, GROUPS * shrink, self.unet_head_channels
        refuse(channels < 1 or channels % step, f"{name}={channels}: must be a multiple of {step}")
        refuse(width % min(head, width), f"model.unet_head_channels={head}: does not divide {width}, from {name}")

    def _check_backbone(self) -> None:
        dino, layers, dpt = self.dino, self.dino_layers, self.dpt
        dino.check_heads()
        odd = dino.embed_dim % 2 ** (self.num_scales - 1)
        refuse(odd, f"model.dino.embed_dim={dino.embed_dim}: must be even with 2 scales")
        refuse(
            len(layers) != 4 or sorted(set(layers)) != layers or layers[0] < 0 or layers[-1] >= dino.depth,
            f"model.dino_layers={layers}: give 4 different layers in order, below dino.depth={dino.depth}",
        )
        wrong = len(dpt.out_channels) != 4 or min(dpt.out_channels) < 1
        refuse(wrong, f"model.dpt.out_channels={dpt.out_channels}: give the widths of 4 maps")
        for name in ("features", "gaussian_features"):
            refuse(getattr(dpt, name) < 2, f"model.dpt.{name}={getattr(dpt, name)}: must be 2 or more")

    def _check_gaussians(self) -> None:
        gaussian, width = self.gaussian, self.gaussian.regressor_channels
        refuse(width < 1, f"model.gaussian.regressor_channels={width}: must be 1 or more")
        low, high = gaussian.scale_min, gaussian.scale_max
        refuse(not low < high, f"model.gaussian.scale_min={low}: must be below scale_max={high}")
        if gaussian.regressor == "unet":
            self._check_unet("model.gaussian.regressor_channels", width, 1)
        if gaussian.upsampler == "resize_conv":
            channels = gaussian.upsampler_channels
            refuse(self.upsample_factor < 4, "model.gaussian.upsampler=resize_conv: needs model.upsample_factor=4")
            odd = channels % self.num_scales
            refuse(odd, f"model.gaussian.upsampler_channels={channels}: must be even with 2 scales")
