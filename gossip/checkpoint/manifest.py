"""The manifest of a checkpoint: the size and the digest of every rank's shard."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from ..errors import CheckpointError
from ..version import __version__

FORMAT = 3

_DIGEST = re.compile(r"[0-9a-f]{64}")


def hasher(data: bytes = b"") -> hashlib.blake2b:
    """The hash function of all digests."""
    return hashlib.blake2b(data, digest_size=32)


def digest_of(data: bytes) -> str:
    """The digest of some bytes."""
    return hasher(data).hexdigest()


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
        # The digests differ if a number has the wrong type.
        sound = sound and manifest.digest == digest and _is_possible(manifest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError("is torn or altered: it does not read as a manifest") from error
    if not sound:
        raise CheckpointError("is torn or altered: its digest is not that of its content")
    return manifest


def _digest_of_body(body: dict[str, Any]) -> str:
    return digest_of(json.dumps(body, sort_keys=True).encode())


def _is_possible(manifest: Manifest) -> bool:
    counts = [manifest.step, *(shard.bytes for shard in manifest.shards)]
    return (
        bool(manifest.shards)
        and all(type(count) is int and count >= 0 for count in counts)
        and all(_DIGEST.fullmatch(shard.digest) for shard in manifest.shards)
    )
