"""A private SLURM on this machine: one node, three partitions, two GPUs that are empty files."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "scancel")
# Debian's daemons are in /usr/sbin, which is not on everybody's path.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
# SLURM is told of more CPUs and memory than the machine has, so that jobs get all they ask for.
CONFIGURATION = """
ClusterName=maskdistill
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
KillWait=60
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=200000 Gres=gpu:2
PartitionName=cpu Nodes={host} Default=YES MaxTime=7-0
PartitionName=gpu Nodes={host} MaxTime=7-0
PartitionName=urgent Nodes={host} MaxTime=7-0 PriorityTier=10
"""


def missing_programs() -> list[str]:
    """The programs of SLURM and munge that are not installed here."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


class Controller:
    """A private munged, slurmctld and slurmd, with their own ports, key and files."""

    def __init__(self, cpus: int = 4) -> None:
        # Pytest's folder has a long path, but a socket's path may have only 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(2)
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                folder=self.folder,
                host=host,
                user=getpass.getuser(),
                controller_port=ports[0],
                node_port=ports[1],
                cpus=cpus,
            )
        )
        for number in range(2):
            (self.folder / f"gpu{number}").touch()
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-1]\n")
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        # Snakemake's plugin removes SLURM_CONF from the environment of srun; this script sets it.
        srun = self.folder / "bin" / "srun"
        srun.parent.mkdir()
        configuration = self.folder / "slurm.conf"
        program = shutil.which("srun", path=PATH)
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {program} "$@"\n')
        srun.chmod(0o755)
        path = os.pathsep.join([str(srun.parent), PATH])
        self.environment = {"SLURM_CONF": str(configuration), "PATH": path}
        self._daemons: list[subprocess.Popen] = []

    def start(self) -> None:
        """Start the daemons; returns when the node is ready for jobs."""
        names = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
        names |= {"log-file": "munged.log", "seed-file": "munge.seed"}
        files = [f"--{option}={self.folder / name}" for option, name in names.items()]
        self._daemon("munged", "--foreground", "--force", "--num-threads=2", *files)
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "-D", "-c")
        self._daemon("slurmd", "-D")
        self._wait(lambda: self.run("sinfo", "-h", "-o", "%T").startswith("idle"), "slurmd")

    def stop(self) -> None:
        """End all jobs and daemons and remove their files."""
        try:
            for partition in ("cpu", "gpu", "urgent"):
                subprocess.run(
                    ["scancel", "--partition", partition],
                    env=os.environ | self.environment,
                    timeout=60,
                )
            self._wait(lambda: self.run("squeue", "-h") == "", "scancel")
        finally:
            for daemon in reversed(self._daemons):
                daemon.terminate()
            for daemon in self._daemons:
                try:
                    daemon.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *command: str) -> str:
        """The output of a client command, or "" if it fails."""
        done = subprocess.run(
            command,
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=60,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def jobs(self) -> list[dict[str, str]]:
        """The fields of `scontrol show job` for every job so far, including finished ones."""
        lines = self.run("scontrol", "show", "job", "--oneliner").splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]

    def logs(self) -> str:
        """The end of the daemons' logs, for the message of a failed test."""
        paths = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in paths)

    def _daemon(self, program: str, *arguments: str) -> None:
        with open(self.folder / f"{program}.out", "w") as output:
            self._daemons.append(
                subprocess.Popen(
                    [program, *arguments],
                    env=os.environ | self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )

    def _wait(self, ready, name: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                outputs = [path.read_text()[-2000:] for path in self.folder.glob("*.out")]
                raise TimeoutError(f"{name} is not ready\n" + "\n".join([self.logs(), *outputs]))
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
