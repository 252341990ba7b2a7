"""An encoded scene: made once, kept on disk, viewed by any later process that has the weights (specs/lact.md 9).

A safetensors file of the scene's tensors (`tokens`, with relative cameras `c2w` and `intrinsics` beside them, the fast
weights `blocks.{i}.w0|w1|w2` of LaCT, `keys.{i}` and `values.{i}` of Efficient-LVSM, or the Gaussians
`gaussians.means|covariances|opacities|harmonics` and `depths` of DepthSplat) and of its context cameras (`context.c2w`
[v 4 4] in the frame of the sample, `context.intrinsics` [v 4] in pixels); the metadata key `scene` is `Facts` as JSON.
The same scene gives the same bytes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from novelview.cameras.poses import CoordinateFrame, mean_frame
from novelview.config.checkpoints import difference, require_whole
from novelview.config.digest import digest_of
from novelview.config.schema import ViewsConfig, sides
from novelview.errors import CheckpointError
from novelview.evaluation.protocol import autocast, load_context
from novelview.files import sha256, write_bytes
from novelview.models.depthsplat.model import GaussianScene
from novelview.models.lact import SceneState
from novelview.models.lvsm_efficient import Memory
from novelview.models.registry import ordered, read_config
from novelview.models.render import PosedTokens, ViewModel
from novelview.models.ttt import FastWeights
from novelview.scenes.batch import FrameCache
from novelview.scenes.store import PackedStore
from novelview.splatting.gaussians import Gaussians

FORMAT = "novelview-scene-1"
SPLATS = "gaussians."
MEMORY = ("keys", "values")


@dataclass(frozen=True)
class Facts:
    """What the header of a scene file says."""

    weights: str  # SHA-256
    model: dict[str, Any]  # its resolved node
    digest: str  # of the node
    scene: str
    frames: list[int]
    height: int
    width: int
    motion: list[list[float]] | None = None  # of the frame, with scale
    scale: float = 1.0

    @staticmethod
    def of(weights: Path | str) -> dict[str, Any]:
        """Return the facts about a weights file."""
        node = read_config(weights)["model"]
        return {"weights": sha256(weights), "model": node, "digest": digest_of(node)}


@dataclass
class Encoded:
    """A scene as `encode` left it (tokens [1 n d], fast weights or Gaussians); cameras normalised as in training."""

    scene: Any
    c2w: Float[Tensor, "v 4 4"]
    intrinsics: Float[Tensor, "v 4"]
    facts: Facts

    @property
    def frame(self) -> CoordinateFrame | None:
        """Return the frame that world cameras must enter to be rendered; None where poses stay as they come."""
        motion, scale = self.facts.motion, torch.tensor(self.facts.scale).double()
        return CoordinateFrame(torch.tensor(motion).double(), scale) if motion else None


def encode_scene(
    model: ViewModel,
    weights: Path,
    store: PackedStore,
    scene: str,
    frames: Sequence[int],
    views: ViewsConfig,
    device: torch.device,
    amp: str = "none",
) -> Encoded:
    """Encode the context views `frames` of a scene; `weights` is the file the model came from."""
    context = load_context(FrameCache(store, views, 0), scene, frames, 0, device).context
    with torch.no_grad(), autocast(amp, device):
        encoded = model.encode(context)
    facts = Facts(**Facts.of(weights), scene=scene, frames=list(frames), height=sides(views)[0], width=sides(views)[1])
    if views.pose_normalisation == "scene":
        frame = mean_frame(store.c2w(scene)[list(frames)], views.scene_scale_factor)
        facts = replace(facts, motion=frame.motion.tolist(), scale=float(frame.scale))
    return Encoded(encoded, context.c2w[0], context.intrinsics[0], facts)


@torch.no_grad()
def render_cameras(
    model: ViewModel, encoded: Encoded, c2w: Float[Tensor, "n 4 4"], intrinsics: Float[Tensor, "n 4"], amp: str = "none"
) -> Float[Tensor, "n 3 h w"]:
    """Render cameras in the frame the model decodes in (`ViewModel.cameras`), all at once, float32 in [0,1]."""
    size, device = (encoded.facts.height, encoded.facts.width), next(model.parameters()).device
    with autocast(amp, device):
        return model.decode(encoded.scene, c2w[None].to(device), intrinsics[None].to(device), *size)[0].float()


def save_scene(path: Path | str, encoded: Encoded) -> None:
    """Write an encoded scene atomically."""
    tensors = {**tensors_of(encoded.scene), "context.c2w": encoded.c2w, "context.intrinsics": encoded.intrinsics}
    metadata = {"format": FORMAT, "scene": json.dumps(asdict(encoded.facts), sort_keys=True)}
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}  # none shares memory
    write_bytes(path, ordered(save(kept, metadata)))


def load_scene(path: Path | str, weights: Path | str, device: torch.device) -> Encoded:
    """Read an encoded scene; raises CheckpointError for a damaged file and one of another model, size or weights."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; write it with io.save_state, or correct io.load_state")
    require_whole(path)
    try:
        with safe_open(str(path), "pt", device=str(device)) as stream:
            facts = Facts(**json.loads((stream.metadata() or {})["scene"]))
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - it has no __iter__
        c2w, intrinsics = tensors.pop("context.c2w"), tensors.pop("context.intrinsics")
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(f"{path}: not an encoded scene ({str(error)[:80]}); write it again") from None
    ours = Facts.of(weights)
    if other := difference(facts.model, ours["model"]):
        raise CheckpointError(f"{path}: a scene of another model: {other}; encode the scene again")
    if facts.weights != ours["weights"]:
        raise CheckpointError(f"{path}: encoded by other weights than {weights}; encode the scene again")
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise CheckpointError(f"{path}: '{name}' has values that are not finite; encode the scene again")
    return Encoded(scene_of(tensors), c2w, intrinsics, facts)


