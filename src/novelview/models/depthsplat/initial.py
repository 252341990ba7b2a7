"""Weights training starts from: Depth Anything V2 for the vision transformer, UniMatch for CNN and transformer."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from novelview.config.models import DepthSplatConfig
from novelview.downloads.registry import read_registry
from novelview.errors import CheckpointError
from novelview.models.published import read_state

log = logging.getLogger(__name__)

Record = dict[str, dict[str, Any]]


def load_initial(predictor: nn.Module, cfg: DepthSplatConfig) -> Record:
    """Load what `dino.weights` and `match_weights` name, a file or an entry of conf/registry.yaml, as far as it fits.

    Returns, by file, how many weights were loaded, which of the part they are for were missing there, and how many of
    the file were left out. Raises CheckpointError, one line, for a file that is missing or whose sizes do not fit.
    """
    wanted = (
        ("model.dino.weights", cfg.dino.weights, ("pretrained.",)),
        ("model.match_weights", cfg.match_weights, ("backbone.", "transformer.")),
    )
    record: Record = {}
    for key, name, parts in wanted:
        if name is not None:
            path = _found(key, name)
            record[path.name] = _load(path, predictor, parts)
            log.info("%s: %s", path, _told(record[path.name]))
    return record


def _found(key: str, name: str) -> Path:
    registry = read_registry()
    path = Path(registry[name].path if name in registry else name).expanduser()
    if path.is_file():
        return path
    how = f"python -m novelview.stages.fetch {name}" if name in registry else "correct the path"
    raise CheckpointError(f"{key}={name}: {path} is no file; {how}, or set {key}=null to start without")


def _load(path: Path, predictor: nn.Module, parts: tuple[str, ...]) -> dict[str, Any]:
    state = read_state(path)
    own = {key: value for key, value in predictor.state_dict().items() if key.startswith(parts)}
    fitting = {key: value for key, value in state.items() if key in own}
    if not fitting:
        raise CheckpointError(f"{path}: has no weight of {' or '.join(parts)}*; is it the file that was asked for?")
    _check_shapes(path, fitting, own)
    predictor.load_state_dict(fitting, strict=False)
    missing = sorted(set(own) - set(fitting))
    return {"loaded": len(fitting), "missing": missing, "left_out": len(state) - len(fitting)}


def _check_shapes(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for key, value in state.items():
        if value.shape != own[key].shape:
            there, here = tuple(value.shape), tuple(own[key].shape)
            raise CheckpointError(f"{path}: weight '{key}' is {there}, this model's is {here}; choose the right size")


def _told(record: Mapping[str, Any]) -> str:
    return f"{record['loaded']} weights loaded, {record['left_out']} left out, {len(record['missing'])} not in the file"
