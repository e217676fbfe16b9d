"""What lies on disk: a shard for each rank, and a manifest that gets its name once all of them are there.

    folder/step-00000100/rank-00003-1f0c…9a.pt    what rank 3 holds, as torch.save writes it
    folder/step-00000100/manifest.json            the size and the digest of every rank's shard, and its own digest

A checkpoint is there from the moment its manifest is, and its shards are on disk by then. A shard bears its digest in
its name, so none is ever written over another: saving a step again leaves the first one whole until the second is.
Bytes are compared with their digest before anything else looks at them. A digest is no signature: who can write into
the folder can make a sound checkpoint of any numbers, though none that runs code.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import torch

from ..errors import CheckpointError, UsageError
from .manifest import FORMAT, Manifest, Shard, digest_of, hasher, parse

KEPT = 2

MANIFEST = "manifest.json"
PASSED_OVER = "manifest.refused.json"

_STEP = re.compile(r"step-([0-9]{8,})")
_ZIP = b"PK\x03\x04"  # how torch.save begins; older formats are left to torch alone


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return folder / f"step-{step:08d}"


def steps(folder: Path) -> Iterator[tuple[int, Path]]:
    """Every step that has a place, whole or not, the newest first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise UsageError(f"{folder} is a file, and checkpoints lie in a folder") from error
    found = [(int(match[1]), folder / name) for name in names if (match := _STEP.fullmatch(name))]
    yield from sorted(((step, path) for step, path in found if path.is_dir()), reverse=True)


def manifests(folder: Path) -> tuple[list[Manifest], dict[int, str]]:
    """The checkpoints of a folder, the newest first, and step -> a sentence for each manifest that cannot be read."""
    found: list[Manifest] = []
    damaged: dict[int, str] = {}
    for step, path in steps(folder):
        try:
            manifest = parse((path / MANIFEST).read_bytes())
            if manifest.step != step:
                raise CheckpointError(f"is that of step {manifest.step}")
            found.append(manifest)
        except FileNotFoundError:  # never finished
            continue
        except OSError as error:
            damaged[step] = f"{path / MANIFEST} cannot be read ({error.strerror})"
        except CheckpointError as error:
            damaged[step] = f"{path / MANIFEST} {error}"
    return found, damaged


def write(folder: Path, rank: int, state: dict[str, Any]) -> Shard:
    """Write one rank's shard into `folder`; on disk when this returns."""
    temporary = folder / f".rank-{rank:05d}.tmp"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            digesting = _Digesting(file)
            try:
                torch.save(state, cast(IO[bytes], digesting))
            except RuntimeError as error:  # where writing failed, that is all that torch says
                raise digesting.error or error from None
            file.flush()
            os.fsync(file.fileno())
        shard = digesting.shard()
        os.replace(temporary, folder / shard.name(rank))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(folder)
    sync(folder.parent)
    return shard


def read(path: Path, rank: int, shard: Shard) -> bytes:
    """The bytes of one rank's shard.

    Raises:
        CheckpointError: it is not there, or not what was written.
    """
    path /= shard.name(rank)
    try:
        if path.stat().st_size != shard.bytes:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes, where {shard.bytes} were written")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    if digest_of(data) != shard.digest:
        raise CheckpointError(f"{path} is altered: its digest is not the one in the manifest")
    return data


def unpack(folder: Path, rank: int, manifest: Manifest) -> dict[str, Any]:
    """One rank's shard, its bytes compared first, its tensors on the host. Runs nothing that is in the file.

    Raises:
        CheckpointError: it is not there, not what was written, or no shard.
    """
    path = place(folder, manifest.step)
    called = path / manifest.shards[rank].name(rank)
    data = read(path, rank, manifest.shards[rank])
    try:
        if not data.startswith(_ZIP):
            raise ValueError("no archive")
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of bytes that it did not write
        raise CheckpointError(f"{called} is no shard ({type(error).__name__}: {_first_line(error)})") from error
    head = {"format": FORMAT, "step": manifest.step, "rank": rank, "size": manifest.size}
    if not isinstance(state, dict) or {key: state.get(key) for key in head} != head:
        raise CheckpointError(f"{called} is not the shard of rank {rank} of {manifest.size} at step {manifest.step}")
    return state


def commit(folder: Path, rank: int, manifest: Manifest) -> None:
    """Let the checkpoint stand; whoever else writes it, on this host or another, writes the same."""
    path = place(folder, manifest.step)
    write_bytes(path / MANIFEST, manifest.text(), path / f".manifest-{rank:05d}.tmp")


def write_bytes(path: Path, data: bytes, temporary: Path) -> None:
    """The whole file or none of it, on disk when this returns."""
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(folder: Path) -> None:
    """Names in `folder` are on disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what saves that never ended have left. No rank saves meanwhile."""
    found, damaged = manifests(folder)
    whole = {manifest.step: manifest for manifest in found}
    for step, path in steps(folder):
        if step in whole:
            known = {shard.name(rank) for rank, shard in enumerate(whole[step].shards)} | {MANIFEST}
            with contextlib.suppress(FileNotFoundError):  # another host has removed it
                for name in set(os.listdir(path)) - known:
                    (path / name).unlink(missing_ok=True)
        elif step not in damaged:
            _remove(path)


def prune(folder: Path) -> None:
    """Remove all that is older than the newest checkpoints, of which `KEPT` stay."""
    found, _ = manifests(folder)
    if len(found) < KEPT:
        return
    oldest = found[KEPT - 1].step
    for step, path in steps(folder):
        if step < oldest:
            _remove(path)


def pass_over(folder: Path, manifest: Manifest) -> None:
    """What is newer than `manifest` could not be read: it is no checkpoint any longer, and the next save removes it."""
    for step, path in steps(folder):
        if step > manifest.step:
            with contextlib.suppress(FileNotFoundError):  # never finished, or another host has done it
                os.replace(path / MANIFEST, path / PASSED_OVER)
                sync(path)


def _remove(path: Path) -> None:
    # The manifest first: what is half removed is no checkpoint. Where hosts share a folder, each of them does this.
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:200]


class _Digesting:
    """A file that knows what was written into it, so that its bytes are gone through once."""

    def __init__(self, file: IO[bytes]) -> None:
        self.error: OSError | None = None
        self._file = file
        self._count = 0
        self._hash = hasher()

    def write(self, data: bytes) -> int:
        """As the file does it."""
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        self._count += len(data)
        return len(data)

    def flush(self) -> None:
        """As the file does it."""
        self._file.flush()

    def shard(self) -> Shard:
        """Of all that was written."""
        return Shard(self._count, self._hash.hexdigest())
