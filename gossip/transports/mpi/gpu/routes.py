"""How tensors of GPUs travel over MPI, by whether the library says that it carries their memory."""

from __future__ import annotations

import ctypes
import logging
import os
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ....errors import UsageError
from ..messages import Line, Message, PlainReceive, PlainSend
from .cuda import Event, Memory
from .staging import StagedReceive, StagedSend, chunks

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger("gossip")

VARIABLE = "GOSSIP_GPU_AWARE_MPI"  # set to 0 or 1, it overrides what the library says

OPEN_MPI = {"cuda": "MPIX_Query_cuda_support", "rocm": "MPIX_Query_rocm_support"}
"""Functions without arguments that return 1 or 0."""

MPICH, MPICH_KINDS = "MPIX_GPU_query_support", {"cuda": 0, "rocm": 2}
"""A function of the kind's number and a pointer to its result, 1 or 0."""

INFO = "mpi_memory_alloc_kinds"
"""The key, by MPI 4.1, of the kinds of memory that a communicator takes, such as cuda:device, with commas between."""


class Span(NamedTuple):
    """Bytes of a device as MPI takes them. torch's own tensors of some dtypes, such as bfloat16, cannot be taken so."""

    address: int
    nbytes: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"data": (self.address, False), "shape": (self.nbytes,), "typestr": "|u1", "version": 3}


class Route:
    """How tensors of one device travel: direct, or staged through pinned memory of the host.

    MPI knows nothing of streams. So a direct message is posted once the device has come to the point at which its batch
    was posted: what is sent has been written by then, and what is received into is read no more. Both routes cut a
    tensor alike, so that the other end may take either.
    """

    def __init__(self, memory: Memory, direct: bool) -> None:
        self.memory = memory
        self.name = "direct" if direct else "staged"

    def message(self, rank: int, line: Line, tensor: torch.Tensor, mark: Event) -> Message:
        """The tensor on its way, out or in as `line` says, after the device's work up to `mark`."""
        if self.name == "staged":
            return (StagedReceive if line.inward else StagedSend)(rank, line, tensor, self.memory, mark)
        spans = [Span(chunk.data_ptr(), len(chunk)) for chunk in chunks(tensor)]
        return (PlainReceive if line.inward else PlainSend)(rank, line, spans, ready=partial(self.memory.passed, mark))


class Routes:
    """The route of each device that a tensor has come from so far."""

    def __init__(self, mpi: ModuleType, comm: MPI.Intracomm) -> None:
        self._mpi, self._comm, self._me = mpi, comm, comm.rank
        self._said = said()
        self._known: dict[torch.device, Route] = {}
        self.latest: Route | None = None

    def of(self, tensor: torch.Tensor) -> Route | None:
        """How `tensor` travels: None from and to the memory of hosts, where MPI takes it as it lies."""
        device = tensor.device
        if device.type == "cpu":
            return None
        if device not in self._known:
            self._known[device] = self.latest = self._make(device)
        return self._known[device]

    def _make(self, device: torch.device) -> Route:
        if device.type != "cuda":
            raise UsageError(
                f"rank {self._me} has a tensor on {device}, and transport 'mpi' carries memory of hosts and of CUDA "
                "and ROCm devices: move the model to one of those before the optimizer is made"
            )
        kind = "cuda" if torch.version.hip is None else "rocm"
        aware = supported(self._mpi, self._comm, kind) if self._said is None else self._said
        how = "directly" if aware else "staged through pinned memory of the host"
        by, carries = VARIABLE if self._said is not None else "the library", "carries" if aware else "does not carry"
        sentence = "rank %d: tensors of %s travel over MPI %s: %s says that it %s %s memory"
        log.info(sentence, self._me, device, how, by, carries, kind)
        return Route(Memory(device), direct=aware)


def said() -> bool | None:
    """The value of the variable, which has to be 0 or 1; None where it is not set."""
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    if value not in ("0", "1"):
        raise UsageError(
            f"{VARIABLE} is {value!r}: set it to 1 where MPI carries memory of GPUs, to 0 where it does not, or leave "
            "it out, and the MPI library is asked"
        )
    return value == "1"


def supported(mpi: ModuleType, comm: MPI.Intracomm, kind: str) -> bool:
    """Whether the library that mpi4py has loaded says that it carries memory of `kind`, "cuda" or "rocm"."""
    assert mpi.__file__ is not None, "mpi4py is compiled"
    library = ctypes.CDLL(mpi.__file__)  # finds what mpi4py itself was linked with
    if hasattr(library, OPEN_MPI[kind]) and library[OPEN_MPI[kind]]() == 1:
        return True
    flag = ctypes.c_int(0)
    if hasattr(library, MPICH):
        failed = library[MPICH](ctypes.c_int(MPICH_KINDS[kind]), ctypes.byref(flag))
        if flag.value and not failed:
            return True
    info = comm.Get_info()
    kinds = [each.strip().lower().split(":") for each in (info.Get(INFO) or "").split(",")]
    info.Free()
    # A kind without restrictors, or one restricted to the device, includes the device: cuda:host is pinned memory.
    return any(name == kind and (not only or "device" in only) for name, *only in kinds)
