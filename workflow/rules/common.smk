"""The plan of this call: every path, override and digest comes from it."""

import os
import signal
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "src"))

from novelview.config import exchange, teachers
from novelview.config.plan import one_of
from novelview.config.releases import LICENCE, releases, require_releases
from novelview.config.showcase import showcase
from novelview.config.workflow import enter, plan, refuse_linked_records, tell_changes, told

# Rules call `python -m novelview...`: the interpreter that runs Snakemake, the sources and configs of this checkout.
enter(ROOT)
PLAN = plan(config)
SHOWCASE = told(lambda: showcase(PLAN))
RELEASES = {one.name: one for one in told(lambda: releases(PLAN))}
if workflow.is_main_process:
    tell_changes([PLAN.dataset, *SHOWCASE.datasets])
if workflow.is_main_process and PLAN.scale == "paper" and "plan" not in sys.argv:
    from novelview.planning.cost import cost  # counts with torch, which other calls of Snakemake need not wait for

    print(f"{cost(PLAN)}\n", file=sys.stderr, flush=True)

# A cluster's warning ahead of the time limit reaches every process of a job. Only training acts on it: Snakemake, the
# shell and tee, which inherit this, must live until training has saved its state.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)


wildcard_constraints:
    run="[a-z0-9_]+",
    data="[A-Za-z0-9_.-]+",
    res="[0-9]+(x[0-9]+)?",
