"""The files of checkpoints: a shard for each rank, and a manifest that is written once all shards are on disk.

    folder/step-00000100/rank-00003-1f0c…9a.pt    the state of rank 3, as torch.save writes it
    folder/step-00000100/manifest.json            the size and the digest of every rank's shard, and its own digest

A checkpoint exists if its manifest does. The name of a shard contains its digest, so no shard is overwritten: when a
step is saved again, the first checkpoint stays whole until the second one is. Bytes are compared with their digest
before they are used. A digest is no signature: with write access to the folder one can make a sound checkpoint of any
numbers, though none that runs code.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch

from topologies import __version__

from ..errors import CheckpointError, UsageError

FORMAT = 3
KEPT = 2
MANIFEST = "manifest.json"
PASSED_OVER = "manifest.refused.json"

_STEP = re.compile(r"step-([0-9]{8,})")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ZIP = b"PK\x03\x04"  # the first bytes of torch.save; torch's older formats are refused


def digest_of(data: bytes) -> str:
    """The digest of some bytes."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


class Shard(NamedTuple):
    """The file of one rank: its number of bytes, and their digest."""

    bytes: int
    digest: str

    def name(self, rank: int) -> str:
        """The name of the file."""
        return f"rank-{rank:05d}-{self.digest[:16]}.pt"


class Manifest(NamedTuple):
    """A checkpoint: the shards of all ranks, by rank."""

    step: int
    shards: tuple[Shard, ...]

    @property
    def size(self) -> int:
        """The number of ranks that saved it."""
        return len(self.shards)

    @property
    def digest(self) -> str:
        """The digest of the content."""
        return _digest_of_body(self._body())

    def text(self) -> bytes:
        """The bytes of the file. The version that wrote it is for error sentences and not part of the digest."""
        return json.dumps({"version": __version__, **self._body(), "digest": self.digest}, indent=1).encode()

    def _body(self) -> dict[str, Any]:
        return {"format": FORMAT, "step": self.step, "shards": [list(shard) for shard in self.shards]}


def _digest_of_body(body: dict[str, Any]) -> str:
    return digest_of(json.dumps(body, sort_keys=True).encode())


def parse(text: bytes) -> Manifest:
    """The manifest in the bytes of a file."""
    try:
        body = json.loads(text.decode())
        digest, version = body.pop("digest"), body.pop("version", "of another version")
        sound = digest == _digest_of_body(body)
        if sound and body["format"] != FORMAT:
            raise CheckpointError(
                f"was written by gossip {version} in format {body['format']}, and gossip {__version__} reads format "
                f"{FORMAT}: export the model with the version that wrote it, by "
                "python -m gossip.checkpoint FOLDER --export FILE"
            )
        manifest = Manifest(body["step"], tuple(Shard(*shard) for shard in body["shards"]))
        counts = [manifest.step, *(shard.bytes for shard in manifest.shards)]
        possible = len(counts) > 1 and all(type(count) is int and count >= 0 for count in counts)
        # The digests differ if a number has the wrong type.
        sound = sound and manifest.digest == digest and possible
        sound = sound and all(_DIGEST.fullmatch(shard.digest) for shard in manifest.shards)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError("is torn or altered: it does not read as a manifest") from error
    if not sound:
        raise CheckpointError("is torn or altered: its digest is not that of its content")
    return manifest


def place(folder: Path, step: int) -> Path:
    """The folder of the checkpoint of `step`."""
    return folder / f"step-{step:08d}"


