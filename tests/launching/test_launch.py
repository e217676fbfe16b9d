"""An unchanged script on every rank: its surroundings, its exit code, and the end of the other ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import NoReturn

import pytest
import torch
from spawn import ROOT, Outcome, run_mpirun

import gossip.launch
from gossip.launching.launchers import Launcher, detect

ALONE = Launcher("none")

SEES = """
    import json, os, sys
    print(json.dumps({
        "argv": sys.argv, "folder": sys.path[0], "name": __name__, "file": __file__, "spec": __spec__ is None,
        "main": sys.modules["__main__"].__dict__ is globals(), "threads": os.environ.get("OMP_NUM_THREADS"),
    }))
"""


def script(folder: Path, text: str, name: str = "script.py") -> str:
    (folder / name).write_text(dedent(text))
    return str(folder / name)


def launch(size: int, *arguments: str, timeout: float = 60) -> Outcome:
    return run_mpirun(size, ["-m", "gossip.launch", *arguments], timeout)


class Ended(BaseException):
    """Raised in place of the end of this process, with an exit code."""


def ends(monkeypatch: pytest.MonkeyPatch, path: str, *arguments: str, module: bool = False) -> object:
    """The exit code with which `run` ends the job; None if it returns."""

    def abort(code: int) -> NoReturn:
        raise Ended(code)

    monkeypatch.setattr(gossip.launch, "abort", abort)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", ["first", *sys.path])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    try:
        gossip.launch.run(path, list(arguments), module=module)
    except Ended as ended:
        return ended.args[0]
    return None


# The surroundings of the script


def test_the_script_sees_what_python_shows_it_on_every_rank(tmp_path: Path) -> None:
    path, arguments = script(tmp_path, SEES), ["a", "--", "--label", "--threads", "7", "-m", "-h", "b c", ""]
    outcome = launch(2, "--label", "--threads", "3", path, *arguments)
    assert outcome.code == 0, outcome.output
    plain = subprocess.run(
        [sys.executable, path, *arguments], capture_output=True, text=True, timeout=240, check=True, cwd=ROOT
    )
    expected = {**json.loads(plain.stdout), "threads": "3"}
    lines = dict(line.split(" ", 1) for line in outcome.output.splitlines())
    assert {rank: json.loads(line) for rank, line in lines.items()} == {"[0]": expected, "[1]": expected}


@pytest.mark.parametrize("given", ["script.py", "./script.py", "sub/../script.py", "link.py"])
def test_path_and_names_are_as_under_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], given: str
) -> None:
    (tmp_path / "sub").mkdir()
    script(tmp_path, SEES)
    script(tmp_path / "sub", SEES)
    (tmp_path / "link.py").symlink_to(tmp_path / "sub" / "script.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    subprocess.run([sys.executable, given, "--x"], timeout=240, check=True)
    assert ends(monkeypatch, given, "--x") is None
    plain, launched = map(json.loads, capfd.readouterr().out.splitlines())
    assert launched == plain


def test_a_module_and_a_folder_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script(tmp_path, "import sys; print(__name__, __package__, sys.argv)", "__main__.py")
    assert ends(monkeypatch, str(tmp_path), "x") is None
    monkeypatch.syspath_prepend(str(tmp_path.parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert ends(monkeypatch, tmp_path.name, "y", module=True) is None
    assert capfd.readouterr().out.splitlines() == [
        f"__main__  ['{tmp_path}', 'x']",
        f"__main__ {tmp_path.name} ['{tmp_path / '__main__.py'}', 'y']",
    ]


def test_future_statements_of_launch_are_not_the_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = script(tmp_path, "def f(x: int): ...\nassert f.__annotations__ == {'x': int}")
    assert ends(monkeypatch, path) is None


# How it ends


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("pass", None, ""),
        ("raise SystemExit", None, ""),
        ("raise SystemExit(0)", None, ""),
        ("raise SystemExit(False)", None, ""),
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit(256)", 1, ""),
        ("raise SystemExit(-1)", 255, ""),
        ("raise SystemExit('no data')", 1, "no data\n"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_exit_codes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    code: int | None,
    said: str,
) -> None:
    assert ends(monkeypatch, script(tmp_path, text)) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("def f():\n    raise ValueError('rank 1 is lost')\nf()", "ValueError: rank 1 is lost"),
        ("import does_not_exist", "ModuleNotFoundError: No module named 'does_not_exist'"),
        ("class Stop(BaseException): pass\nraise Stop('now')", "Stop: now"),
        ("f(", "SyntaxError: '(' was never closed"),
    ],
)
def test_a_traceback_is_that_of_plain_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, last: str
) -> None:
    path = script(tmp_path, text)
    assert ends(monkeypatch, path) == 1
    launched = capsys.readouterr().err
    plain = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=240).stderr
    assert launched == plain
    assert last in launched


def test_a_missing_module_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(monkeypatch, "does_not_exist", module=True) == 1
    assert capsys.readouterr().err == "ImportError: No module named does_not_exist\n"


def test_the_scripts_own_excepthook_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
        import sys
        sys.excepthook = lambda kind, error, trace: print("mine:", error, trace.tb_lineno, file=sys.stderr)
        raise ValueError("x")
    """
    assert ends(monkeypatch, script(tmp_path, text)) == 1
    assert capsys.readouterr().err == "mine: x 4\n"


