"""Random input in environment variables, on command lines, in headers of messages and on the store's socket.

Graph files are in `tests/topologies/custom/test_files.py`, checkpoints in `tests/checkpoint/`.
"""

from __future__ import annotations

import contextlib
import io
import random
import socket
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gossip
import topologies
from bench import __main__ as bench
from gossip.launching.launchers import Launcher, detect
from gossip.transports.torch.store import HEADER, StoreClient, StoreServer, _proof
from topologies.__main__ import main

VARIABLES = [
    "OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_LOCAL_SIZE",
    "PMI_RANK PMI_SIZE MPI_LOCALRANKID MPI_LOCALNRANKS",
    "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE TORCHELASTIC_RUN_ID",
    "SLURM_STEP_ID SLURM_PROCID SLURM_NTASKS SLURM_LOCALID SLURM_STEP_TASKS_PER_NODE SLURM_NODEID",
]
NUMBERS = st.integers(-2, 9).map(str) | st.sampled_from(["", " 3 ", "١", "1e3", "0x1", "nan", "2(x3)", "9" * 5000])
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=300)
@given(
    st.sampled_from(VARIABLES).flatmap(
        lambda names: st.dictionaries(st.sampled_from(names.split()), NUMBERS | TEXTS, max_size=6)
    )
)
def test_random_environment_variables_give_a_launcher_or_an_error(environ: dict[str, str]) -> None:
    try:
        found = detect(environ)
    except gossip.UsageError:
        return
    assert 0 <= found.rank < found.size
    assert 0 <= found.local_rank < found.local_size <= found.size


WORDS = [
    "list",
    "show",
    "compare",
    "check",
    "advise",
    "--size",
    "--rounds",
    "--round",
    "--json",
    "--peers",
    "--rate",
    "--latency",
    "--bytes",
    "--all",
    "-",
    "--",
    "--help",
    "exponential",
    "ring",
    "base_graph,peers=2",
    "base_graph,peers=",
    ",,",
    "=,=",
    "ring,size=3",
    "mod:f",
    "x.gml",
    "/dev/null",
    "../..",
    "0",
    "1",
    "4",
    "7",
    "-1",
    "nan",
    "10gbit",
    "50us",
    "1MB",
    "1e3",
    "1mB",
]


@settings(max_examples=150)
@given(st.lists(st.sampled_from(WORDS) | TEXTS, max_size=6))
def test_random_command_lines_of_topologies_end_without_a_traceback(words: list[str]) -> None:
    """The command succeeds, or prints an error and exits with 1 or 2."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(words)
        except SystemExit as ended:
            code = ended.code
    assert code in (0, 1, 2, None)
    assert code in (0, None) or said.getvalue().strip()
    assert "Traceback" not in said.getvalue()


OPTIONS = "--sizes --compute --algorithms --period --steps --ranks --rate --size --lr --topology --json --out --seed"


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(bench.COMMANDS)),
    st.lists(st.sampled_from([*OPTIONS.split(), *WORDS, "none,sgp", "1..4", "0.1,0.1"]) | TEXTS, max_size=5),
)
def test_random_command_lines_of_bench_are_checked_before_a_run(command: str, words: list[str]) -> None:
    """Every argument is checked before any process starts."""
    said, code = io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            given = bench._parsers()[0].parse_args([command, *words])
            bench.COMMANDS[command].check(given, Launcher("none"))
        except SystemExit as ended:
            code = ended.code
        except gossip.UsageError:
            code = 2
    assert code in (None, 0, 2)
    assert code != 0 or "--help" in words or any(word.startswith("-h") for word in words)


def test_headers_with_flipped_bits_are_refused() -> None:
    """An envelope whose bits do not fit the round is refused, also if the weight is wrong."""
    world = gossip.init()
    push_sum = gossip.PushSum(world, topologies.exponential(1))
    gossip.GossipOptimizer(torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1), push_sum)
    exchange, draw = push_sum.landing.exchange, random.Random(0)
    values = exchange.mass.values
    sound = exchange.envelope(torch.tensor(0.5, dtype=torch.float64), 7, values)
    exchange.check(sound, 0, 7, values)
    refused = 0
    for _ in range(10_000):
        bits = bytearray(sound.numpy().tobytes())
        for _ in range(draw.randint(1, 3)):
            bits[draw.randrange(len(bits))] ^= 1 << draw.randrange(8)
        altered = torch.frombuffer(bits, dtype=torch.float64)
        same = torch.equal(altered[1:], sound[1:])
        try:
            exchange.check(altered, 0, 7, values)
        except gossip.PeerLost:
            refused += 1
        else:
            assert same, "another round, or another model"
            assert 0 <= float(altered[0]) <= 1 + 1e-6, "more weight than there is"
    assert refused > 7_000


def test_the_store_serves_others_after_random_requests() -> None:
    """Requests are random, with and without the secret, and other clients are still served."""
    server, draw = StoreServer(("127.0.0.1", 0), b"secret"), random.Random(0)
    ours = StoreClient(("127.0.0.1", server.port), b"secret", 5, 0)
    ours.set("address", b"here")
    for number in range(100):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as other:
            nonce = other.recv(16)
            known = _proof(b"secret", nonce) if number % 2 else draw.randbytes(32)
            verb = draw.choice([b"+", b"c", b"?", b"d", draw.randbytes(1)])
            key, value = draw.randbytes(draw.randrange(9)), draw.randbytes(draw.randrange(40))
            announced = draw.choice([len(value), len(value) + 5, 2**32 - 1, 0])
            other.sendall(known + HEADER.pack(verb, len(key), announced) + key + value)
    assert ours.get("address") == b"here"
    server.close()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder, which must stay empty before the test."""
    monkeypatch.chdir(tmp_path_factory.mktemp("fuzz"))
    assert not list(Path().iterdir())
