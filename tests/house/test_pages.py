"""The code of the README and of the pages runs as written, and does what they say."""

from __future__ import annotations

import functools
import io
import re
import runpy
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
import spawn

import gossip
import topologies

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "description.md", *sorted((ROOT / "docs").glob("*/*.md"))]


def test_every_block_of_python_runs(tmp_path: Path) -> None:
    """On two ranks, over MPI; deaths are survived there, for a page shows that."""
    outcome = spawn.run_mpirun(2, ["-m", "workers.pages", str(tmp_path)], options=("--with-ft", "ulfm"))
    assert outcome.code == 0, outcome.output
    assert outcome.output.count("all blocks ran") == 2
    assert len(set(re.findall(r"runs (.*)", outcome.output))) >= 20
    printed = re.findall(r"rank (\d) of 2: loss (\S+), (\d+) messages", outcome.output)
    assert sorted((rank, count) for rank, _, count in printed) == [("0", "200"), ("1", "200")], "of the first run"
    assert all(float(loss) < 0.1 for _, loss, _ in printed)


def blocks(language: str) -> list[str]:
    """The code in this language, of all pages; a block that stands on two pages counts once."""
    found = [re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) for page in PAGES]
    return list(dict.fromkeys(block for page in found for block in page))


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """Module, subcommand and options of every command of ours in the pages."""
    for block in blocks("bash"):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            for found in re.finditer(r"-m (gossip[.\w]*|topologies|bench)\b((?: +(?!-- |&&|#|\S*\.py)\S+)*)", line):
                words = found[2].split()
                subcommand = words[0] if found[1] in ("topologies", "bench") and words else ""
                yield found[1], subcommand, [word.partition("=")[0] for word in words if word.startswith("--")]


@functools.cache
def helped(module: str, subcommand: str) -> str:
    said = io.StringIO()
    argv = [module, *filter(None, [subcommand]), "--help"]
    with mock.patch.object(sys, "argv", argv), redirect_stdout(said), pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")
    assert not end.value.code, f"python -m {module} {subcommand} --help"
    return said.getvalue()


def test_the_options_of_commands_exist() -> None:
    found = list(commands())
    assert len(found) > 20
    for module, subcommand, options in found:
        for option in options:
            said = helped(module, subcommand)
            assert re.search(rf"{option}\b", said), f"python -m {module} {subcommand} has no {option}"


def test_batch_scripts_and_manifests_are_those_of_the_examples() -> None:
    files = {path.read_text() for path in (ROOT / "examples").glob("*/*")}
    shown = [*blocks("yaml"), *(block for block in blocks("bash") if "#SBATCH" in block)]
    assert len(shown) == 3
    assert set(shown) <= files


def test_the_custom_graph_works_from_a_script() -> None:
    [code] = [block for block in blocks("python") if "def swing" in block]
    assert len([line for line in code.splitlines() if line.strip()]) <= 6
    names: dict[str, object] = {}
    exec(code, names)
    graph = names["swing"](6)  # type: ignore[operator]
    assert isinstance(graph, topologies.Topology)
    assert (graph.size, graph.period) == (6, 2)

    def rank(world: gossip.World) -> float:
        import torch

        parameter = torch.nn.Parameter(torch.zeros(3))
        optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), gossip.PushSum(world, graph))
        for _ in range(20):
            parameter.grad = torch.full((3,), float(world.rank))
            optimizer.step()
        optimizer.zero_grad()
        for _ in range(80):
            optimizer.step()
        return float(parameter.detach()[0])

    from gossip import testing

    assert testing.run(6, rank) == pytest.approx([-0.1 * 20 * 2.5] * 6, abs=1e-4)


def test_the_loop_over_uneven_shards_ends_on_every_rank() -> None:
    import torch

    from gossip import testing

    [code] = [block for block in blocks("python") if "max(world.all_gather" in block]

    def rank(world: gossip.World) -> tuple[int, float]:
        model = torch.nn.Linear(2, 1)
        batches = [torch.ones(2)] * (9 + world.rank)
        averager = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
        optimizer = gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), averager)
        exec(code, {"world": world, "batches": batches, "optimizer": optimizer, "loss": lambda x: model(x).sum()})
        optimizer.settle()
        return optimizer.steps, optimizer.weight

    assert testing.run(2, rank) == [(10, 1.0), (10, 1.0)]


def test_mixed_precision_learns_over_ranks() -> None:
    """Under torch.autocast, and in bfloat16 with master weights; both loops are the same."""
    import torch

    from gossip import testing

    [masters] = [block for block in blocks("python") if "master_weights=True" in block]
    [loop] = [block for block in blocks("python") if "torch.autocast" in block]
    bare = loop.replace("    with torch.autocast(world.device.type, torch.bfloat16):\n    ", "")
    assert "autocast" not in bare
    base = "model = Net()\nsgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)\n"
    osgp = "optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, graph, overlap=1))\n"

    def run(world: gossip.World, code: str, dtype: torch.dtype) -> list[float]:
        generator, losses = torch.Generator().manual_seed(world.rank), []
        batches = [torch.randn(16, 4, generator=generator) for _ in range(30)]

        class Net(torch.nn.Linear):
            def __init__(self) -> None:
                super().__init__(4, 2)
                torch.nn.init.zeros_(self.weight)
                torch.nn.init.zeros_(self.bias)

        def loss_of(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            assert outputs.dtype == torch.bfloat16
            loss = torch.nn.functional.cross_entropy(outputs, labels)
            losses.append(loss.item())
            return loss

        names: dict[str, object] = {
            "world": world,
            "graph": topologies.exponential(world.size),
            "my_shard_of_the_data": [(batch.to(dtype), (batch[:, 0] > 0).long()) for batch in batches],
        }
        exec(code, names | {"torch": torch, "gossip": gossip, "Net": Net, "loss_of": loss_of})
        return losses

    for code, dtype in [(base + osgp + loop, torch.float32), (masters + bare, torch.bfloat16)]:
        for losses in testing.run(2, lambda world, c=code, d=dtype: run(world, c, d)):  # type: ignore[misc]
            assert losses[-1] < 0.5 * losses[0]
