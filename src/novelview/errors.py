"""The project's exceptions: each message says what is wrong, where, and what to do, on one line."""

import errno
import os
import resource

FEW_HANDLES = 256  # open files that a process with workers may reach


class NovelviewError(Exception):
    """A mistake or a condition the user can act on; stages print it as one line and exit with status 2."""


class ConfigError(NovelviewError):
    """A configuration key, type or value is wrong."""


class DataError(NovelviewError):
    """A dataset, chunk, frame or index is missing, damaged or not what its name says."""


class CheckpointError(NovelviewError):
    """A weights file or training checkpoint does not fit the model or the run."""


EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def raise_exhausted(error: BaseException, where: object) -> None:
    """Raise OSError where an error says that the machine ran out of file handles or memory: no file is to blame."""
    number = error.errno if isinstance(error, OSError) else None
    said = next((one for one in EXHAUSTED if os.strerror(one) in str(error)), None)  # of a library that is not Python
    if number in EXHAUSTED or said:
        known = number or said or 0
        raise OSError(known, os.strerror(known), str(where)) from None


def worker_died(stage: str) -> DataError:
    """Return the error of a worker process that ended without a word."""
    handles = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = f"of file handles (`ulimit -n` is {handles}; raise it)" if handles < FEW_HANDLES else "of memory"
    return DataError(f"{stage}: a worker process died, perhaps for want {few}; run again with a lower runtime.workers")


EXTRAS = {"pycolmap": "photos", "wandb": "tracking"}  # optional packages, and the extra that brings each
EXTRAS |= dict.fromkeys(("av", "jinja2", "matplotlib"), "figures") | dict.fromkeys(("dvc", "snakemake"), "workflow")


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return one line about an optional package that is not installed; None when another module is missing."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    return f"this needs {package}, which is not installed: pip install 'novelview[{extra}]'" if extra else None
