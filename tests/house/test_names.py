"""The three names among a user's own: the error about a hidden package, and `gossip` as the root of the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """The end of a script in `folder`, where only the installation brings our packages."""
    (folder / "train.py").write_text(code)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "train.py"], cwd=folder, env=clean, capture_output=True, text=True, timeout=240
    )


@pytest.mark.parametrize("name", ["topologies/__init__.py", "topologies/mine.py", "topologies.py"])
def test_the_error_names_a_users_own_topologies(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("def ring(n): ...\n")
    ended = run(tmp_path, "import gossip")
    place = tmp_path / name.partition("/")[0]
    assert ended.returncode == 1
    assert f"ImportError: 'topologies' at {place} hides the installed package of that name: rename it" in ended.stderr


def test_a_users_own_slowmo_is_named_where_ours_is_asked_for(tmp_path: Path) -> None:
    """Gossip alone does without."""
    (tmp_path / "slowmo").mkdir()
    (tmp_path / "slowmo" / "__init__.py").touch()
    ended = run(tmp_path, "import gossip\nprint(gossip.PushSum.__name__)\nfrom gossip.slowmo import SlowMo")
    assert (ended.returncode, ended.stdout) == (1, "PushSum\n")
    assert f"ImportError: 'slowmo' at {tmp_path / 'slowmo'} hides the installed package" in ended.stderr


ONE_ROOT = """
import sys, gossip
assert "slowmo" not in sys.modules
from gossip import topologies
import gossip.topologies.families.ring as ring
import topologies as same
assert topologies is same and ring is same.families.ring
assert gossip.slowmo.SlowMo.__module__ == "slowmo.slow_momentum"  # loads it
from gossip.slowmo import SlowMo
from gossip.slowmo.streaming import stream
import gossip.slowmo.family
import importlib, importlib.util, pickle, slowmo, slowmo.streaming.stream
assert gossip.slowmo is slowmo and SlowMo is slowmo.SlowMo and stream is slowmo.streaming.stream
assert slowmo.__spec__.name == slowmo.__name__ == "slowmo"
assert pickle.loads(pickle.dumps(SlowMo)) is slowmo.SlowMo
assert b"gossip" not in pickle.dumps(gossip.topologies.Turn(1.0, {}, {}))
for name, module in list(sys.modules.items()):
    if name.startswith(("gossip.slowmo", "gossip.topologies")):
        assert module is sys.modules[name.partition(".")[2]], name
assert importlib.util.find_spec("gossip.slowmo.nothing") is None
assert not hasattr(gossip, "nothing")
try:
    import gossip.slowmo.nothing
except ModuleNotFoundError:
    print("as said")
"""


def test_gossip_is_a_root_of_the_same_modules(tmp_path: Path) -> None:
    """Slow momentum is loaded by its first use, and no submodule is loaded twice."""
    ended = run(tmp_path, ONE_ROOT)
    assert (ended.returncode, ended.stdout) == (0, "as said\n"), ended.stderr


def test_slow_momentum_may_be_imported_first_by_its_second_name(tmp_path: Path) -> None:
    ended = run(tmp_path, "from gossip.slowmo import SlowMo\nfrom gossip import slowmo\nassert slowmo.SlowMo is SlowMo")
    assert ended.returncode == 0, ended.stderr
