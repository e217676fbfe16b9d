"""`python -m gossip.checkpoint FOLDER` checks the checkpoints of a folder; `--export` writes the consensus model."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import torch

from ..errors import GossipError
from . import files
from .loading import consensus

_EPILOG = """\
examples:
  python -m gossip.checkpoint out/run                         every checkpoint, and whether each of its shards is sound
  python -m gossip.checkpoint out/run --export model.pt       the weighted mean of all ranks, messages in flight
                                                              included, as an ordinary state_dict
  python -m gossip.checkpoint out/run --export critic.pt --model critic       another module that was saved beside it

  model.load_state_dict(torch.load("model.pt", weights_only=True))

If hosts keep their shards on their own disks, copy the folders into one first.

exit code: 0; 2 if the folder holds no sound checkpoint or the model cannot be written.
"""


def main() -> None:
    """Read the options, then check or export."""
    parser = argparse.ArgumentParser(
        prog="python -m gossip.checkpoint",
        description="Check the checkpoints in a folder, or export the newest as an ordinary model file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="the folder given to gossip.checkpoint.save")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the consensus model there")
    parser.add_argument("--model", default="model", metavar="NAME", help='another saved module, such as "critic"')
    given = parser.parse_args()
    try:
        if given.export is None:
            sys.exit(0 if check(given.folder) else 2)
        export(given.folder, given.export, given.model)
    except (GossipError, OSError) as error:
        print(f"gossip.checkpoint: {error}", file=sys.stderr)
        sys.exit(2)


def check(folder: Path) -> bool:
    """Print a line for each checkpoint; returns whether one is sound."""
    found, damaged = files.manifests(folder)
    for reason in damaged:
        print(reason)
    any_sound = False
    for manifest in found:
        verdict = "sound"
        try:
            for rank in range(manifest.size):
                files.read(folder, rank, manifest)
        except GossipError as error:
            verdict = str(error)
        any_sound |= verdict == "sound"
        total = sum(shard.bytes for shard in manifest.shards)
        print(f"step {manifest.step}: {manifest.size} ranks, {total / 1e6:,.1f} MB, {verdict}")
    if not found and not damaged:
        print(f"{folder} holds no checkpoint")
    return any_sound


def export(folder: Path, out: Path, model: str = "model") -> None:
    """Write the consensus model, whole or not at all."""
    state = consensus(folder, model)
    room = io.BytesIO()
    torch.save(state, room)
    files.write_bytes(out, room.getvalue(), out.with_name(f".{out.name}.tmp"))
    print(f"{out}: {len(state)} tensors of {model!r} in the newest sound checkpoint of {folder}")


if __name__ == "__main__":
    main()
