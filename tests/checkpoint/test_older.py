"""Checkpoints that older versions wrote are loaded, and those of newer versions are refused by name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spawn
from workers.reference import SAVED, SIZE, STEPS, Training

import gossip
from gossip import testing
from gossip.checkpoint import files
from gossip.checkpoint.files import FORMAT, Manifest, Shard, digest_of, parse

REFERENCE = spawn.SUPPORT / "reference" / "checkpoint-0.1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy: `load` may write into the folder."""
    return Path(shutil.copytree(REFERENCE, tmp_path / "run"))


def test_checkpoint_of_version_0_1_goes_on_bit_for_bit(folder: Path) -> None:
    def run(world: gossip.World) -> dict[str, np.ndarray[Any, Any]]:
        training = Training(world)
        saved = gossip.checkpoint.load(folder, world, **training.parts())
        assert saved == (SAVED, SIZE, {"position": {"batch": SAVED}})
        assert training.optimizer.weight != 1, "a message is in flight"
        training.train(range(SAVED, STEPS))
        return training.numbers()

    with np.load(REFERENCE / "numbers.npz") as numbers:
        for rank, found in enumerate(testing.run(SIZE, run)):
            for name, each in found.items():
                assert np.array_equal(each, numbers[f"{rank}/{name}"]), f"rank {rank}: {name}"


def test_checkpoint_of_version_0_1_has_the_same_consensus(folder: Path) -> None:
    with np.load(REFERENCE / "numbers.npz") as numbers:
        for name, each in gossip.checkpoint.consensus(folder).items():
            assert np.array_equal(each.numpy(), numbers[f"consensus/{name}"])


def test_checkpoint_of_version_0_1_loads_on_another_number_of_ranks(folder: Path) -> None:
    def run(world: gossip.World) -> list[np.ndarray[Any, Any]]:
        training = Training(world)
        saved = gossip.checkpoint.load(folder, world, **training.parts())
        assert saved is not None
        assert saved.size == SIZE
        assert training.optimizer.weight == 1
        return [parameter.detach().numpy().copy() for parameter in training.model.parameters()]

    with np.load(REFERENCE / "numbers.npz") as numbers:
        for weight, bias in testing.run(3, run):
            assert np.array_equal(weight, numbers["consensus/weight"])
            assert np.array_equal(bias, numbers["consensus/bias"])


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"version": "9.9.0", "format": 99}, "was written by gossip 9.9.0 in format 99"),
        ({"format": 2}, "was written by gossip of another version in format 2"),
    ],
)
def test_checkpoint_of_another_format_is_refused_with_the_version_that_wrote_it(
    written: dict[str, Any], said: str, folder: Path
) -> None:
    path = files.place(folder, SAVED) / files.MANIFEST
    body = json.loads(path.read_bytes())
    del body["digest"]
    body |= written
    unversioned = {key: value for key, value in body.items() if key != "version"}
    body["digest"] = digest_of(json.dumps(unversioned, sort_keys=True).encode())
    path.write_text(json.dumps(body))

    def run(world: gossip.World) -> None:
        reason = f"{said}, and gossip {gossip.__version__} reads format {FORMAT}: export the model with the version"
        with pytest.raises(gossip.CheckpointError, match=re.escape(reason)):
            gossip.checkpoint.load(folder, world, **Training(world).parts())

    testing.run(SIZE, run)


def test_a_manifest_names_the_version_that_writes_it() -> None:
    manifest = Manifest(1, (Shard(7, "0" * 64),))
    assert json.loads(manifest.text())["version"] == gossip.__version__
    assert parse(manifest.text()) == manifest