def tensors_of(scene: Tensor | PosedTokens | SceneState | GaussianScene | Memory) -> dict[str, Tensor]:
    """Return what an encoded scene consists of, by name."""
    if isinstance(scene, Tensor):
        return {"tokens": scene}
    if isinstance(scene, PosedTokens):
        return scene._asdict()
    if isinstance(scene, Memory):
        pairs = enumerate(zip(scene.keys, scene.values, strict=True))
        return {f"{kind}.{n}": value for n, pair in pairs for kind, value in zip(MEMORY, pair, strict=True)}
    if isinstance(scene, GaussianScene):
        parts = asdict(scene.gaussians) if scene.gaussians else {}
        return {**{f"{SPLATS}{name}": value for name, value in parts.items()}, "depths": scene.depths}
    blocks = enumerate(weights._asdict() for weights in scene.blocks)
    return {f"blocks.{number}.{name}": value for number, block in blocks for name, value in block.items()}


def scene_of(tensors: dict[str, Tensor]) -> Tensor | PosedTokens | SceneState | GaussianScene | Memory:
    """Return the scene that `tensors_of` took apart."""
    if "tokens" in tensors:
        return PosedTokens(**tensors) if len(tensors) > 1 else tensors["tokens"]
    if f"{MEMORY[0]}.0" in tensors:
        layers = range(len(tensors) // len(MEMORY))
        return Memory(*([tensors[f"{kind}.{layer}"] for layer in layers] for kind in MEMORY))
    if "depths" in tensors:
        parts = {name.removeprefix(SPLATS): value for name, value in tensors.items() if name.startswith(SPLATS)}
        return GaussianScene(Gaussians(**parts) if parts else None, tensors["depths"], [])
    numbers, names = range(len(tensors) // len(FastWeights._fields)), FastWeights._fields
    return SceneState([FastWeights(*(tensors[f"blocks.{number}.{name}"] for name in names)) for number in numbers], 1)
