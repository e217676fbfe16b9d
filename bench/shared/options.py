"""What several commands ask for, and how it is written on the command line."""

from __future__ import annotations

import argparse
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch

import topologies
from gossip import UsageError
from gossip.launching.launchers import Launcher

Number = TypeVar("Number", int, float)

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not re.fullmatch("[0-9]+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    if not re.fullmatch("[0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0."""
    number = _number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return number


def seconds(text: str) -> float:
    """A finite number of at least 0."""
    number = _number(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} seconds are less than none")
    return number


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number


def size(text: str) -> int:
    """A message size in bytes.

    >>> size("1.024MB")
    1024000
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(B|kB|MB|GB)", text.strip())
    if match is None or float(match[1]) * UNITS[match[2]] < 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: write 64kB, 1.024MB or 1GB, at least 4B")
    return round(float(match[1]) * UNITS[match[2]])


def several_seconds(text: str) -> list[float]:
    """Several times, separated by commas, each once."""
    return _once(text, [seconds(part) for part in text.split(",")])


def graphs(text: str) -> list[str]:
    """Several SPECs of topologies, separated by semicolons, for a SPEC may hold commas.

    >>> graphs("exponential,peers=2; ring")
    ['exponential,peers=2', 'ring']
    """
    return [part.strip() for part in text.split(";")]


def _once(text: str, values: list[Number]) -> list[Number]:
    if len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"{text!r} names one of them twice")
    return values


def sizes(text: str) -> list[int]:
    """Several sizes, separated by commas, each once."""
    return _once(text, [size(part) for part in text.split(",")])


def some_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Some of `names`, separated by commas, each once."""
    known = list(names)

    def chosen(text: str) -> list[str]:
        parts = text.split(",")
        for part in parts:
            if part not in known:
                raise argparse.ArgumentTypeError(f"{part!r} is not one of {', '.join(known)}")
        if len(set(parts)) < len(parts):
            raise argparse.ArgumentTypeError(f"{text!r} names one of them twice")
        return parts

    return chosen


def add_world(parser: argparse.ArgumentParser) -> None:
    """How the ranks speak to one another."""
    parser.add_argument(
        "--transport",
        choices=("auto", "mpi", "gloo", "nccl"),
        default="auto",
        help="what carries the messages (default: auto, which is mpi under mpirun and gloo under torchrun on CPUs)",
    )
    parser.add_argument(
        "--timeout",
        type=positive,
        default=120.0,
        metavar="SECONDS",
        help="after which a wait for a peer is an error (default: 120)",
    )


def add_topology(parser: argparse.ArgumentParser) -> None:
    """Who gossips with whom."""
    parser.add_argument(
        "--topology",
        default="exponential",
        metavar="SPEC",
        help="what `python -m topologies` calls SPEC, as in base_graph,peers=2 or my_graphs:swing (default: "
        "exponential)",
    )


def add_json(parser: argparse.ArgumentParser, default: str) -> None:
    """Where the record goes."""
    parser.add_argument("--json", type=Path, default=Path(default), metavar="PATH", help=f"(default: {default})")


def add_files(parser: argparse.ArgumentParser, name: str) -> None:
    """Where the record goes, and what is made of it."""
    parser.add_argument("--json", type=Path, metavar="PATH", help=f"(default: {name}.json in --out)")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for CSV, Markdown and PNG (default: that of --json, or else out)"
    )


def check_files(given: argparse.Namespace, launcher: Launcher) -> None:
    """Settle where the files go that `add_files` asks for, and make room for them."""
    given.out = given.out or (given.json.parent if given.json else Path("out"))
    given.json = given.json or given.out / f"{given.command}.json"
    check_writable(given.json, launcher)
    beside = given.out / given.json.stem
    for ending in (".csv", ".md", ".png"):
        check_writable(beside.with_name(beside.name + ending), launcher)


def check_topology(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse a graph that is none, or not one for so many ranks."""
    check_graph(given.topology, launcher)


def check_spec(given: argparse.Namespace) -> None:
    """Refuse a graph that is none on any number of ranks, before it is asked how many there are."""
    try:
        topologies.loading.check_spec(given.topology)
    except topologies.TopologyError as error:
        raise UsageError(f"--topology {error}") from error


def check_graph(spec: str, launcher: Launcher) -> None:
    """Refuse a SPEC that leads to no graph of so many ranks."""
    try:
        topologies.load(spec, launcher.size)
    except topologies.TopologyError as error:
        raise UsageError(f"--topology {error}") from error


def check_world(given: argparse.Namespace) -> None:
    """Refuse a transport that this machine cannot have."""
    if given.transport == "nccl" and not torch.cuda.is_available():
        raise UsageError("--transport nccl needs CUDA and a GPU for each rank: choose mpi or gloo")


def check_writable(file: Path, launcher: Launcher) -> None:
    """Make the folder of a result now, rather than fail when it is there. Rank 0 writes."""
    if launcher.rank > 0:
        return
    folder = file.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder} for the results: {error.strerror}") from error
    try:
        tempfile.TemporaryFile(dir=folder).close()  # root may write anywhere, and yet not on every file system
    except OSError as error:
        raise UsageError(f"cannot write to the folder {folder}, where the results go: {error.strerror}") from error
    if file.is_dir():
        raise UsageError(f"{file} is a folder, where a result is to be written: name a file in it")
    if file.exists() and not os.access(file, os.W_OK):
        raise UsageError(f"{file} exists and cannot be written to: move it away, or name another file")
