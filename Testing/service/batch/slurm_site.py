"""A real Slurm on this machine: munge, controller and one node, in a temporary folder."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
WAIT_S = 120

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=1
InactiveLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""


def is_installed() -> bool:
    """Whether all programs are there, and this user may start them."""
    return os.geteuid() == 0 and all(map(shutil.which, PROGRAMS))


class Slurm:
    """The daemons; `environment` is what Slurm's commands need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("state", "spool"):
            (folder / name).mkdir()
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            ports = one.getsockname()[1], other.getsockname()[1]
        host = socket.gethostname().split(".")[0]
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(host=host, user="root", folder=folder, ports=ports))
        self.environment = {"SLURM_CONF": str(conf)}
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        munged = [
            "munged", "--foreground", "--force", f"--key-file={key}",
            f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
        ]  # fmt: skip
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._start(*munged)
        self._wait(lambda: (folder / "munge.socket").exists())
        self._start("slurmctld", "-D", "-f", str(conf))
        self._start("slurmd", "-D", "-f", str(conf), "-N", host)
        self._wait(lambda: self.ask("sinfo", "-h", "-o", "%T") == "idle")

    def _start(self, *command: str) -> None:
        with (self.folder / "daemons.log").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | self.environment)
            )

    def _wait(self, reached) -> None:
        end = time.monotonic() + WAIT_S
        while not reached():
            assert time.monotonic() < end, self.logs()
            assert all(one.poll() is None for one in self._daemons), self.logs()
            time.sleep(0.1)

    def ask(self, *command: str) -> str:
        """The output of one of Slurm's commands."""
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | self.environment
        )
        return done.stdout.strip()

    def logs(self) -> str:
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-2000:]}"
            for path in self.folder.glob("*.log")
        )

    def close(self) -> None:
        """Cancel all jobs, and stop the daemons."""
        self.ask("scancel", "--user=root", "--signal=KILL", "--full")
        self.ask("scancel", "--user=root")
        with suppress(AssertionError):
            self._wait(lambda: self.ask("squeue", "-h") == "")
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
