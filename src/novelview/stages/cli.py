"""What the stages' command lines share: the configuration, one line when the user must act, and a record of both."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import OmegaConf

from novelview.config.checkpoints import model_code
from novelview.config.compose import compose, read_config_file, write_config
from novelview.config.digest import digest_of, resolved, source_digest
from novelview.errors import NovelviewError, missing_extra
from novelview.files import expanded
from novelview.timebox import BOXED, ENDINGS, BoxEnded

USER_ERROR = 2  # exit status of a mistake the user can mend
FILE_FOR_FOLDER = "; a file stands where a folder is needed: move it or choose another name"
ADVICE = {  # by the number of the OSError
    2: "; correct the path",
    13: "; check its permissions",
    17: FILE_FOR_FOLDER,
    20: FILE_FOR_FOLDER,
    21: "; a folder stands where a file is needed: choose another name",
    12: "; close other programs, or lower runtime.workers",
    23: "; close other programs, or lower runtime.workers",
    24: "; raise the limit (`ulimit -n`), or lower runtime.workers",
    28: "; free some disk space and run again",
    30: "; choose a writable folder",
}
log = logging.getLogger("novelview.stages")


def run_stage(stage: str, body: Callable[[Any], int | None], argv: Sequence[str] | None = None) -> int:
    """Compose `stage` from the command line, run `body(config)` and return the process' exit status.

    With `--config FILE` the configuration is the one in the file. It is stored beside the result (`config.yaml`).
    NovelviewError, OSError and a missing optional package become one line on standard error and status 2, BoxEnded one
    line and status 4; anything else is a bug and keeps its traceback."""
    parser = argparse.ArgumentParser(prog=f"python -m novelview.stages.{stage}", description=f"Stage {stage}.")
    parser.add_argument("words", nargs="*", help="Hydra overrides: key=value; docs/config.md lists the keys")
    what = "take the configuration of a file, add io.* and runtime.* alone"
    parser.add_argument("--config", metavar="FILE", help=what)
    parser.add_argument("--show-config", action="store_true", help="print the composed configuration and stop")
    arguments = parser.parse_intermixed_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    status = 1
    try:
        status = _run(stage, body, arguments)
    finally:
        if os.environ.get(ENDINGS):
            with open(os.environ[ENDINGS], "a") as stream:
                stream.write(f"{stage} {status}\n")
    return status


def _run(stage: str, body: Callable[[Any], int | None], arguments: argparse.Namespace) -> int:
    file, words = arguments.config, arguments.words
    try:
        config = compose(stage, words) if file is None else read_config_file(stage, file, words)
        if arguments.show_config:
            print(OmegaConf.to_yaml(OmegaConf.create(resolved(config))), end="")
            return 0
        status = body(config) or 0
        if status == 0 and os.environ.get("RANK", "0") == "0":
            _store(stage, config)
        return status
    except BoxEnded as ended:
        print(f"{stage}: its time box is over: {ended}; run again to go on", file=sys.stderr)
        return BOXED
    except NovelviewError as error:
        return fail(str(error))
    except OSError as error:
        where = error.filename or error.filename2
        place = f"{os.fspath(where)}: " if where is not None and not isinstance(where, int) else ""
        return fail(f"{place}{error.strerror or error}{ADVICE.get(error.errno or 0, '')}")
    except ModuleNotFoundError as error:
        if line := missing_extra(error):
            return fail(line)
        raise


def _store(stage: str, config: Any) -> None:
    """Write the configuration beside the result that `io.out` names; a published folder is what was published alone."""
    out = expanded(config.io["out"])
    if stage == "publish" or not out.parent.is_dir():
        return
    path = out.with_suffix(".yaml")  # of one of many files in a folder: a figure, a table, a clip
    if out.is_dir():
        path = out / "config.yaml"
    elif out.suffix in (".safetensors", ".html"):
        path = out.with_name("config.yaml")
    values = resolved(config)
    write_config(path, stage, values, digest_of(values), code=source_digest(stage, model_code(config)))


def fail(message: str) -> int:
    """Print a user's mistake as one line; return its exit status."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR
