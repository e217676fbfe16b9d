"""What a GPU has to show: transports, merging at its memory's bandwidth, gossip hidden behind a real training step.

On one GPU and without a network: `python -m bench gpu`. It measures the merge, and starts --ranks ranks that share the
GPU, over MPI and over NCCL (as if on several hosts, through sockets, for NCCL wants a GPU for each rank of a host).
Where every rank has a GPU, `mpirun -n 2 python -m bench gpu --transport nccl`, or torchrun, on one machine or several,
measures on the ranks that it was started on.

merge      bytes read and written a second, beside a copy by torch of as many values; bar: 0.85 of it
contract   `gossip.testing.check_transport` on tensors in the GPU's memory
steps      OSGP's step beside the bare training step of as many ranks, by turns; bar: within 2 %. Networks: ResNet-50
           (SGD) and GPT-2 small (AdamW), bf16 autocast. "waits" are calls in four steps with which a host waits for its
           GPU, those of the bare step taken off; bar: none. Memory is the peak beside that of the bare step

Writes JSON, and beside it the same as Markdown.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import gossip
from gossip import UsageError
from gossip.launching.launchers import Launcher
from gossip.state.codecs import CODECS
from gossip.testing import check_transport

from ..shared import options, record, screen
from . import processes, report, steps
from .merging import bandwidths
from .training import TASKS

PARTS = ("merge", "contract", "steps")
SIZES = (25_557_032, 124_439_808)
"""Parameters of the two networks."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    add = parser.add_argument
    add(
        "--parts",
        type=options.some_of(PARTS),
        default=list(PARTS),
        metavar="PARTS",
        help=f"some of {', '.join(PARTS)} (default: all; where ranks were started, merge is left out)",
    )
    add("--ranks", type=options.count, default=2, help="that share the GPU (default: 2)")
    add(
        "--transports",
        type=options.some_of(("mpi", "nccl")),
        default=["mpi", "nccl"],
        metavar="NAMES",
        help="over which they speak (default: mpi,nccl)",
    )
    add(
        "--models",
        type=options.some_of(TASKS),
        default=list(TASKS),
        metavar="MODELS",
        help=f"some of {', '.join(TASKS)} (default: all)",
    )
    wires = [name or "none" for name in CODECS]
    add("--wire", choices=wires, default="none", help="how values travel in the steps (default: none, as they are)")
    add("--windows", type=options.count, default=5, help="of steps, of each kind (default: 5)")
    add("--steps", type=options.count, default=8, help="timed in each window (default: 8)")
    add(
        "--limit",
        type=options.positive,
        default=600.0,
        metavar="SECONDS",
        help="after which ranks that were started here are ended (default: 600)",
    )
    options.add_world(parser)
    options.add_json(parser, "out/gpu.json")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse what cannot be measured."""
    if given.ranks < 2:
        raise UsageError(f"--ranks {given.ranks}: a rank alone has nobody to speak to; ask for 2 or more")
    if launcher.size == 1 and given.transport != "auto":
        raise UsageError(
            f"--transport {given.transport} is for ranks that mpirun or torchrun has started: --transports names those "
            "over which ranks are started here"
        )
    if not torch.cuda.is_available():
        raise UsageError(
            "this process sees no GPU: start it where torch.cuda.is_available() is true; what a CPU can show is in "
            "`python -m bench overhead` and `python -m bench overlap`"
        )
    options.check_world(given)
    options.check_writable(given.json, launcher)
    options.check_writable(given.json.with_suffix(".md"), launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Measure, print, write."""
    console = screen.screen(launcher)
    found: dict[str, Any] = {"merging": [], "ranks": []}
    if launcher.size > 1:
        found["ranks"] = [_ranks(given, console)]
    else:
        if "merge" in given.parts:
            console.print("merging ...")
            found["merging"] = [bandwidths(elements, torch.device("cuda")) for elements in SIZES]
        for transport in given.transports:
            if set(given.parts) - {"merge"}:
                console.print(f"{given.ranks} ranks over {transport} ...")
                found["ranks"].append(_started(given, transport))
    if launcher.rank > 0:
        return
    record.write(given, launcher, given.json, unit="seconds, bytes a second, bytes, models", results=found)
    text = report.markdown(found, record.facts(launcher))
    given.json.with_suffix(".md").write_text(text)
    console.print(text, f"written to {given.json} and {given.json.with_suffix('.md')}", sep="\n", soft_wrap=True)
    failed = [each for each in found["ranks"] if each.get("failed")]
    if failed:
        raise SystemExit(1)


def _started(given: argparse.Namespace, transport: str) -> dict[str, Any]:
    """What ranks over `transport` find that are started here."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ranks.json"
        arguments = ["gpu", "--transport", transport, "--json", str(file)]
        arguments += ["--parts", ",".join(given.parts), "--models", ",".join(given.models), "--wire", given.wire]
        arguments += ["--windows", str(given.windows), "--steps", str(given.steps), "--timeout", str(given.timeout)]
        torch.cuda.empty_cache()  # the memory is theirs now
        said = processes.run(transport, given.ranks, arguments, timeout=given.limit)
        ranks = json.loads(file.read_text())["results"]["ranks"] if file.exists() else []
    return {"transport": transport, "size": given.ranks, **(ranks[0] if ranks else {}), "failed": said}


def _ranks(given: argparse.Namespace, console: Any) -> dict[str, Any]:
    """What the ranks that this process is one of find."""
    found: dict[str, Any] = {"steps": []}
    with gossip.init(given.transport, given.timeout) as world:
        found |= {"transport": world.transport, "size": world.size, "gpus": _gpus(world)}
        if "contract" in given.parts:
            check_transport(world, device=world.device)
            found["contract"] = "kept"
        if "steps" in given.parts:
            for name in given.models:
                console.print(f"training {name} over {world.transport} ...")
                wire = None if given.wire == "none" else given.wire
                own = steps.compare(world, name, wire, given.windows, given.steps)
                ranks = record.gather(world, own)
                found["steps"].append(max(ranks, key=lambda rank: float(rank["ratio"])))
    return found


def _gpus(world: gossip.World) -> int:
    """How many GPUs the ranks have between them."""
    return len({tuple(place) for place in record.gather(world, [world.hosts[world.rank], world.device.index])})
