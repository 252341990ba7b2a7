"""Addresses on the Hugging Face hub: hf://[datasets/|models/]owner/repo[/folder or file][@revision]."""

import re
from dataclasses import dataclass

from novelview.errors import ConfigError

PREFIX = "hf://"
TYPES = {"datasets": "dataset", "models": "model"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class HubAddress:
    """A place in a repository: `path` is a file or folder in it ("" is all), `revision` a branch, tag or commit."""

    repo: str
    repo_type: str = "model"
    path: str = ""
    revision: str = "main"

    def __str__(self) -> str:
        kind = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"{PREFIX}{kind}{self.repo}{'/' if self.path else ''}{self.path}@{self.revision}"

    @property
    def page(self) -> str:
        """The repository's page, for people."""
        return f"https://huggingface.co/{'' if self.repo_type == 'model' else self.repo_type + 's/'}{self.repo}"


def is_remote(path: str) -> bool:
    """Tell whether a path names something on the network."""
    return path.startswith((PREFIX, "http://", "https://"))


def parse_hub(text: str, repo_type: str) -> HubAddress:
    """Read an hf:// address; `repo_type` is what one without datasets/ or models/ means. Raises ConfigError."""
    body, _, revision = text.removeprefix(PREFIX).partition("@")
    words = [word for word in body.split("/") if word]
    if words and words[0] in TYPES:
        repo_type, words = TYPES[words[0]], words[1:]
    wrong = len(words) < 2 or not all(NAME.fullmatch(word) for word in words[:2]) or ".." in words
    if not text.startswith(PREFIX) or wrong:
        raise ConfigError(f"{text}: not an address on the hub; write hf://[datasets/]owner/repo[/folder][@revision]")
    return HubAddress("/".join(words[:2]), repo_type, "/".join(words[2:]), revision or "main")
