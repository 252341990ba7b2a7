"""A folder to a repository of the Hugging Face hub, and proof that what lies there is what was sent."""

import logging
from pathlib import Path

from novelview.downloads.address import HubAddress
from novelview.downloads.hub import hub, is_offline, list_files, patiently
from novelview.downloads.verify import mismatch
from novelview.errors import ConfigError, DataError

log = logging.getLogger(__name__)


def require_token() -> None:
    """Raise ConfigError unless huggingface_hub finds a token: HF_TOKEN, or what `hf auth login` stored."""
    from huggingface_hub import get_token

    if not get_token():
        raise ConfigError(
            "publishing needs a token: run `hf auth login`, or set HF_TOKEN; it is never a configuration key"
        )
    if is_offline():
        raise ConfigError(
            "publishing needs the network: unset HF_HUB_OFFLINE, or leave repo out to write the folder alone"
        )


def upload(folder: Path, repo: str, private: bool, message: str) -> str:
    """Send the files of `folder` to the model repository `repo`, made where there is none; return the commit.

    Raises ConfigError without a token, DataError, one line, when the hub refuses or holds other bytes afterwards.
    """
    require_token()
    address = HubAddress(repo)
    patiently(address, lambda: hub().create_repo(repo, private=private or None, exist_ok=True), "not published")
    given = {"repo_id": repo, "folder_path": folder, "commit_message": message}
    commit = patiently(address, lambda: hub().upload_folder(**given).oid, "not published")
    _compare(folder, address, commit)
    log.info("published %s at commit %s", address.page, commit)
    return commit


def _compare(folder: Path, address: HubAddress, commit: str) -> None:
    there = {remote.path: remote for remote in list_files(address, commit, ["*"])}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in there:
            raise DataError(f"{address}: {name} did not arrive (commit {commit}); publish again")
        wrong = mismatch(path, there[name].digest, there[name].size)
        if wrong:
            raise DataError(f"{address}: {name} differs there from {path} ({wrong}; commit {commit}); publish again")
