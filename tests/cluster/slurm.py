"""A SLURM cluster on this machine: `python tests/cluster/slurm.py up FOLDER`, later `... down FOLDER`.

The tests bring up their own, or use one that is up already and leave it running.

Two nodes that are both this machine, each with two pretend GPUs; everything listens on the loopback address alone.
Needs the Debian packages slurm-wlm and munge, and root: SLURM drops SLURM_CONF on its way into a job, so the
configuration must be found in /etc/slurm.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SYSTEM = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
INSTALL = "apt-get install --no-install-recommends slurm-wlm munge"
NODES = ("near", "far")
GPUS = ("/dev/zero", "/dev/null")  # any two character devices

CONFIGURATION = """\
ClusterName=novelview
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,sched_min_interval=0
EnforcePartLimits=ALL
ReturnToService=2
MinJobAge=600
KillWait=5
GresTypes=gpu
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Return what keeps this machine from running the cluster, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed: {INSTALL}"
    if os.geteuid() != 0:
        return "the test cluster must be started by root, because SLURM reads /etc/slurm"
    taken = [name for name in FILES if (SYSTEM / name).exists()]
    if taken:
        return f"{SYSTEM / taken[0]} exists: a cluster is configured on this machine"
    return None


def running() -> "Cluster | None":
    """Return the cluster that `slurm.py up` has left running on this machine."""
    link = SYSTEM / FILES[0]
    folder = link.readlink().parent if link.is_symlink() else None
    return Cluster(folder) if folder and (folder / "pids").exists() else None


class Cluster:
    """The daemons in `folder`, from `start()` to `stop()`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.pids = self.folder / "pids"

    def start(self) -> None:
        """Start munge, the controller and two nodes; return when both are idle. Raises RuntimeError with their logs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._configure()
        try:
            self._start_daemons()
        except RuntimeError:
            self.stop()
            raise

    def _start_daemons(self) -> None:
        sock, key = self.folder / "munge.socket", self.folder / "munge.key"
        self._daemon(
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={sock}"),
            *(f"--pid-file={self.folder}/munged.pid", f"--seed-file={self.folder}/munge.seed"),
            f"--log-file={self.folder}/munged.log",
        )
        self._wait(sock.exists)
        self._daemon("slurmctld", "-D", "-i")
        self._wait(lambda: _says("scontrol", "ping").find("UP") >= 0)
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        self._wait(lambda: _says("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(NODES))

    def stop(self) -> None:
        """End the daemons of this folder and take their configuration out of /etc/slurm."""
        pids = [int(line) for line in self.pids.read_text().split()] if self.pids.exists() else []
        for pid in reversed(pids):
            _end(pid)
        self.pids.unlink(missing_ok=True)
        for name in FILES:
            link = SYSTEM / name
            if link.is_symlink() and link.readlink() == self.folder / name:
                link.unlink()

    def _configure(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        (self.folder / "state").mkdir(exist_ok=True)
        control, *ports = _free_ports(1 + len(NODES))
        host, memory = socket.gethostname().partition(".")[0], _memory_mb() * 9 // 10
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={max(2, os.cpu_count() or 1)}"
            f" RealMemory={memory} Gres=gpu:{len(GPUS)}"
            for node, port in zip(NODES, ports, strict=True)
        )
        text = CONFIGURATION.format(host=host, control=control, folder=self.folder, nodes=nodes)
        (self.folder / "slurm.conf").write_text(text)
        devices = [f"NodeName={node} Name=gpu File={file}" for node in NODES for file in GPUS]
        (self.folder / "gres.conf").write_text("\n".join(devices) + "\n")
        SYSTEM.mkdir(exist_ok=True)
        for name in FILES:
            (SYSTEM / name).symlink_to(self.folder / name)

    def _daemon(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.out", "ab") as stream:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
            )
        with open(self.pids, "a") as stream:
            stream.write(f"{process.pid}\n")

    def _wait(self, ready: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                logs = [path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("*.out"))]
                raise RuntimeError("the cluster did not come up:\n" + "\n".join(logs))
            time.sleep(0.1)


def _says(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def _end(pid: int) -> None:
    """Ask the process, and whatever it started, to end; insist after ten seconds."""
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            return
        end = time.monotonic() + patience
        while _alive(pid) and time.monotonic() < end:
            time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        done, _ = os.waitpid(pid, os.WNOHANG)
        return done == 0
    except ChildProcessError:
        return Path(f"/proc/{pid}").exists()


def _memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def main(action: str, folder: str) -> None:
    """Bring the cluster up or down."""
    if action == "up" and (reason := missing()):
        sys.exit(f"error: {reason}")
    {"up": Cluster(Path(folder)).start, "down": Cluster(Path(folder)).stop}[action]()


if __name__ == "__main__":
    main(*sys.argv[1:])
