"""Configuration nodes of where frames and cameras come from: data sources, camera estimators and VGGT, a class a kind.

Defaults of data sources are the demo scale's."""

from dataclasses import dataclass

from omegaconf import MISSING

from novelview.config.keys import key, refuse, validate
from novelview.config.models import DinoConfig


@dataclass
class SourceConfig:
    """Where multi-view frames come from; one subclass a kind."""

    kind: str = MISSING
    name: str = key(MISSING, "default dataset name, used in output paths")


@dataclass
class RoomsSource(SourceConfig):
    """Procedural rooms (demo_budget.md sections 2, 3, 6)."""

    kind: str = "rooms"
    name: str = "rooms"
    seed: int = key(2026, at_least=0)
    train_scenes: int = key(64, limits=(1, 10**7))
    test_seen_scenes: int = key(16, "unseen rooms, textures from the training photographs", limits=(0, 10**6))
    test_new_scenes: int = key(16, "unseen rooms, textures from held-out photographs", limits=(0, 10**6))
    twins: int = key(
        0, "pairs of a new room and its twin, other content under the same cameras: index `transfer`", limits=(0, 10**6)
    )
    frames: int = 24
    height: int = key(180, limits=(8, 4096))
    width: int = key(320, limits=(8, 4096))
    supersample: int = key(1, "rays per pixel along each axis", limits=(1, 8))
    texture_texels: int = key(24, "photographs are low-passed to so many texels a side; 0: sharp", limits=(0, 512))
    texture_density: list[float] = key([0.15, 0.25], "texture repeats per metre, range", limits=(0.01, 10.0))
    patterns: int = key(0, "made-up textures on half the surfaces of rooms with training photographs", limits=(0, 1024))
    objects: list[int] = key([3, 6], "boxes, spheres and panels a room, range", limits=(0, 64))
    fov: list[float] = key([50.0, 75.0], "horizontal field of view in degrees, range", limits=(10.0, 120.0))
    dolly: list[float] = key([0.5, 1.1], "metres travelled over the clip, range", limits=(0.0, 2.0))
    pan: list[float] = key([20.0, 40.0], "degrees panned over the clip, range", limits=(0.0, 180.0))
    drift: list[float] = key([0.0, 17.0], "degrees of extra rotation, either sign, range", limits=(0.0, 90.0))
    jpeg_quality: int = key(92, limits=(1, 100))
    gaps: list[int] = key([12, 18, 23], "evaluation context gaps beside the overlap classes")
    targets: int = key(3, "target views of an evaluation entry", limits=(1, 64))
    chunk_bytes: int = key(4_000_000, "a chunk is closed at this many JPEG bytes (RE10K: 1e8)", limits=(1, 2**40))

    def check(self) -> None:
        """Raise ConfigError for frames too few to hold the evaluation entries."""
        shortest = 2 * (self.targets + 2)
        refuse(
            self.frames < shortest,
            f"source.frames={self.frames}: too few for {self.targets} targets inside and outside a context pair; "
            f"use at least {shortest}",
        )
        refuse(
            self.twins and not self.gaps, f"source.twins={self.twins}: needs source.gaps, for the contexts of the pairs"
        )
        twice = len(set(self.gaps)) < len(self.gaps)
        refuse(twice, f"source.gaps={self.gaps}: each gap names an index, so none may stand twice")
        refuse(
            not all(self.targets < gap < self.frames for gap in self.gaps),
            f"source.gaps={self.gaps}: a gap must lie in [{self.targets + 1}, {self.frames - 1}] "
            f"(source.targets={self.targets}, source.frames={self.frames})",
        )


@dataclass
class PicturesSource(SourceConfig):
    """What sources of single pictures have."""

    held_out: int = key(0, "pictures kept for evaluation, evenly spaced; 0: an eighth, at least one", at_least=0)
    max_side: int = key(640, "pictures are shrunk to this longer side; 0 keeps their size", at_least=0)
    jpeg_quality: int = key(95, limits=(1, 100))


@dataclass
class UnposedSource(PicturesSource):
    """A folder of plain photographs, or a video, without cameras: for models that need none (UP-LVSM)."""

    kind: str = "unposed"
    name: str = "unposed"
    video_frames: int = key(48, "of a video: as many, evenly drawn, the sharpest of each interval", limits=(3, 10**5))
    context_gap: int = key(0, "0: the training photographs nearest to the target on both sides", at_least=0)


@dataclass
class PhotosSource(UnposedSource):
    """A folder of plain photographs, or a video; poses and intrinsics by pycolmap in a subprocess."""

    kind: str = "photos"
    name: str = "photos"
    camera_model: str = key(
        "SIMPLE_RADIAL",
        choices="SIMPLE_PINHOLE | PINHOLE | SIMPLE_RADIAL | RADIAL | OPENCV | FULL_OPENCV | OPENCV_FISHEYE | "
        "SIMPLE_RADIAL_FISHEYE | RADIAL_FISHEYE | THIN_PRISM_FISHEYE | RAD_TAN_THIN_PRISM_FISHEYE | FOV",
    )
    single_camera: bool = key(True, "one lens for all pictures of one size; false: a lens a picture")
    matcher: str = key("auto", choices="auto: exhaustive up to 150 photographs | exhaustive | sequential: neighbours")
    min_registered: float = key(0.8, "fewer registered photographs than this share is an error", within=(0, 1))
    seed: int = key(0, at_least=0)


