"""Start a stage as one process, as one process a GPU of this node, or as one process a GPU of several SLURM nodes.

`python -m novelview.stages.launch --gpus 8 --nodes 2 novelview.stages.train key=value ...` becomes, by exec,

* without several GPUs or nodes: `python -m novelview.stages.train ...`;
* on one node: `torchrun --standalone --nproc-per-node 8 -m novelview.stages.train ...`;
* on several: `srun` starts this command once a node with `--join`, and each starts `torchrun` for its GPUs."""

import argparse
import fcntl
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from novelview.errors import ConfigError
from novelview.stages.cli import fail

Words = list[str]


def words(gpus: int, nodes: int, cpus: int, join: bool, command: Words, environment: Mapping[str, str]) -> Words:
    """Return the program to exec for `command` (module, arguments) on `gpus` GPUs in all, spread over `nodes` nodes.

    cpus: cores of a node; join: this is one of the nodes already. Raises ConfigError for what cannot be started."""
    if nodes < 1 or gpus < 0 or gpus % nodes:
        raise ConfigError(f"gpu={gpus}, nodes={nodes}: give each node the same number of GPUs, gpu=nodes x GPUs a node")
    if nodes > 1 and not join:
        if "SLURM_JOB_ID" not in environment:
            raise ConfigError(f"nodes={nodes}: several nodes need a SLURM job; submit with --profile profiles/slurm")
        place = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus}"]
        place += [f"--gpus-per-node={gpus // nodes}"] if gpus else []
        again = ["-m", "novelview.stages.launch", f"--gpus={gpus}", f"--nodes={nodes}", f"--cpus={cpus}", "--join"]
        # One node that fails ends the others at once instead of leaving them to wait for it.
        return ["srun", *place, "--kill-on-bad-exit=1", sys.executable, *again, *command]
    processes = max(1, gpus // nodes)
    if processes == 1 and not join:
        return [sys.executable, "-m", *command]
    place = _rendezvous(nodes, environment) if join else ["--standalone"]
    return [sys.executable, "-m", "torch.distributed.run", *place, f"--nproc-per-node={processes}", "-m", *command]


def _rendezvous(nodes: int, environment: Mapping[str, str]) -> Words:
    """Return where the nodes meet: fixed ranks, so that a resumed process finds its own random state again."""
    try:
        job, rank = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_NODEID"])
        address = environment.get("MASTER_ADDR") or environment["SLURM_LAUNCH_NODE_IPADDR"]
    except KeyError as error:
        raise ConfigError(f"--join without {error.args[0]}: srun starts this, not you; leave --join away") from None
    port = environment.get("MASTER_PORT") or str(15000 + job % 10000)  # below the ports systems hand out
    return [f"--nnodes={nodes}", f"--node-rank={rank}", f"--master-addr={address}", f"--master-port={port}"]


def visible_gpus(environment: Mapping[str, str], drivers: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES names, else the numbers of the GPUs that the driver lists."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(number) for number in range(len(list(drivers.glob("*"))))]
    return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]


def take(count: int, visible: Sequence[str], folder: Path) -> list[str]:
    """Return `count` of the visible GPUs that no other process started here has; waits, with a line, until so many are
    free. They belong to this process, and to what it becomes by exec, until it ends: their lock files stay open."""
    folder.mkdir(mode=0o700, exist_ok=True)
    held: dict[str, int] = {}
    told = f"waiting for {count} of {len(visible)} GPUs to be free"
    with open(folder / "turn.lock", "a") as turn:  # two calls that hold half each would wait for ever
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(told, file=sys.stderr, flush=True)
            fcntl.flock(turn, fcntl.LOCK_EX)
        while True:
            for name in (name for name in visible if name not in held and len(held) < count):
                descriptor = os.open(folder / f"{name.replace('/', '_')}.lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW)
                with suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.set_inheritable(descriptor, True)
                    held[name] = descriptor
                if name not in held:
                    os.close(descriptor)
            if len(held) == count:
                return [*held]
            if told:
                print(told, file=sys.stderr, flush=True)
            told = ""
            time.sleep(1)


def _own_gpus(count: int, environment: Mapping[str, str]) -> tuple[int, dict[str, str]]:
    """Return how many GPUs a job of this machine works on, and the variables that show it those alone.

    Raises ConfigError where it asks for more than there are. On a cluster SLURM has given a job its GPUs."""
    visible = visible_gpus(environment)
    if not count or "SLURM_JOB_ID" in environment:
        return count, {}
    if not visible:
        print(f"gpu={count}: no GPU is visible here; working on the CPU, in one process", file=sys.stderr, flush=True)
        return 0, {}
    if count > len(visible):
        raise ConfigError(f"gpu={count}: {len(visible)} GPUs are visible here; ask for at most so many")
    own = take(count, visible, Path(tempfile.gettempdir(), f"novelview-gpus-{os.getuid()}"))
    return count, {"CUDA_VISIBLE_DEVICES": ",".join(own)}


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process by the stage; return the exit status of a mistake, told in one line."""
    parser = argparse.ArgumentParser(prog="python -m novelview.stages.launch", description=__doc__)
    parser.add_argument("--gpus", type=int, default=0, help="GPUs in all; 0 or 1 is one process")
    parser.add_argument("--nodes", type=int, default=1, help="SLURM nodes the GPUs are spread over")
    parser.add_argument("--cpus", type=int, default=1, help="cores a node, for srun")
    parser.add_argument("--join", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="module ...", help="what python -m would run")
    given = parser.parse_args(argv)
    if not given.command:
        parser.error("name the module to start, such as novelview.stages.train")
    try:
        gpus, own = (given.gpus, {}) if given.nodes > 1 else _own_gpus(given.gpus, os.environ)
        os.environ.update(own)
        program = words(gpus, given.nodes, given.cpus, given.join, given.command, os.environ)
    except ConfigError as error:
        return fail(str(error))
    # srun and torchrun outlive the warning ahead of the time limit; the training processes listen to it again.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.execvp(program[0], program)


if __name__ == "__main__":
    sys.exit(main())
