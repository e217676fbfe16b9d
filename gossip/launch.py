"""Runs an unchanged script on every rank of a job: `mpirun -n 4 python -m gossip.launch train.py`.

Compared with `mpirun -n 4 python train.py`, each rank uses as many threads as it has cores. On request each line begins
with the rank, and each rank writes a timeline. When one rank fails, its traceback is shown and the whole job ends.
"""

from __future__ import annotations

import argparse
import builtins
import os
import pkgutil
import re
import runpy
import socket
import sys
import threading
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from types import ModuleType, TracebackType
from typing import Any, NoReturn, TextIO, cast

import torch

from .errors import GossipError, UsageError
from .launching import cores
from .launching.launchers import Launcher, detect
from .observe.ending import abort
from .observe.process import say

_EPILOG = """\
examples:
  mpirun -n 4 python -m gossip.launch train.py --epochs 3
  mpirun -n 4 python -m gossip.launch --label -m package.train
  torchrun --nproc-per-node 4 -m gossip.launch --threads 2 train.py
  srun -n 4 python -m gossip.launch train.py
  mpirun -n 4 python -m gossip.launch --trace out/trace train.py && python -m gossip.trace out/trace
  mkdir -p out/run && mpirun -n 4 python -m gossip.launch --resume out/run train.py

The script sees sys.argv, sys.path and __main__ as under plain python, and needs no change. Options for launch stand
before the script; all arguments after it are the script's.

With --resume, gossip.checkpoint.load(None, ...) in the script continues from the newest sound checkpoint in the folder,
and starts from the beginning while there is none; save(None, ...) adds to them. So the same line starts a job and
resumes it, as often as a scheduler likes. The folder has to exist: a wrong path would start the job anew.

When the script raises on one rank, that rank's traceback is printed once and every rank of the job is ended.

exit code: the script's own, for the whole job; 1 when it raises, 2 for wrong options, 130 when interrupted, unless the
launcher has one of its own for that, as mpirun has.
"""

# Seconds for rank 0 to start and print the error, and for its launcher to end the others.
_PATIENCE = 5.0


class _Parser(argparse.ArgumentParser):
    """A parser that prints on rank 0 only, since every rank reads the same options."""

    rank = 0

    def _print_message(self, message: str, file: Any = None) -> None:
        if self.rank == 0:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        """Refuse the options, with exit code 2."""
        if self.rank != 0:
            # A launcher kills all ranks as soon as one fails, perhaps before rank 0 has printed. So rank 0 fails
            # first, and this rank is killed here.
            threading.Event().wait(_PATIENCE)
        super().error(message)


def main() -> None:
    """Read the options, then run the script."""
    parser = _Parser(
        prog="python -m gossip.launch",
        description="Run a Python script unchanged on every rank that mpirun, torchrun or srun has started.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--label", action="store_true", help="start each line that Python prints with [rank]")
    parser.add_argument(
        "--threads",
        type=_threads,
        metavar="N",
        help="threads of each rank for torch; without it OMP_NUM_THREADS, "
        "and where that is unset the cores of the host divided by the ranks on it",
    )
    parser.add_argument(
        "--trace",
        type=_folder,
        metavar="FOLDER",
        help="write there the timeline of each rank, for Perfetto; python -m gossip.trace FOLDER joins them",
    )
    parser.add_argument(
        "--resume",
        type=os.path.abspath,
        metavar="FOLDER",
        help="the script's gossip.checkpoint.load and save use this folder, which has to exist",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="run a module, as python -m does")
    parser.add_argument("script", help="the script's path, or the module's name after -m")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the script's own arguments")
    try:
        launcher = detect()
    except UsageError as error:
        print(f"gossip.launch: {error}", file=sys.stderr)
        sys.exit(2)
    parser.rank = launcher.rank
    options = parser.parse_args()

    set_threads(options.threads, launcher)
    if options.trace:
        os.environ["GOSSIP_TRACE"] = options.trace
    if options.label:
        sys.stdout = cast(TextIO, Labelled(sys.stdout, f"[{launcher.rank}] "))
        sys.stderr = cast(TextIO, Labelled(sys.stderr, f"[{launcher.rank}] "))
    if options.resume:
        if not os.path.isdir(options.resume):
            _refuse_missing(f"folder {options.resume} to resume from", launcher)
        os.environ["GOSSIP_RESUME"] = options.resume
    if not options.module and not os.path.exists(options.script):
        _refuse_missing(f"script {options.script} in {os.getcwd()}", launcher)
    run(options.script, options.arguments, module=options.module)


