"""Measurements on a GPU: transports, merging at its memory's bandwidth, gossip hidden behind a real training step.

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
import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import gossip
from gossip import UsageError
from gossip.launching.launchers import Launcher
from gossip.state.codecs import CODECS
from gossip.testing import check_transport

from ..cluster import mpirun
from ..shared import options, record, screen, tables
from . import steps
from .training import TASKS

PARTS = ("merge", "contract", "steps")
SIZES = (25_557_032, 124_439_808)  # parameters of the two networks
LEAST, MOST = 0.85, 1.02  # the bars: of the bandwidth of a copy, for a merge; times the bare step, for OSGP's
MERGING = ("values", "copy", "wire", "messages", "merge", "of the copy", "torch without the kernel")
STEPS = (
    *("network", "wire", "sent a step", "bare", "OSGP", f"ratio (bar: {MOST})", "host blocked"),
    *("waits for the GPU (bar: 0)", "memory", "pinned, in models"),
)
LEGEND = (
    "bare, OSGP: a step of all ranks, which share the GPU where there are fewer. host blocked: in a step, until the "
    "message of the step before is there, while the GPU computes. waits for the GPU: calls of CUDA with which a host "
    "waits for it, in four steps. memory: of the GPU beside the bare step. pinned: page-locked memory of the host."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    options.add_some(parser, "--parts", PARTS, None, "where ranks were started, merge is left out; some")
    add = functools.partial(options.option, parser)
    add("--ranks", options.count, "2", "that share the GPU")
    options.add_some(parser, "--transports", ("mpi", "nccl"), None)
    options.add_some(parser, "--models", TASKS, None)
    wires = [name or "none" for name in CODECS]
    options.add_choice(parser, "--wire", wires, "none", "how values travel in the steps; none is as they are")
    add("--windows", options.count, "5", "of steps, of each kind")
    add("--steps", options.count, "8", "timed in each window")
    add("--limit", options.positive, "600", "after which ranks that were started here are ended", "SECONDS")
    options.add_world(parser)
    options.add_json(parser, "out/gpu.json")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse options that cannot be measured."""
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
        found["ranks"] = [_measure(given, console)]
    else:
        if "merge" in given.parts:
            console.print("merging ...")
            found["merging"] = [steps.bandwidths(elements, torch.device("cuda")) for elements in SIZES]
        for transport in given.transports if set(given.parts) - {"merge"} else ():
            console.print(f"{given.ranks} ranks over {transport} ...")
            found["ranks"].append(_started(given, transport))
    if launcher.rank > 0:
        return
    record.write(given, launcher, given.json, unit="seconds, bytes a second, bytes, models", results=found)
    text = markdown(found, record.facts(launcher))
    given.json.with_suffix(".md").write_text(text)
    console.print(text, f"written to {given.json} and {given.json.with_suffix('.md')}", sep="\n", soft_wrap=True)
    if any(each.get("failed") for each in found["ranks"]):
        raise SystemExit(1)


def _started(given: argparse.Namespace, transport: str) -> dict[str, Any]:
    """The figures of ranks over `transport` that are started here."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ranks.json"
        arguments = ["gpu", "--transport", transport, "--json", str(file)]
        arguments += ["--parts", ",".join(given.parts), "--models", ",".join(given.models), "--wire", given.wire]
        for name in ("windows", "steps", "timeout"):
            arguments += [f"--{name}", str(getattr(given, name))]
        torch.cuda.empty_cache()  # the memory is theirs now
        said = start_ranks(transport, given.ranks, arguments, timeout=given.limit)
        ranks = json.loads(file.read_text())["results"]["ranks"] if file.exists() else []
    return {"transport": transport, "size": given.ranks, **(ranks[0] if ranks else {}), "failed": said}


def start_ranks(transport: str, ranks: int, arguments: list[str], timeout: float) -> str | None:
    """`python -m bench arguments...` on every rank, which share GPUs; the ranks' output, if they did not end well."""
    environment = mpirun.environment()
    if transport == "mpi":
        command = mpirun.command(ranks)
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        command += ["--nproc-per-node", str(ranks)]
        if torch.cuda.device_count() < ranks:  # as ranks of several hosts they speak through sockets
            environment |= {"GOSSIP_SHARED_GPU": "1", "NCCL_IB_DISABLE": "1"}
            environment.setdefault("NCCL_SOCKET_IFNAME", "lo")
    outcome = mpirun.run([*command, "-m", "bench", *arguments], timeout, environment)
    return None if outcome.code == 0 else str(outcome)


def _measure(given: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The figures of the ranks that this process is one of."""
    found: dict[str, Any] = {"steps": []}
    with gossip.init(given.transport, given.timeout) as world:
        places = record.gather(world, [world.hosts[world.rank], world.device.index])
        found |= {"transport": world.transport, "size": world.size, "gpus": len(set(map(tuple, places)))}
        if "contract" in given.parts:
            check_transport(world, device=world.device)
            found["contract"] = "kept"
        for name in given.models if "steps" in given.parts else ():
            console.print(f"training {name} over {world.transport} ...")
            wire = None if given.wire == "none" else given.wire
            ranks = record.gather(world, steps.compare(world, name, wire, given.windows, given.steps))
            found["steps"].append(max(ranks, key=lambda rank: float(rank["ratio"])))
    return found


def markdown(found: dict[str, Any], facts: dict[str, Any]) -> str:
    """Tables, with the bars that each figure is held against."""
    machine, versions = facts["machine"], facts["versions"]
    cores = f"{machine['cores']} cores of {machine['processor']}"
    software = f"torch {versions['torch']}, Python {versions['python']}"
    paragraphs = [f"# {machine['gpu']}", f"`{facts['command']}`, {facts['date']}, {software}, {cores}."]
    if found["merging"]:
        rows = [_merge(size, merge) for size in found["merging"] for merge in size["merges"]]
        paragraphs += [f"## Merging (bar: {LEAST} of a copy)", tables.markdown(MERGING, rows)]
    for ranks in found["ranks"]:
        paragraphs.append(f"## {ranks['size']} ranks over {ranks['transport']}")
        if "gpus" in ranks:
            paragraphs.append(f"On {ranks['gpus']} GPU(s). Contract: {ranks.get('contract', 'not asked')}.")
        if ranks.get("steps"):
            paragraphs.append(tables.markdown(STEPS, [_step(step) for step in ranks["steps"]]))
        if ranks.get("failed"):
            paragraphs += ["Failed:", f"```\n{ranks['failed']}\n```"]
    if any(ranks.get("steps") for ranks in found["ranks"]):
        paragraphs.append(LEGEND)
    return "\n\n".join(paragraphs) + "\n"


def _merge(size: dict[str, Any], merge: dict[str, Any]) -> list[str]:
    copy, rate = (f"{each / 1e9:,.0f} GB/s" for each in (size["copy"], merge["rate"]))
    ratios = (f"{merge['of_copy']:.3f}", f"{merge['torch']:.3f}")
    return [f"{size['elements']:,}", copy, merge["wire"], str(merge["messages"]), rate, *ratios]


def _step(step: dict[str, Any]) -> list[str]:
    bare, osgp, blocked = (f"{screen.ms(step[name])} ms" for name in ("bare", "osgp", "host_blocked"))
    waits = ", ".join(f"{count} {name}" for name, count in step["waits"].items()) or "0"
    memory = (f"{step['memory_in_models']:.2f} models", f"{step['pinned_in_models']:.2f}")
    sent, ratio = screen.size(step["sent"]), f"{step['ratio']:.4f}"
    return [step["model"], step["wire"], sent, bare, osgp, ratio, blocked, waits, *memory]
