"""Fetch published weights and indices: python -m novelview.stages.fetch NAME... [--folder DIR] [--list]."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from novelview.downloads.fetch import describe, fetch
from novelview.downloads.registry import find, read_registry
from novelview.errors import NovelviewError
from novelview.stages.cli import fail


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 with one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m novelview.stages.fetch", description="Fetch published files.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries of conf/registry.yaml")
    parser.add_argument("--folder", type=Path, default=Path(), help="folder the entries' paths are below (default: .)")
    parser.add_argument("--list", action="store_true", help="print what there is, with licences, and stop")
    arguments = parser.parse_args(argv)
    if not arguments.names and not arguments.list:
        parser.error("name something to fetch, or ask for --list")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        registry = read_registry()
        if arguments.list:
            print("\n".join(line for entry in registry.values() for line in describe(entry)))
            return 0
        for name in arguments.names:
            find(registry, name)
        for name in arguments.names:
            fetch(name, arguments.folder, registry)
    except (NovelviewError, OSError) as error:
        return fail(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
