"""Options that several commands have, and how their values are written on the command line."""

import argparse
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch

import topologies
from gossip import UsageError
from gossip.launching.launchers import Launcher

from . import digits

T = TypeVar("T", int, float, str)
Parser = argparse.ArgumentParser | argparse._ArgumentGroup
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def _whole(text: str, least: int) -> int:
    if not re.fullmatch("[0-9]+", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def _number(text: str, least: float, fault: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} {fault}")
    return number


def count(text: str) -> int:
    """A whole number, 1 or more."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number, 0 or more."""
    return _whole(text, 0)


def positive(text: str) -> float:
    """A number above 0."""
    return _number(text, math.ulp(0), "is not above 0")  # ulp(0): the least one


def seconds(text: str) -> float:
    """A time, 0 or more."""
    return _number(text, 0, "seconds are less than none")


def size(text: str) -> int:
    """A message size in bytes, written as in "1.024MB"."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(B|kB|MB|GB)", text.strip())
    if match is None or float(match[1]) * UNITS[match[2]] < 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: write 64kB, 1.024MB or 1GB, at least 4B")
    return round(float(match[1]) * UNITS[match[2]])


def listed(kind: Callable[[str], T], between: str = ",") -> Callable[[str], list[T]]:
    """A parser of several values, each once."""

    def parsed(text: str) -> list[T]:
        values = [kind(part.strip()) for part in text.split(between)]
        if len(set(values)) < len(values):
            raise argparse.ArgumentTypeError(f"{text!r} names one of them twice")
        return values

    return parsed


def some_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of some of `names`, separated by commas, each once."""
    known = list(names)

    def one(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(known)}")
        return text

    return listed(one)


def option(
    parser: Parser, name: str, kind: Callable[[str], Any], default: str | None, text: str, metavar: str = "N"
) -> None:
    """Add an option that takes one word; `default` is written as on the command line, and stands in the help."""
    shown = "" if default is None else f" (default: {default})"
    parser.add_argument(name, type=kind, default=default, metavar=metavar, help=text + shown)


def add_some(parser: Parser, name: str, known: Iterable[str], default: str | None, text: str = "") -> None:
    """An option that takes some of the `known` names; without a default, all of them."""
    names = list(known)
    listed = f"{text or 'some'} of {', '.join(names)} (default: {default or 'all'})"
    parser.add_argument(name, type=some_of(names), default=default or ",".join(names), metavar="NAME,...", help=listed)


def add_choice(parser: Parser, name: str, choices: Iterable[str], default: str, text: str) -> None:
    """An option that takes one of the names."""
    parser.add_argument(name, choices=tuple(choices), default=default, help=f"{text} (default: {default})")


def add_world(parser: Parser) -> None:
    """The transport, and the deadline of waits."""
    carries = "what carries the messages; auto is mpi under mpirun, and gloo under torchrun on CPUs"
    add_choice(parser, "--transport", ("auto", "mpi", "gloo", "nccl"), "auto", carries)
    option(parser, "--timeout", positive, "120", "after which a wait for a peer is an error", "SECONDS")


def add_topology(parser: Parser) -> None:
    """The graph."""
    text = "what `python -m topologies` calls SPEC, as in base_graph,peers=2 or my_graphs:swing"
    option(parser, "--topology", str, "exponential", text, "SPEC")


def add_digits(parser: Parser, steps: str) -> None:
    """How the digits are trained on."""
    option(parser, "--steps", count, steps, "updates")
    option(parser, "--batch", count, "16", "images of a rank in an update")
    option(parser, "--lr", positive, "0.05", "learning rate at first", "RATE")


def add_json(parser: Parser, default: str) -> None:
    """The path of the record."""
    option(parser, "--json", Path, default, "where to write the record", "PATH")


def add_files(parser: Parser, name: str) -> None:
    """The path of the record, and the folder of the files beside it."""
    option(parser, "--json", Path, None, f"where to write the record (default: {name}.json in --out)", "PATH")
    folder = "for CSV, Markdown and PNG (default: that of --json, or else out)"
    option(parser, "--out", Path, None, folder, "FOLDER")


def check_files(given: argparse.Namespace, launcher: Launcher) -> None:
    """Settle the paths that `add_files` asks for, and make room for the files."""
    given.out = given.out or (given.json.parent if given.json else Path("out"))
    given.json = given.json or given.out / f"{given.command}.json"
    for file in (given.json, *(beside(given, ending) for ending in ("csv", "md", "png"))):
        check_writable(file, launcher)


def beside(given: argparse.Namespace, ending: str) -> Path:
    """The file of that ending in --out, named as the record is."""
    return Path(given.out) / f"{given.json.stem}.{ending}"


def check_batch(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse a batch of more images than a rank has."""
    shard = digits.TRAINING // launcher.size
    if given.batch > shard:
        more = f"is more than the {shard} images that each of {launcher.size} ranks has"
        raise UsageError(f"--batch {given.batch} {more}")


def check_graph(spec: str, size: int | None = None) -> None:
    """Refuse a SPEC that leads to no graph of `size` ranks; without a size, of any number of ranks."""
    try:
        topologies.loading.check_spec(spec)
        if size is not None:
            topologies.load(spec, size)
    except topologies.TopologyError as error:
        raise UsageError(f"--topology {error}") from error


def check_world(given: argparse.Namespace) -> None:
    """Refuse a transport that this machine cannot have."""
    if given.transport == "nccl" and not torch.cuda.is_available():
        raise UsageError("--transport nccl needs CUDA and a GPU for each rank: choose mpi or gloo")


def check_writable(file: Path, launcher: Launcher) -> None:
    """Make the folder of a result before anything is measured, and refuse a file that rank 0 cannot write."""
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
