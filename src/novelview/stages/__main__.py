"""The command `novelview STAGE ...`, short for `python -m novelview.stages.STAGE ...`; alone it lists the stages."""

import ast
import runpy
import sys
from pathlib import Path

from novelview.errors import missing_extra
from novelview.stages.cli import fail

FOLDER = Path(__file__).parent
STAGES = sorted(path.stem for path in FOLDER.glob("[!_]*.py") if path.stem != "cli")


def main() -> int:
    """Run the stage that the command line names; returns the exit status."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in STAGES:
        sys.argv = [f"novelview {name}", *words]
        try:
            runpy.run_module(f"novelview.stages.{name}", run_name="__main__", alter_sys=True)
        except ModuleNotFoundError as error:
            if line := missing_extra(error):
                return fail(line)
            raise
    elif name in ("-h", "--help"):
        print("novelview STAGE [key=value ...]; novelview STAGE --help\n")
        for stage in STAGES:
            about = str(ast.get_docstring(ast.parse((FOLDER / f"{stage}.py").read_text())))
            print(f"  {stage:<11} {about.splitlines()[0]}")
    else:
        return fail(f"there is no stage '{name}'; the stages are {', '.join(STAGES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