@dataclass
class TransformsSource(PicturesSource):
    """A nerfstudio or instant-ngp `transforms.json`."""

    kind: str = "transforms"
    name: str = "transforms"
    background: float = key(1.0, "composited behind transparent pixels: 0 black, 1 white", within=(0, 1))
    allow_missing: bool = key(False, "frames named in the file whose image does not exist: skip them, counted")


@dataclass
class ColmapSource(PicturesSource):
    """A COLMAP sparse model, text or binary, with its images folder."""

    kind: str = "colmap"
    name: str = "colmap"
    images: str = key("images", "folder of the photographs, relative to `path`")
    allow_missing: bool = False


@dataclass
class OpencvCamerasSource(PicturesSource):
    """LaCT-style `opencv_cameras.json` beside its renderings (specs/lact.md)."""

    kind: str = "opencv_cameras"
    name: str = "opencv_cameras"
    background: float = key(1.0, "composited behind transparent pixels: 0 black, 1 white", within=(0, 1))
    allow_missing: bool = False
    split: str = key("held_out", "of a list of scenes", choices="held_out: frames of each | test | train: whole scenes")


@dataclass
class Dl3dvSource(PicturesSource):
    """DL3DV scenes, from a folder or the hub: undistorted, resized pictures (specs/lact.md section 8)."""

    kind: str = "dl3dv"
    name: str = "dl3dv"
    subset: str = key("hash", choices="hash: the scenes in `hashes` | full: all of them, hundreds of gigabytes")
    hashes: list[str] = key([], "scenes; empty, with a folder: all there")
    images: str = key("images_4", "images_4: 960x540 | images_8 | images_2 | images: full size")
    split: str = key("test", choices="test | train: whole scenes in one split | held_out: frames of each kept back")
    max_side: int = 0
    allow_missing: bool = False


@dataclass
class ChunksSource(SourceConfig):
    """RE10K/DL3DV `.torch` chunks already on disk: linked in place after verification (specs/re10k_format.md)."""

    kind: str = "chunks"
    name: str = "re10k"
    indices: dict[str, str] = key({}, "split name -> evaluation index: file, URL or registry name")
    subsets: dict[str, list[int]] = key({}, "training subset -> published numbers: chunks, scenes")
    allow_partial: bool = key(False, "go on with a copy whose subsets have other numbers")


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
    out_channels: list[int] = key([256, 512, 1024, 1024])
    intermediate_layer_idx: list[int] = key([4, 11, 17, 23])


@dataclass
class VGGTConfig:
    """VGGT (specs/vggt.md); the defaults are those of the published weights facebook/VGGT-1B."""

    embed_dim: int = 1024
    depth: int = key(24, "pairs of attention within a frame and over all frames")
    num_heads: int = 16
    num_register_tokens: int = 4
    rope_frequency: float = 100.0
    init_values: float = 0.01
    patch_vit: DinoConfig = key(lambda: DinoConfig(embed_dim=1024, depth=24, num_heads=16, qk_norm=False))
    camera_head: CameraHeadConfig = key(CameraHeadConfig)
    dpt: DptConfig = key(DptConfig)


@dataclass
class EstimatorConfig:
    """Where cameras come from; one subclass a kind."""

    kind: str = MISSING
    frames: str = key("all", choices="all: of a scene, together | entries: those that entries name, together")
    max_frames: int = key(0, "longer scenes are thinned to so many, entries' frames kept; 0: never", at_least=0)


@dataclass
class GivenEstimator(EstimatorConfig):
    """The cameras the data set came with."""

    kind: str = "given"


@dataclass
class ColmapEstimator(EstimatorConfig):
    """Structure from motion with pycolmap, a process a scene."""

    kind: str = "colmap"
    camera_model: str = key("SIMPLE_PINHOLE", "one lens a scene", choices="SIMPLE_PINHOLE | PINHOLE")
    intrinsics: str = key("estimate", choices="estimate | given: the data set's, kept as they are")
    matcher: str = key("auto", choices="auto: exhaustive up to 150 frames | exhaustive | sequential: neighbours")
    overlap: int = key(10, "of matcher sequential: neighbours on each side", above=0)
    max_features: int = key(4096, "of a frame", above=0)
    seconds: float = key(3600.0, "of wall clock; a scene that takes longer has failed, until the next run", above=0)
    seed: int = key(0, at_least=0)


@dataclass
class VggtEstimator(EstimatorConfig):
    """VGGT: cameras and depth of a scene's frames in one pass (specs/vggt.md)."""

    kind: str = "vggt"
    frames: str = key("entries", choices="all | entries")
    max_frames: int = key(64, at_least=0)
    weights: str = key("pretrained/vggt_1b.safetensors", "registry entry vggt")
    mode: str = key("crop", "how pictures are brought to 518 pixels", choices="crop | pad")
    amp: str = key("bf16", "the backbone's arithmetic on a GPU; heads run in float32", choices="bf16 | none")
    model: VGGTConfig = key(VGGTConfig)


def check_source(source: SourceConfig) -> None:
    """Raise ConfigError, one line with key, value and allowed range, for the first value that makes no data."""
    validate(source, "source.")
