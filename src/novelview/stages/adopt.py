"""Stage `adopt`: a published checkpoint to our weights; `python -m novelview.stages.adopt name=uplvsm_x224`."""

import sys
from collections.abc import Sequence

from novelview.config.stages import AdoptStage
from novelview.downloads.registry import adoption, read_registry
from novelview.errors import NovelviewError
from novelview.files import require_writable
from novelview.stages.cli import fail, run_stage


def adopt(cfg: AdoptStage) -> None:
    """Adopt one checkpoint; see `novelview.models.exchange.adopt`. An output that cannot be written fails at once."""
    require_writable(cfg.io["out"], "io.out")
    from novelview.models.exchange import adopt as run

    run(cfg)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit status. What the registry says of `name=...` comes before the caller's words."""
    words = list(sys.argv[1:] if argv is None else argv)
    names = [word.removeprefix("name=") for word in words if word.startswith("name=")]
    try:
        known = adoption(read_registry(), names[-1]) if names else []
    except NovelviewError as error:
        return fail(str(error))
    return run_stage("adopt", adopt, [*known, *words])


if __name__ == "__main__":
    sys.exit(main())
