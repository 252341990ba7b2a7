"""Models by name: `load_pretrained("owner/name", revision=...)` brings back what stage `publish` put on the hub."""

from pathlib import Path
from typing import Any

from novelview.downloads.hub import cached_file
from novelview.downloads.registry import HubAddress
from novelview.errors import CheckpointError
from novelview.models.render import ViewModel
from novelview.models.weights import load_weights

WEIGHTS = "model.safetensors"


def load_pretrained(name: str | Path, revision: str | None = None) -> tuple[ViewModel, dict[str, Any]]:
    """Return a model on the CPU, in evaluation mode, and the configuration it was trained with.

    name: a repository owner/name of the Hugging Face hub, a folder with model.safetensors, or a weights file; what is
    on this machine comes first. revision: branch, tag or commit of a repository (default main). HF_ENDPOINT, HF_TOKEN,
    HF_HOME and HF_HUB_OFFLINE are honoured. Raises DataError when the repository cannot be read, CheckpointError for
    weights that are damaged or not of this project, and for a name that is none of the three.
    """
    path = Path(name).expanduser()
    if path.exists():
        if revision is not None:
            raise CheckpointError(f"{path}: lies on this machine and has no revision {revision}; leave revision out")
        return load_weights(path / WEIGHTS if path.is_dir() else path)
    words = str(name).split("/")
    if len(words) != 2 or not all(words):
        raise CheckpointError(f"{name}: neither a file nor a folder here, nor owner/name of the hub; correct it")
    return load_weights(cached_file(HubAddress(str(name), path=WEIGHTS, revision=revision or "main")))
