"""The installed package: metadata, versions, type hints, and a docstring for every public name."""

from __future__ import annotations

import configparser
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from optional import can_import

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("topologies", "gossip", "slowmo")

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
NAME = SETUP["metadata"]["name"]


def requirements(text: str) -> list[str]:
    """The distribution names of a list of requirements."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return [re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in lines]


def test_the_installed_metadata_equals_setup_cfg() -> None:
    metadata = importlib.metadata.metadata(NAME)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra") or ()) == set(SETUP["options.extras_require"])
    needed = [line for line in importlib.metadata.requires(NAME) or () if "extra ==" not in line]
    assert {re.split(r"[^A-Za-z0-9]", line)[0] for line in needed} == {"torch", "numpy", "networkx", "mpi4py"}


TOP_LEVEL = {
    *("gossip", "slowmo", "topologies", "tests", "bench", "docs", "examples"),
    *("setup.cfg", "pyproject.toml", "MANIFEST.in", "Makefile", "mkdocs.yml", ".ci", ".github", ".gitignore"),
    *("README.md", "CHANGELOG.md", "CITATION.cff", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "LICENSE", "SECURITY.md"),
}
LARGEST = 1 << 20
"""Bytes of a file: what a tool has downloaded or built is not to be committed with the rest."""


@pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None,
    reason="only a clone, and git, tell which files belong to the project",
)
def test_no_stray_file_is_committed() -> None:
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = [Path(name) for name in listed.split("\0") if name]
    assert {path.parts[0] for path in tracked} <= TOP_LEVEL
    assert [path for path in tracked if (ROOT / path).is_file() and (ROOT / path).stat().st_size > LARGEST] == []


def test_the_versions_agree() -> None:
    """The installed one is that of the last `make setup`."""
    said = {importlib.import_module(package).__version__ for package in PACKAGES}
    said |= set(re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert said == {importlib.metadata.version(NAME)}


@pytest.mark.parametrize("package", PACKAGES)
def test_dir_shows_public_names_alone(package: str) -> None:
    module = importlib.import_module(package)
    shown = [name for name in dir(module) if not name.startswith("__")]
    assert sorted([*shown, "__version__"]) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in dir(module))


def test_the_python_in_use_is_admitted() -> None:
    assert sys.version_info >= (3, 10)
    classifiers = SETUP["metadata"]["classifiers"]
    assert all(f"Python :: {version}" in classifiers for version in ("3.10", "3.11", "3.12", "3.13"))


def test_every_dependency_has_a_pinned_version_in_ci() -> None:
    options = SETUP["options"]["install_requires"] + "".join(SETUP["options.extras_require"].values())
    pinned = dict(
        re.match(r"([A-Za-z0-9_.-]+)==([^;\s]+)", line).groups()  # type: ignore[union-attr]
        for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    assert set(requirements(options)) <= set(pinned)


def test_the_libraries_are_installed_and_the_benchmarks_run_from_a_clone() -> None:
    assert SETUP["options.packages.find"]["include"].split() == [f"{package}*" for package in PACKAGES]
    assert (ROOT / "bench" / "__main__.py").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_type_hints_ship(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    assert SETUP["options.package_data"]["*"] == "py.typed"


def test_the_licence_is_complete() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "Copyright the gossip runtime authors" in text


def public(package: str) -> Iterator[tuple[str, object]]:
    """The public classes, functions and methods that a package defines."""
    root = importlib.import_module(package)
    for module_info in pkgutil.walk_packages(root.__path__, f"{package}."):
        if module_info.name.endswith("__main__") or not can_import(module_info.name):
            continue
        module = importlib.import_module(module_info.name)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
                continue
            yield f"{module.__name__}.{name}", thing
            if inspect.isclass(thing):
                for method in vars(thing):
                    if not method.startswith("_") and inspect.isroutine(getattr(thing, method)):
                        yield f"{module.__name__}.{name}.{method}", getattr(thing, method)


@pytest.mark.parametrize("package", [*PACKAGES, "bench"])
def test_every_public_name_has_a_docstring(package: str) -> None:
    """Its own docstring or that of the method it overrides."""
    silent = [
        name
        for name, thing in public(package)
        if (inspect.isclass(thing) or inspect.isroutine(thing)) and not inspect.getdoc(thing)
    ]
    assert not silent
