"""MPI by mpi4py: non-blocking point-to-point on the tensors' own memory.

A large message leaves when its receiver has said that there is room for it. Sent at once, it would share its
receiver's link with those of ranks that are a round ahead, and delay the one that is waited for. MPI libraries ask too,
but the answer then queues behind what the receiver itself has begun to send, over one connection for as long as that
whole message takes. Here the word goes out with the receive, before anything of the same batch is sent. Where all ranks
wait for the same step, messages of different steps hardly meet, and nobody asks.
"""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager

import torch

from ..base import Transport
from ..collectives import Relay
from ..flight import Batch, Flight
from .engine import Engine
from .flight import MpiFlight
from .gpu.cuda import aside
from .start import check_running, pid_of_mpirun


class MpiTransport(Transport):
    """Some ranks of the communicator, told apart from other groups and channels by the tag of their messages."""

    name = "mpi"

    def __init__(self, timeout: float) -> None:
        self.engine = Engine.shared(timeout)
        check_running(self.engine.mpi)
        super().__init__(self.engine.rank, self.engine.size, timeout, self.engine)
        with self.engine.lock:  # MPI promises tags up to 32,767; a number takes two, the other for words
            self.most_numbers = int(self.engine.comm.Get_attr(self.engine.mpi.TAG_UB) or 32767) // 2

    def post(self, sends: Batch, receives: Batch, subject: str, *, together: bool = False) -> MpiFlight:
        self.refuse_closed(subject)
        check_running(self.engine.mpi)
        return MpiFlight(self, sends, receives, subject, asking=not together)

    def waiting(self) -> AbstractContextManager[object]:
        return self.engine.waiting()

    def route(self, tensor: torch.Tensor) -> str:
        with self.engine.lock:
            route = self.engine.routes.of(tensor)
        return "host" if route is None else route.name

    def drive(self, flight: Flight) -> Flight:
        if isinstance(flight, Relay) and torch.cuda.is_initialized():
            # On the caller's stream each step would come after all that the caller has computed meanwhile.
            beside = aside(torch.device("cuda", torch.cuda.current_device()))
            beside.follow()
            flight.around, flight.join = beside.around, beside.join
        self.engine.drive(flight)
        return flight

    def end_job(self, code: int) -> None:
        # With fault tolerance Open MPI 5.0.11 takes an abort in jobs of four and more ranks for the death of one.
        if self.engine.outlives and (pid := pid_of_mpirun()) is not None:
            os.kill(pid, signal.SIGTERM)
        elif not self.engine.mpi.Is_finalized():
            self.engine.mpi.COMM_WORLD.Abort(code)