def steps(folder: Path) -> Iterator[tuple[int, Path]]:
    """Every step with a folder, whole or not, the newest first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise UsageError(f"{folder} is a file, and checkpoints lie in a folder") from error
    found = [(int(match[1]), folder / name) for name in names if (match := _STEP.fullmatch(name))]
    yield from sorted(((step, path) for step, path in found if path.is_dir()), reverse=True)


def manifests(folder: Path) -> tuple[list[Manifest], dict[int, str]]:
    """The checkpoints of a folder, the newest first; and step -> error for each manifest that cannot be read."""
    found: list[Manifest] = []
    damaged: dict[int, str] = {}
    for step, path in steps(folder):
        try:
            manifest = parse((path / MANIFEST).read_bytes())
            if manifest.step != step:
                raise CheckpointError(f"is that of step {manifest.step}")
            found.append(manifest)
        except FileNotFoundError:  # an unfinished save
            continue
        except OSError as error:
            damaged[step] = f"{path / MANIFEST} cannot be read ({error.strerror})"
        except CheckpointError as error:
            damaged[step] = f"{path / MANIFEST} {error}"
    return found, damaged


def write(folder: Path, rank: int, state: dict[str, Any]) -> Shard:
    """Write one rank's shard into `folder`; on disk when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    with _replacing(folder / f".rank-{rank:05d}.tmp", lambda: folder / digesting.shard().name(rank)) as file:
        digesting = _Digesting(file)
        try:
            torch.save(state, cast(IO[bytes], digesting))
        except RuntimeError as error:  # torch hides the OSError of a failed write
            raise digesting.error or error from None
    _sync(folder.parent)
    return digesting.shard()


def path_of(folder: Path, rank: int, manifest: Manifest) -> Path:
    """The file of one rank's shard."""
    return place(folder, manifest.step) / manifest.shards[rank].name(rank)


def read(folder: Path, rank: int, manifest: Manifest) -> bytes:
    """The bytes of one rank's shard, compared with their digest."""
    path, shard = path_of(folder, rank, manifest), manifest.shards[rank]
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
    """One rank's shard with its tensors on the host. No code in the file is run."""
    path, data = path_of(folder, rank, manifest), read(folder, rank, manifest)
    try:
        if not data.startswith(_ZIP):
            raise ValueError("no archive")
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for foreign bytes
        sentence = next(iter(str(error).splitlines()), "")[:200]
        raise CheckpointError(f"{path} is no shard ({type(error).__name__}: {sentence})") from error
    head = {"format": FORMAT, "step": manifest.step, "rank": rank, "size": manifest.size}
    if not isinstance(state, dict) or {key: state.get(key) for key in head} != head:
        raise CheckpointError(f"{path} is not the shard of rank {rank} of {manifest.size} at step {manifest.step}")
    return state


def commit(folder: Path, rank: int, manifest: Manifest) -> None:
    """Write the manifest. Every host writes the same bytes, also into a shared folder."""
    path = place(folder, manifest.step)
    write_bytes(path / MANIFEST, manifest.text(), path / f".manifest-{rank:05d}.tmp")


def write_bytes(path: Path, data: bytes, temporary: Path) -> None:
    """Write a file, whole or not at all; it is on disk when this returns."""
    with _replacing(temporary, lambda: path) as file:
        file.write(data)


@contextlib.contextmanager
def _replacing(temporary: Path, path: Callable[[], Path]) -> Iterator[IO[bytes]]:
    """A new file, which is renamed to `path()` once it is on disk; after an error it is removed."""
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path().parent)


def _sync(folder: Path) -> None:
    """Put the names in `folder` on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove the files of unfinished saves. No rank may save meanwhile."""
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
    """Remove all but the `KEPT` newest checkpoints."""
    kept = manifests(folder)[0][:KEPT]
    for step, path in steps(folder):
        if len(kept) == KEPT and step < kept[-1].step:
            _remove(path)


def pass_over(folder: Path, manifest: Manifest) -> None:
    """Rename the manifests of newer, unreadable checkpoints, so that the next save removes them."""
    for step, path in steps(folder):
        if step > manifest.step:
            with contextlib.suppress(FileNotFoundError):  # an unfinished save, or another host has renamed it
                os.replace(path / MANIFEST, path / PASSED_OVER)
                _sync(path)


def _remove(path: Path) -> None:
    # The manifest first: the rest is then no checkpoint. Every host does this, also in a shared folder.
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


class _Digesting:
    """A file that digests the bytes written into it, so that they need not be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self.error: OSError | None = None
        self.flush, self._file, self._bytes = file.flush, file, 0
        self._hash = hashlib.blake2b(digest_size=32)

    def write(self, data: bytes) -> int:
        """Write and digest `data`."""
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        self._bytes += len(data)
        return len(data)

    def shard(self) -> Shard:
        """The size and the digest of all bytes written."""
        return Shard(self._bytes, self._hash.hexdigest())
