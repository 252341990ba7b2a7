"""What a study costs, before it is run: python -m novelview.stages.plan study=less3depend scale=paper [set=...]."""

import sys
from collections.abc import Sequence

from novelview.config.plan import Plan
from novelview.errors import ConfigError, NovelviewError
from novelview.planning.cost import cost
from novelview.stages.cli import fail


def main(argv: Sequence[str] | None = None) -> int:
    """Print the cost of what `snakemake --config` with the same words would run; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        print(f"{__doc__}\nThe words are those of snakemake --config; docs/scaling.md explains the output.")
        return 0
    try:
        wrong = [word for word in words if "=" not in word]
        if wrong:
            raise ConfigError(f"'{wrong[0]}' is not key=value; give what you would give to snakemake --config")
        print(cost(Plan(dict(word.split("=", 1) for word in words))))
    except NovelviewError as error:
        return fail(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
