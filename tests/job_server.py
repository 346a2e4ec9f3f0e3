"""A `python` that starts programs of this repository with their libraries already imported.

Importing PyTorch, torchvision and timm takes six seconds of processor time, and the tests run
hundreds of jobs that do little else. Therefore a server imports these libraries once, and forks a
process for every job. This process gets the job's arguments, folder, environment and open files,
and runs the program as `python -m` does.
"""

import atexit
import contextlib
import ctypes
import functools
import importlib
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
# Libraries that take long to import. None of them starts a thread then, which a fork would lose.
LIBRARIES = (
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "pydantic",
    "scipy.optimize",
    "torch",
    "torchvision.models.detection",
    "torchvision.models.segmentation",
    "timm",
)
_READY = b"ready\n"
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


@functools.cache
def python() -> Path:
    """Start a server that runs as long as this process; gives the path of its `python`."""
    server = contextlib.ExitStack()
    atexit.register(server.close)
    return server.enter_context(serving())


def snakemake(python: Path) -> list[str]:
    """The beginning of a command line of Snakemake whose jobs use `python`."""
    code = "import sys, snakemake.cli; sys.executable = sys.argv.pop(1); snakemake.cli.main()"
    return [sys.executable, "-c", code, str(python)]


@contextlib.contextmanager
def serving() -> Iterator[Path]:
    """Run a server; the value is the path of a `python` that uses it."""
    with tempfile.TemporaryDirectory(prefix="jobs-") as folder:
        address = Path(folder, "socket")
        program = Path(folder, "bin", "python")
        program.parent.mkdir()
        client = [sys.executable, "-IS", Path(__file__).with_name("job_client.py")]
        command = shlex.join(map(str, [*client, address, sys.executable]))
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, address],
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # jobs of `Workflow` have one thread
            stdout=subprocess.PIPE,
        )
        try:
            assert server.stdout.readline() == _READY
            yield program
        finally:
            server.kill()
            server.wait()
            server.stdout.close()


def main(address: str) -> None:
    """Serve jobs until this process is killed, or until the process that started it ends."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    for name in LIBRARIES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forked processes leave no zombies
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, _READY)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Run one job in a process of its own, send its exit status, and end this process.

    If the client ends before the job, the job is asked to end.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as stream:
        arguments, folder, environment = json.loads(stream.read(int.from_bytes(length, "big")))
    job = os.fork()
    if job == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        os._exit(_run(arguments))
    ended = os.pidfd_open(job)
    readable, _, _ = select.select([ended, connection], [], [])
    if ended not in readable:
        os.kill(job, signal.SIGTERM)
    _, status = os.waitpid(job, 0)
    with contextlib.suppress(BrokenPipeError):
        status = os.waitstatus_to_exitcode(status)
        connection.sendall(bytes([status if status >= 0 else 128 - status]))
    os._exit(0)


def _run(arguments: list[str]) -> int:
    """Run a module as the main program, and return its exit status."""
    name, *sys.argv[1:] = arguments
    # `python -m` looks for modules in the working directory first, then in PYTHONPATH.
    sys.path[0] = os.getcwd()
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    status = 0
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # waits for threads, as the interpreter does before it exits
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    main(sys.argv[1])
