"""One file of a Hugging Face repository, through huggingface_hub, which resumes, retries and honours HF_* variables."""

import os
from pathlib import Path

from novelview.downloads.registry import Entry
from novelview.downloads.transfer import mismatch
from novelview.errors import DataError


def download_from_hub(entry: Entry, path: Path) -> None:
    """Fetch `entry` to `path`, verified; raises DataError, one line, when the hub or the network refuses.

    HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and HF_HOME work as in huggingface_hub.
    """
    from huggingface_hub import constants, hf_hub_download  # half a second to import, and most fetches do without

    assert entry.repo and entry.file
    staging = path.parent / ".hub"
    try:
        found = hf_hub_download(entry.repo, entry.file, revision=entry.revision, local_dir=staging)
    except Exception as error:  # its own, the HTTP library's and the operating system's: all mean that it did not come
        reason = " ".join(str(error).split()) or type(error).__name__
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set; unset it where there is a network"
        raise DataError(f"{entry.origin}: not fetched: {reason}") from None
    wrong = mismatch(Path(found), entry.sha256, entry.size)
    if wrong:
        os.unlink(found)
        raise DataError(f"{entry.origin}: what arrived has {wrong}; it was deleted, check conf/registry.yaml")
    os.replace(found, path)