def test_one_rank_prints_an_error_that_all_raise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if another hook is around ours, as torch.distributed's is; the job lives until the error is printed."""
    text = """
        import gossip, sys
        from gossip.observe import ending
        sys.excepthook = lambda *what: ending.excepthook(*what)
        raise gossip.Disagreement("ranks disagree", speaks=False)
    """
    with pytest.raises(SystemExit) as ended:
        ends(monkeypatch, script(tmp_path, text))
    assert ended.value.code == 1
    assert not capsys.readouterr().err


WAITS = """
    import pathlib, sys, time
    {start}
    if rank == 1:
        pathlib.Path(sys.argv[1]).write_text(str(time.time()))
        {end}
    {wait}
"""
MPI = {
    "start": "from mpi4py import MPI; rank = MPI.COMM_WORLD.rank",
    "wait": "MPI.COMM_WORLD.Barrier()",
}
GOSSIP = {
    "start": "import gossip; world = gossip.init(); rank = world.rank",
    "wait": "world.barrier()",
}
PLAIN = {
    "start": "import os; rank = int(os.environ['OMPI_COMM_WORLD_RANK'])",
    "wait": "time.sleep(600)",
}
RAISES = "raise ValueError('rank 1 is lost')"


@pytest.mark.parametrize(
    ("parts", "end", "code"),
    [
        pytest.param(GOSSIP, RAISES, 1, id="an exception", marks=pytest.mark.slow),
        pytest.param(GOSSIP, "sys.exit(7)", 7, id="an exit code"),
        pytest.param(MPI, RAISES, 1, id="a script of mpi4py", marks=pytest.mark.slow),
        pytest.param(PLAIN, RAISES, 1, id="a script without MPI"),
    ],
)
def test_a_failing_rank_ends_the_job(tmp_path: Path, parts: dict[str, str], end: str, code: int) -> None:
    path = script(tmp_path, WAITS.format(end=end, **parts))
    outcome = launch(2, "--label", path, str(tmp_path / "failed"))
    ended = time.time()
    assert outcome.code == code, outcome.output
    assert ended - float((tmp_path / "failed").read_text()) < 10
    told = 1 if end == RAISES else 0
    assert outcome.output.count("Traceback (most recent call last)") == told, outcome.output
    assert outcome.output.count("[1] ValueError: rank 1 is lost\n") == told, outcome.output
    assert gossip.launch.__file__ not in outcome.output


def test_an_error_of_all_ranks_is_printed_once(tmp_path: Path) -> None:
    text = """
        import gossip
        world = gossip.init()
        raise gossip.Disagreement("the ranks hold different models", speaks=world.rank == 0)
    """
    outcome = launch(2, script(tmp_path, text))
    assert outcome.code == 1, outcome.output
    assert outcome.output.count("Disagreement: the ranks hold different models") == 1, outcome.output


# Its own options


def test_wrong_options_are_refused_by_rank_0_for_all() -> None:
    outcome = launch(2, "--thread", "2", "script.py")
    assert outcome.code == 2, outcome.output
    assert outcome.output.count("usage: python -m gossip.launch") == 1
    assert outcome.output.count("unrecognized arguments: --thread") == 1


@pytest.mark.slow
def test_help_is_printed_once() -> None:
    outcome = launch(2, "--help")
    assert outcome.code == 0, outcome.output
    assert outcome.output.count("usage: python -m gossip.launch") == 1
    assert "mpirun -n 4 python -m gossip.launch train.py" in outcome.output
    assert "exit code" in outcome.output


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "sentence"),
    [
        ([], {}, 2, "the following arguments are required: script"),
        (["--threads", "0", "x.py"], {}, 2, "0 is no number of threads"),
        (["absent.py"], {}, 2, "finds no script absent.py in"),
        (["--resume", "absent", "x.py"], {}, 2, f"finds no folder {ROOT / 'absent'} to resume from"),
        (["absent.py"], {"RANK": "4", "WORLD_SIZE": "4"}, 2, "the ranks of 4 go from 0 to 3"),
    ],
)
def test_wrong_options_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    environ: dict[str, str],
    code: int,
    sentence: str,
) -> None:
    def abort(code: int) -> NoReturn:
        raise SystemExit(code)

    monkeypatch.setattr(gossip.launch, "abort", abort)
    monkeypatch.setattr(gossip.launch, "detect", lambda: detect(environ))
    monkeypatch.setattr(gossip.launch, "set_threads", lambda wanted, launcher: None)
    monkeypatch.setattr(sys, "argv", ["launch.py", *arguments])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        gossip.launch.main()
    assert ended.value.code == code
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "before", "omp", "mkl"),
    [
        pytest.param(None, {}, "2", "2", id="the share of the cores"),
        pytest.param(None, {"OMP_NUM_THREADS": "1"}, "1", None, id="set already"),
        pytest.param(None, {"MKL_NUM_THREADS": "1"}, "2", "1", id="one of them set already"),
        pytest.param(3, {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, "3", "3", id="asked for"),
    ],
)
def test_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, before: dict[str, str], omp: str, mkl: str | None
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # put back what was there, whatever is set below
        monkeypatch.delenv(name)
    for name, text in before.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(gossip.launch.cores, "share", lambda launcher: 2)
    was = torch.get_num_threads()
    try:
        gossip.launch.set_threads(wanted, ALONE)
        assert torch.get_num_threads() == (was if omp == "1" else int(omp))
    finally:
        torch.set_num_threads(was)
    assert (os.environ["OMP_NUM_THREADS"], os.environ.get("MKL_NUM_THREADS")) == (omp, mkl)
