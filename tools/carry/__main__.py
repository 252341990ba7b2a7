"""The mini scale within a budget: python -m carry [--minutes N] [--state FOLDER] [--set WORDS]."""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carry.call import Options, call
from carry.studies import STUDIES, Mini
from novelview.config.compose import conf_dir
from novelview.errors import ConfigError, NovelviewError
from novelview.stages.cli import USER_ERROR
from novelview.timebox import INTERRUPTED


def main(argv: Sequence[str] | None = None) -> int:
    """Run one call; returns 0 when all is finished, 4 when the budget ended, 1 for a failed stage, 2 for a mistake."""
    given = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if not 0 <= given.minutes < 1e6:
            raise ConfigError(f"--minutes {given.minutes}: must be 0 (no budget) or more")
        mini = Mini(conf_dir().parent, given.set, tuple(given.studies))
        return call(mini, Options(given.minutes, given.state, given.cores, given.gpus))
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except (NovelviewError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m carry", description=f"{__doc__} See docs/mini.md.")
    parser.add_argument("--minutes", type=float, default=0.0, help="budget of this call; 0: until all is finished")
    parser.add_argument("--state", type=Path, help="folder from which this call goes on, and which it leaves")
    parser.add_argument("--set", default="", help="overrides, as for snakemake --config set=")
    parser.add_argument("--cores", default="all", help="cores for snakemake")
    parser.add_argument("--gpus", type=int, default=1, help="trainings at a time, one a GPU; on a CPU too")
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
