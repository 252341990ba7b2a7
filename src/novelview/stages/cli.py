"""What the stages' command lines share: compose, check the digest, run, and one line when the user must act."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from novelview.config.compose import compose, digest, resolved
from novelview.errors import ConfigError, NovelviewError, missing_extra
from novelview.timebox import BOXED, ENDINGS, BoxEnded

USER_ERROR = 2  # exit status of a mistake the user can mend


def run_stage(stage: str, body: Callable[[Any], int | None], argv: Sequence[str] | None = None) -> int:
    """Compose `stage` from the command line, run `body(config)` and return the process' exit status.

    NovelviewError, OSError and a missing optional package become one line on standard error and status 2, BoxEnded one
    line and status 4; anything else is a bug and keeps its traceback.
    """
    arguments = _parse(stage, argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    status = 1
    try:
        status = _run(stage, body, arguments)
    finally:
        _tell_ending(stage, status)
    return status


def _tell_ending(stage: str, status: int) -> None:
    if os.environ.get(ENDINGS):
        with open(os.environ[ENDINGS], "a") as stream:
            stream.write(f"{stage} {status}\n")


def _run(stage: str, body: Callable[[Any], int | None], arguments: argparse.Namespace) -> int:
    try:
        config = compose(stage, [*arguments.overrides, *shlex.split(os.environ.get("NOVELVIEW_RUNTIME", ""))])
        _expect(digest(config), arguments.expect_digest)
        if arguments.show_config:
            _show(config)
            return 0
        return body(config) or 0
    except BoxEnded as ended:
        print(f"{stage}: its time box is over: {ended}; run again to go on", file=sys.stderr)
        return BOXED
    except NovelviewError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(_os_error(error))
    except ModuleNotFoundError as error:
        line = missing_extra(error)
        if line is None:
            raise
        return _fail(line)


def _parse(stage: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m novelview.stages.{stage}", description=f"Stage {stage}.")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides: key=value; docs/config.md lists the keys")
    parser.add_argument("--expect-digest", help="fail unless the composed configuration has this digest")
    parser.add_argument("--show-config", action="store_true", help="print the composed configuration and stop")
    return parser.parse_intermixed_args(argv)


def _expect(found: str, expected: str | None) -> None:
    if expected and found != expected:
        raise ConfigError(
            f"configuration digest is {found}, the workflow expects {expected}; run through snakemake again"
        )


def _show(config: Any) -> None:
    from omegaconf import OmegaConf

    print(OmegaConf.to_yaml(OmegaConf.create(resolved(config))), end="")


def _os_error(error: OSError) -> str:
    where = error.filename or error.filename2
    place = f"{os.fspath(where)}: " if where is not None and not isinstance(where, int) else ""
    advice = {
        28: "; free some disk space and run again",
        30: "; choose a writable folder",
        13: "; check its permissions",
        17: "; a file stands where a folder is needed: move it or choose another name",
        20: "; a file stands where a folder is needed: move it or choose another name",
        21: "; a folder stands where a file is needed: choose another name",
        2: "; correct the path",
    }
    return f"{place}{error.strerror or error}{advice.get(error.errno or 0, '')}"


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR
