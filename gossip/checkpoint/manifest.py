"""The manifest of a checkpoint: the size and the digest of every rank's shard."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from ..errors import CheckpointError

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
        return digest_of(json.dumps(self._body(), sort_keys=True).encode())

    def text(self) -> bytes:
        """The bytes of the file."""
        return json.dumps({**self._body(), "digest": self.digest}, indent=1).encode()

    def _body(self) -> dict[str, Any]:
        return {"format": FORMAT, "step": self.step, "shards": [list(shard) for shard in self.shards]}


def parse(text: bytes) -> Manifest:
    """The manifest in the bytes of a file.

    Raises:
        CheckpointError: it is torn, altered, or of an unknown format.
    """
    try:
        body = json.loads(text.decode())
        digest = body.pop("digest")
        sound = digest == digest_of(json.dumps(body, sort_keys=True).encode())
        if sound and body["format"] != FORMAT:
            raise CheckpointError(
                f"has format {body['format']}, and this version of gossip reads format {FORMAT}: "
                "export the model with the version that wrote it, by python -m gossip.checkpoint FOLDER --export FILE"
            )
        manifest = Manifest(body["step"], tuple(Shard(*shard) for shard in body["shards"]))
        # The digests differ if a number has the wrong type.
        sound = sound and manifest.digest == digest and _possible(manifest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError("is torn or altered: it does not read as a manifest") from error
    if not sound:
        raise CheckpointError("is torn or altered: its digest is not that of its content")
    return manifest


def _possible(manifest: Manifest) -> bool:
    return (
        _counts(manifest.step)
        and bool(manifest.shards)
        and all(
            _counts(shard.bytes) and isinstance(shard.digest, str) and _DIGEST.fullmatch(shard.digest) is not None
            for shard in manifest.shards
        )
    )


def _counts(number: object) -> bool:
    return type(number) is int and number >= 0
