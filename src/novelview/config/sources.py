"""Configuration nodes of the data sources, one dataclass a kind; defaults are the demo scale's."""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class SourceConfig:
    """Where multi-view frames come from; one subclass a kind."""

    kind: str = MISSING
    name: str = MISSING  # default dataset name, used in output paths


@dataclass
class RoomsSource(SourceConfig):
    """Procedural rooms (demo_budget.md sections 2, 3, 6)."""

    kind: str = "rooms"
    name: str = "rooms"
    seed: int = 2026
    train_scenes: int = 64
    test_seen_scenes: int = 16  # unseen rooms, textures from the training photographs
    test_new_scenes: int = 16  # unseen rooms, textures from held-out photographs
    frames: int = 24
    height: int = 180
    width: int = 320
    supersample: int = 1  # rays per pixel along each axis
    texture_texels: int = 24  # photographs are low-passed to this many texels a side; 0 keeps them sharp
    texture_density: list[float] = field(default_factory=lambda: [0.15, 0.25])  # texture repeats per metre, range
    patterns: int = 0  # made-up textures on half of the surfaces of rooms with training photographs
    objects: list[int] = field(default_factory=lambda: [3, 6])  # boxes, spheres and panels a room, range
    fov: list[float] = field(default_factory=lambda: [50.0, 75.0])  # horizontal field of view in degrees, range
    dolly: list[float] = field(default_factory=lambda: [0.5, 1.1])  # metres travelled over the clip, range
    pan: list[float] = field(default_factory=lambda: [20.0, 40.0])  # degrees panned over the clip, range
    drift: list[float] = field(default_factory=lambda: [0.0, 17.0])  # degrees of extra rotation, either sign, range
    jpeg_quality: int = 92
    gaps: list[int] = field(default_factory=lambda: [12, 18, 23])  # evaluation context gaps beside the overlap classes
    targets: int = 3  # target views of an evaluation entry
    chunk_bytes: int = 4_000_000  # a chunk is closed at this many JPEG bytes (RE10K: 1e8)


@dataclass
class PhotosSource(SourceConfig):
    """A folder of plain photographs; poses and intrinsics by pycolmap in a subprocess."""

    kind: str = "photos"
    name: str = "photos"
    camera_model: str = "SIMPLE_RADIAL"
    single_camera: bool = True
    held_out: int = 10  # photographs kept for evaluation, evenly spaced
    max_side: int = 640  # photographs are shrunk to this longer side; 0 keeps their size
    min_registered: float = 0.8  # fewer registered photographs than this share is an error
    jpeg_quality: int = 95
    seed: int = 0
    context_gap: int = 0  # 0: the registered training photographs nearest to the target on both sides


@dataclass
class TransformsSource(SourceConfig):
    """A nerfstudio or instant-ngp `transforms.json`."""

    kind: str = "transforms"
    name: str = "transforms"
    held_out: int = 10
    max_side: int = 640
    jpeg_quality: int = 95
    background: float = 1.0  # value in [0,1] composited behind transparent pixels
    allow_missing: bool = False  # frames named in the file whose image does not exist: skip them, counted


@dataclass
class ColmapSource(SourceConfig):
    """A COLMAP sparse model, text or binary, with its images folder."""

    kind: str = "colmap"
    name: str = "colmap"
    images: str = "images"  # folder of the photographs, relative to `path`
    held_out: int = 10
    max_side: int = 640
    jpeg_quality: int = 95
    allow_missing: bool = False


@dataclass
class OpencvCamerasSource(SourceConfig):
    """LaCT-style `opencv_cameras.json` beside its renderings (specs/lact.md)."""

    kind: str = "opencv_cameras"
    name: str = "opencv_cameras"
    held_out: int = 10
    max_side: int = 640
    jpeg_quality: int = 95
    background: float = 1.0  # value in [0,1] composited behind transparent pixels
    allow_missing: bool = False
    split: str = "held_out"  # of a list of scenes: held_out frames of each kept back | test | train: whole scenes


@dataclass
class Dl3dvSource(SourceConfig):
    """DL3DV scenes, from a folder or the hub: undistorted, resized pictures (specs/lact.md section 8)."""

    kind: str = "dl3dv"
    name: str = "dl3dv"
    subset: str = "hash"  # hash: the scenes in `hashes` | full: all of the repository, hundreds of gigabytes
    hashes: list[str] = field(default_factory=list)  # scenes; empty, with a folder: all there
    images: str = "images_4"  # images_4: 960x540 | images_8 | images_2 | images: full size
    split: str = "test"  # test | train | held_out: whole scenes in one split, or `held_out` frames of each kept back
    held_out: int = 10
    max_side: int = 0  # longer side pictures are shrunk to; 0 keeps their size
    jpeg_quality: int = 95
    allow_missing: bool = False


@dataclass
class ChunksSource(SourceConfig):
    """RE10K/DL3DV `.torch` chunks already on disk: linked in place after verification (specs/re10k_format.md)."""

    kind: str = "chunks"
    name: str = "re10k"
    indices: dict[str, str] = field(default_factory=dict)  # split name -> evaluation index: file, URL or registry name
    subsets: dict[str, list[int]] = field(default_factory=dict)  # training subset -> published numbers: chunks, scenes
    allow_partial: bool = False  # go on with a copy whose subsets have other numbers