def _refuse_missing(what: str, launcher: Launcher) -> NoReturn:
    # Each rank prints this, for the path may exist on some hosts only.
    print(
        f"gossip.launch: rank {launcher.rank} on {socket.gethostname()} finds no {what}: is the path right, and is the "
        "folder there on every host?",
        file=sys.stderr,
    )
    abort(2)


def run(script: str, arguments: list[str], *, module: bool = False) -> None:
    """Run a script or a module as `__main__`; returns when it succeeds, and ends the whole job when it fails."""
    sys.argv = [script, *arguments]
    try:
        if module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            _run_path(script)
    except SystemExit as request:
        code = request.code
        if code is not None and not isinstance(code, int):
            say(str(code))
            code = 1
        if code:
            abort(code & 0xFF or 1)  # the system keeps eight bits of it: 256 would pass for success
    except KeyboardInterrupt:
        abort(130)
    except BaseException as error:
        error = error.with_traceback(_of_the_script(error.__traceback__))
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, GossipError) and not error.speaks:
            sys.exit(1)  # another rank prints it and ends the job
        abort(1)


def set_threads(wanted: int | None, launcher: Launcher) -> None:
    """Set the threads of this rank and its children: `wanted`, else OMP_NUM_THREADS, else its share of the cores."""
    # torchrun sets OMP_NUM_THREADS to 1.
    if wanted is None and os.environ.get("OMP_NUM_THREADS"):
        return
    threads = wanted or cores.share(launcher)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if wanted is not None or not os.environ.get("MKL_NUM_THREADS"):
        os.environ["MKL_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of threads: a whole number from 1 up is expected")
    return int(text)


def _folder(text: str) -> str:
    if os.path.exists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is a file, and timelines are written into a folder")
    return os.path.abspath(text)  # the script may go elsewhere


def _run_path(script: str) -> None:
    # For `-m gossip.launch` the working directory stands first on the path; for a script python puts its folder there.
    first = not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))
    if script.endswith(".pyc") or pkgutil.get_importer(script) is not None:
        if first:
            del sys.path[0]  # runpy puts a folder or an archive there itself
        runpy.run_path(script, run_name="__main__")
        return
    if first:
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    # Unlike runpy.run_path, python makes __file__ absolute while sys.argv[0] stays as given, gives __main__ a loader,
    # and keeps __main__ until the exit handlers have run.
    path = os.path.join(os.getcwd(), script)
    loader = SourceFileLoader("__main__", path)
    module = sys.modules["__main__"] = ModuleType("__main__")
    module.__dict__.update(__file__=path, __cached__=None, __loader__=loader, __builtins__=builtins)
    exec(compile(loader.get_data(path), path, "exec", dont_inherit=True), module.__dict__)


def _of_the_script(traceback: TracebackType | None) -> TracebackType | None:
    above = {__file__, runpy.run_path.__code__.co_filename}
    while traceback is not None and traceback.tb_frame.f_code.co_filename in above:
        traceback = traceback.tb_next
    return traceback


class Labelled:
    """Writes a label and a line in one piece to a stream, so that lines of several ranks do not mix on a terminal."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self.stream = stream
        self.label = label
        self._pending = ""
        self._at_start = True
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Buffer text, and write the lines that it completes."""
        with self._lock:
            self._pending += text
            end = max(self._pending.rfind("\n"), self._pending.rfind("\r")) + 1
            ready, self._pending = self._pending[:end], self._pending[end:]
            self._pass(ready)
            if "\n" in ready:
                self.stream.flush()
        return len(text)

    def flush(self) -> None:
        """Write the buffered text, also a line that has not ended."""
        with self._lock:
            ready, self._pending = self._pending, ""
            self._pass(ready)
            self.stream.flush()

    def _pass(self, text: str) -> None:
        # "\r\n" is one end of line. A lone "\r" goes back to the start of the line: a progress bar keeps its label.
        for line in re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text):
            self.stream.write((self.label if self._at_start and line not in ("\r", "\r\n") else "") + line)
            self._at_start = line.endswith(("\n", "\r"))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all of them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:  # encoding, isatty, fileno, buffer, reconfigure …
        return getattr(self.stream, name)


if __name__ == "__main__":
    main()
