"""The project's exceptions: each message says what is wrong, where, and what to do, on one line."""


class NovelviewError(Exception):
    """A mistake or a condition the user can act on; stages print it as one line and exit with status 2."""


class ConfigError(NovelviewError):
    """A configuration key, type or value is wrong."""


class DataError(NovelviewError):
    """A dataset, chunk, frame or index is missing, damaged or not what its name says."""


class CheckpointError(NovelviewError):
    """A weights file or training checkpoint does not fit the model or the run."""


EXTRAS = {"pycolmap": "photos", "wandb": "tracking"}  # optional packages, and the extra that brings each
EXTRAS |= dict.fromkeys(("av", "jinja2", "matplotlib"), "figures") | dict.fromkeys(("dvc", "snakemake"), "workflow")


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return one line about an optional package that is not installed; None when another module is missing."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    return f"this needs {package}, which is not installed: pip install 'novelview[{extra}]'" if extra else None
