"""`list`: the families in groups, their options, and the families of installed packages."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from topologies.catalogue import GROUPS
from topologies.commands.options import SPECS, Commands, add_command
from topologies.commands.output.report import Report, paragraph
from topologies.custom.entry_points import Declared, families, hidden
from topologies.errors import TopologyError

INSTALLED = "from installed packages"
HIDDEN = "from installed packages, hidden by the families of the same name and in reach as package.module:factory"

NAMES = 23
"""The width of the column of names."""


def add(commands: Commands) -> None:
    """The arguments of `list`."""
    add_command(
        commands,
        "list",
        run,
        help="list the families and their options",
        description="List the families of graphs in groups, with their options and defaults, and those that installed "
        "packages declare under the entry point group gossip.topologies.",
        epilog="example\n  python -m topologies list",
    )


def run(given: argparse.Namespace) -> Report:
    """Names, options and summaries."""
    groups = {
        title: [_entry(family, name := family.__name__, name) for family in group] for title, group in GROUPS.items()
    }
    groups[INSTALLED] = [_installed(declared) for declared in families().values()]
    groups[HIDDEN] = [_installed(declared) for declared in hidden().values()]
    groups = {title: entries for title, entries in groups.items() if entries}
    lines: list[str] = []
    for title, entries in groups.items():
        lines += ["", title] if lines else [title]
        for entry in entries:
            lines += paragraph(entry["summary"], f"  {entry['name']:<{NAMES}} ")
            if entry["options"]:
                lines += paragraph(f"options: {_options(entry['options'])}", " " * (NAMES + 3))
            if entry["package"] is not None:
                lines += paragraph(f"from {entry['package']}: {entry['spec']}", " " * (NAMES + 3))
    lines += ["", *SPECS.splitlines(), "", "`python -m topologies --help` lists the commands."]
    return Report(lines, {"groups": groups})


def _entry(family: Callable[..., Any], name: str, spec: str, package: str | None = None) -> dict[str, Any]:
    options = [each for each in inspect.signature(family).parameters.values() if each.name != "size"]
    return {
        "name": name,
        "spec": spec,
        "package": package,
        "summary": (inspect.getdoc(family) or "no description").partition("\n")[0],
        "options": {each.name: None if each.default is each.empty else repr(each.default) for each in options},
    }


def _installed(declared: Declared) -> dict[str, Any]:
    name, spec, package = declared.name, declared.spec, declared.distribution
    try:
        return _entry(declared(), name, spec, package)
    except (TopologyError, TypeError, ValueError) as error:
        summary = f"cannot be loaded: {error}"
        return {"name": name, "spec": spec, "package": package, "summary": summary, "options": {}}


def _options(options: Mapping[str, str | None]) -> str:
    return ", ".join(name if default is None else f"{name}={default}" for name, default in options.items())
