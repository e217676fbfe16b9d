"""Checkpoints with one file altered, each loaded: `python -m workers.mutated FOLDER COUNT SEED` counts what came of it.

Half of them are signed anew, so that torch and the loader see the altered bytes and not the digests alone. A file that
gets the interpreter to crash, or code to run, ends this process with a code of its own.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

import gossip
from gossip import testing
from gossip.checkpoint import files
from gossip.checkpoint.files import Shard, digest_of, parse
from workers.checkpointed import load, save
from workers.resume import Training, begin

SIZE = 2
WRAP = "slowmo, overlap 1"
RAN = 77


def mutate(draw: random.Random, data: bytes, other: bytes) -> tuple[str, bytes]:
    """A name and `data` after it."""
    at, to = draw.randrange(len(data)), draw.randrange(len(data))
    low, high = min(at, to), max(at, to) + 1
    edits = {
        "a bit": lambda: data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :],
        "a byte": lambda: data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :],
        "some bytes": lambda: bytes(byte if draw.random() > 0.01 else draw.randrange(256) for byte in data),
        "cut": lambda: data[:at],
        "begun late": lambda: data[at:],
        "taken out": lambda: data[:low] + data[high:],
        "twice": lambda: data[:high] + data[low:],
        "zeros": lambda: data[:low] + bytes(high - low) + data[high:],
        "noise": lambda: data[:low] + draw.randbytes(high - low) + data[high:],
        "longer": lambda: data + draw.randbytes(draw.randrange(1, 5000)),
        "another's": lambda: other,
        "another's end": lambda: data[:at] + other[at:],
        "nothing": lambda: b"",
        "a pickle": lambda: b"cos\n_exit\n(I%d\ntR." % RAN,
        "a number": lambda: _other_number(draw, data),
    }
    kind = draw.choice(list(edits))
    return kind, edits[kind]()


def _other_number(draw: random.Random, data: bytes) -> bytes:
    """Digits of a manifest, or in a shard an opcode that names what to call."""
    if data.startswith(b"{"):
        return data.replace(b"%d" % draw.randrange(10), b"%d" % draw.choice([0, 7, -1, 10**30]), 1)
    old, new = draw.choice(
        [
            (b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"),
            (b"torch._utils", b"torch._utilz"),
            (b"collections", b"subprocess_"),
            (b"weight", b"weighs"),
            (b"rounds", b"sounds"),
        ]
    )
    return data.replace(old, new)


def resign(folder: Path, path: Path, data: bytes) -> None:
    """The checkpoint of a manifest that has the altered shard's digest."""
    rank = int(path.name.split("-")[1])
    manifest = parse((path.parent / files.MANIFEST).read_bytes())
    shard = Shard(len(data), digest_of(data))
    shards = tuple(shard if number == rank else old for number, old in enumerate(manifest.shards))
    path.unlink()
    (path.parent / shard.name(rank)).write_bytes(data)
    files.commit(folder, 0, manifest._replace(shards=shards))


class Case(NamedTuple):
    """The alteration of one file, whether its digest was made to fit, and whether no other checkpoint is left."""

    kind: str
    file: str
    signed: bool
    alone: bool


def prepare(root: Path, work: Path, draw: random.Random) -> Case:
    """Two checkpoints, or the second of them alone, with one file of the second altered."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(root, work)
    alone = draw.random() < 0.3
    if alone:
        shutil.rmtree(work / "step-00000001")
    names = sorted((work / "step-00000002").iterdir())
    path, other = draw.choice(names), draw.choice(names)
    kind, data = mutate(draw, path.read_bytes(), other.read_bytes())
    signed = path.suffix == ".pt" and draw.random() < 0.6
    path.write_bytes(data)
    if signed:
        resign(work, path, data)
    return Case(kind, path.name, signed, alone)


def take_up(world: gossip.World, work: Path, training: Training, signed: bool) -> int | None:
    """The step that was loaded, None where all that is there was refused."""
    try:
        saved = load(work, world, training)
    except gossip.CheckpointError:
        return None
    except gossip.UsageError:
        assert signed, "sound bytes only can say that they come from another run"
        return None
    assert saved is not None, "started anew although there are checkpoints"
    return saved.step


def main(given: str, count: str, seed: str) -> None:
    """A sound job of two ranks first; then ranks that load what was made of it, a fifth of the cases on one rank."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    root, work = Path(given) / "sound", Path(given) / "work"
    bits: dict[tuple[int, int, int], list[float]] = {}
    counts: Counter[tuple[str, str]] = Counter()

    def sound(world: gossip.World) -> None:
        training = begin(world, WRAP, "sgd")
        for step in (1, 2):
            training.train(world.rank, range(step))
            save(root, world, step, training)

    def cases(world: gossip.World, number: int) -> None:
        draw, training = random.Random(f"{seed} {world.size}"), begin(world, WRAP, "sgd", seed=1)
        attributes = dict(vars(training.scheduler))
        for step in (1, 2):
            if world.rank == 0:
                shutil.rmtree(work, ignore_errors=True)
                shutil.copytree(root, work)
                shutil.rmtree(work / f"step-{3 - step:08d}")
            world.barrier()
            assert take_up(world, work, training, signed=False) == step
            bits[world.size, step, world.rank] = training.numbers()
            world.barrier()
        for _ in range(number):
            case = None
            if world.rank == 0:
                case = prepare(root, work, draw)
            case = Case(*json.loads(world.all_gather(json.dumps(case).encode())[0]))
            # A scheduler takes any name that is loaded into it, and would keep those of files that were signed anew.
            vars(training.scheduler).clear()
            vars(training.scheduler).update(attributes)
            step = take_up(world, work, training, case.signed)
            assert step is not None or case.alone or case.signed, f"the one before was not taken: {case}"
            if step is not None and (step == 1 or not case.signed):
                assert training.numbers() == bits[world.size, step, world.rank], f"loaded something else: {case}"
            world.barrier()
            if world.rank == 0:
                how = "signed anew" if case.signed else "altered"
                counts[how, "refused" if step is None else f"loaded step {step}"] += 1

    testing.run(SIZE, sound)
    testing.run(SIZE, lambda world: cases(world, int(count) * 4 // 5))
    testing.run(1, lambda world: cases(world, int(count) - int(count) * 4 // 5))
    for (how, said), times in sorted(counts.items()):
        print(f"{how}, {said}: {times}")


if __name__ == "__main__":
    main(*sys.argv[1:])
