"""The plan of this call: every path, configuration and digest comes from it."""

import functools
import gc
import signal
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path[:0] = [str(ROOT / name) for name in ("src", "kernels", "workflow")]

import exchange
from novelview.config.plan import Plan, one_of, word_list
from guard import (
    count_gpus,
    or_exit,
    refuse_linked_records,
    source_state,
    tell_of_other_code,
    use_checkout,
    warn_of_changed_data,
)

# Planning makes many objects and no garbage: looking for some takes a seventh of its time. `onstart` turns it on again.
gc.disable()

# Rules call `python -m novelview...`: the interpreter that runs Snakemake, the sources and configs of this checkout.
use_checkout(ROOT)
PLAN = or_exit(lambda: Plan(config, write=True))
SHOWCASE = or_exit(lambda: exchange.showcase(PLAN))
CHECKPOINTS = {one.name: one for one in SHOWCASE.checkpoints}
RELEASES = {one.name: one for one in or_exit(lambda: exchange.releases(PLAN))}
RESOURCES = PLAN.resources
count_gpus(workflow, any(one.get("gpu") for one in RESOURCES.values()))
SOURCE = source_state(PLAN) if workflow.is_main_process else ""
MODEL = f"results/{PLAN.scale}/models/{{run}}/{{data}}/{{phase}}-x{{res}}"
if workflow.is_main_process:
    warn_of_changed_data([PLAN.dataset, *SHOWCASE.datasets])
    tell_of_other_code(PLAN)

# A cluster's warning ahead of the time limit reaches every process of a job. Only training acts on it: Snakemake, the
# shell and tee, which inherit this, must live until training has saved its state.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)


@functools.cache
def announce_cost():
    """Say what a study of scale paper costs, once, before anyone spends it."""
    if workflow.is_main_process and PLAN.scale == "paper":
        from novelview.planning.cost import cost  # counts with torch, which other calls of Snakemake need not wait for

        print(f"{cost(PLAN)}\n", file=sys.stderr, flush=True)


def packed_data(wildcards):
    """Return what a training reads. Every plan that trains asks for it, a dry run included, so the cost is told here."""
    announce_cost()
    return f"data/{PLAN.dataset}/packed/manifest.json"


def adopted_run(wildcards):
    """Return the run whose published checkpoint the wildcards name."""
    return next(run for run in PLAN.all if run.adopted and (run.name, run.phase) == (wildcards.run, wildcards.phase))


wildcard_constraints:
    run="[a-z0-9_]+",
    data="[A-Za-z0-9_.-]+",
    phase="[a-z0-9_]+",
    res="[0-9]+(x[0-9]+)?",
