"""Import of published checkpoints: reference training states under their own key names (specs/uplvsm.md section 12)."""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from novelview.config.checkpoints import require_whole
from novelview.errors import CheckpointError, raise_exhausted
from novelview.files import foreign_code, unpacked_problem

IGNORED = ("loss_computer.", "n_averaged")  # the latter is a counter of torch.optim.swa_utils.AveragedModel
AVERAGED = (
    "ema_state_dict",
    "model_ema",
    "ema_model",
    "params_ema",
    "ema",
    "shadow",
)  # a mean over training, which papers evaluate
NESTED = (*AVERAGED, "model", "state_dict", "params", "module", "network")
DEEPEST = 8
PREFIXES = ("ema_model.module.", "ema_model.", "model_ema.", "ema.", "", "model.", "module.", "net.", "network.")
log = logging.getLogger(__name__)
WRAPPERS = ("module.",)  # of DistributedDataParallel, outermost
WITHIN = re.compile(r"(?<![^.])(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")  # at any depth


def load_published(path: Path | str, model: nn.Module) -> None:
    """Load a published checkpoint (`.pt`, `.pth`, `.safetensors`) into `model`, every weight of it.

    The frozen networks of the loss are ignored. Weights may stand under a prefix (PREFIXES, Lightning's among them); of
    those averaged over training and the last ones the former are taken, which a line says. Raises CheckpointError, one
    line with the key's name, for a damaged file and for missing, unexpected or differently shaped weights."""
    own = model.state_dict()
    state = {key: value for key, value in read_state(path).items() if not key.startswith(IGNORED)}
    rename = getattr(model, "from_published", lambda state: state)
    parts = {
        prefix: {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for prefix in PREFIXES
    }
    fitting = {prefix: len(own.keys() & rename(part).keys()) for prefix, part in parts.items()}
    best = max(fitting, key=fitting.__getitem__) if any(fitting.values()) else ""
    if best:
        others = len(state) - len(parts[best])
        log.warning("%s: the weights under '%s' are taken; %d others are left out", path, best, others)
    state = rename(parts[best])
    # safetensors keeps one name of a shared tensor: the others are filled in.
    found = {own[key].data_ptr(): value for key, value in state.items() if key in own and own[key].numel()}
    missing = [key for key in own if key not in state and own[key].data_ptr() in found]
    state |= {key: found[own[key].data_ptr()] for key in missing}
    match_keys(path, state, own)
    model.load_state_dict(state)


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Read a state dict, bare or inside a training state, without the prefixes of wrappers; runs no code.

    In a training state the weights are under one of the names in NESTED, the first of them that holds tensors."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a downloaded checkpoint")
    require_whole(path)
    pickled = path.suffix != ".safetensors"
    try:
        if pickled and (problem := unpacked_problem(path)):
            raise ValueError(problem)
        loaded = torch.load(path, map_location="cpu", weights_only=True) if pickled else load_file(path)
    except Exception as error:  # both readers fail in as many ways as there are damaged files
        raise_exhausted(error, path)
        if pickled and (code := foreign_code(path)):
            text = "wants to run code when it is opened; only tensors are loaded, no code is run"
            raise CheckpointError(f"{path}: holds {code}: it {text}; save its state dict alone and give that") from None
        reason = next(iter(str(error).splitlines()), "")[:120] or type(error).__name__
        raise CheckpointError(f"{path}: not a checkpoint of weights ({reason}); fetch it again") from None
    state, names = _innermost(loaded)
    if not state:
        raise CheckpointError(f"{path}: holds no weights; expected tensors by name, or 'model' or 'state_dict'")
    unused = [name for name in AVERAGED if isinstance(loaded, Mapping) and name in loaded and name not in names]
    if unused:
        text = "%s: '%s' holds no weights by name; those under '%s' are taken"
        log.warning(text, path, unused[0], ".".join(names) or "the file itself")
    if set(names) & set(AVERAGED):
        log.warning("%s: the averaged weights under '%s' are taken", path, ".".join(names))
    return {_unwrapped(str(key)): value for key, value in state.items()}


def _innermost(loaded: object, names: tuple[str, ...] = ()) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return the tensors that stand under the first of NESTED that has some, however deep, and its names."""
    if not isinstance(loaded, Mapping) or len(names) > DEEPEST:
        return {}, names
    for name in NESTED:
        found = _innermost(loaded.get(name), (*names, name))
        if found[0]:
            return found
    beside = (int, float, str, type(None))  # such as the number of steps
    known = all(isinstance(value, (Tensor, *beside)) for value in loaded.values())
    return {key: value for key, value in loaded.items() if isinstance(value, Tensor)} if known else {}, names


def _unwrapped(key: str) -> str:
    key = WITHIN.sub("", key)
    while key.startswith(WRAPPERS):
        key = key.partition(".")[2]
    return key


def match_keys(
    path: Path | str, state: Mapping[str, Tensor], own: Mapping[str, Tensor], optional: Collection[str] = ()
) -> None:
    """Raise CheckpointError naming the first weight missing, unexpected, of another shape or kind, or not finite."""
    for key in sorted(own):
        if key not in state and key not in optional:
            raise CheckpointError(f"{path}: lacks the weight '{key}'; is it a checkpoint of this model and size?")
    for key in sorted(state):
        if key not in own:
            raise CheckpointError(f"{path}: has the weight '{key}', unknown to this model; choose the model it is of")
        if state[key].shape != own[key].shape:
            there, here = tuple(state[key].shape), tuple(own[key].shape)
            raise CheckpointError(f"{path}: weight '{key}' is {there}, this model's is {here}; choose the right size")
        if state[key].is_floating_point() != own[key].is_floating_point():
            raise CheckpointError(f"{path}: weight '{key}' is of {state[key].dtype}; is it a quantised checkpoint?")
        if not state[key].isfinite().all():
            raise CheckpointError(f"{path}: weight '{key}' has values that are not finite; fetch or train it again")
