"""MPI by mpi4py: non-blocking point-to-point on the tensors' own memory.

A large message leaves when its receiver has sent a clear-to-send word. Sent at once, messages of ranks that are a round
ahead would share the receiver's link, and delay the message that is waited for. MPI libraries ask the receiver too, but
its answer queues behind the messages that it has begun to send. Here the word goes out with the receive, before any
send of the same batch. Where all ranks wait for the same step, messages of different steps hardly meet: then there is
no word.
"""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager
from functools import partial

import torch

from ...errors import GossipError
from ..carrier import Carrier
from ..collective.steps import Relay
from ..flight import Backend, Batch, Channel, Flight
from .engine import Engine
from .flight import Habits, MpiFlight
from .gpu.cuda import Event, aside, on
from .gpu.routes import Route, Routes, said
from .gpu.staging import Staged
from .messages import EAGER, Line, PlainReceive, PlainSend, pieces
from .start import check_running, pid_of_mpirun
from .ulfm import Ulfm, is_chosen

ASKED, UNASKED = 256, 16
"""Eager pieces of a tensor at most: 17 MB after a clear-to-send word, and 1 MB where the receiver may have to keep what
comes early. None on the same host, where memory is shared: one copy of the whole is faster there than any pieces."""


class MpiBackend(Backend):
    """The process's MPI. The tag of a channel's messages is 2 × number, and one more for words."""

    name = "mpi"
    _shared: MpiBackend | None = None

    def __init__(self, timeout: float) -> None:
        said()  # a wrong value is refused now
        self.engine = Engine(timeout, is_chosen())
        self.rank = self.engine.rank
        self.carrier = Carrier(self.engine.comm.size, Ulfm(self.engine) if self.engine.outlives else None)
        self.habits = Habits()
        with self.engine.lock:  # MPI promises tags up to 32,767
            self.most_numbers = int(self.engine.comm.Get_attr(self.engine.mpi.TAG_UB) or 32767) // 2

    @classmethod
    def shared(cls, timeout: float) -> MpiBackend:
        """The one of this process, started with this deadline if it is the first call."""
        if cls._shared is None:
            cls._shared = cls(timeout)
        check_running(cls._shared.engine.mpi)
        return cls._shared

    def post(self, channel: Channel, sends: Batch, receives: Batch, subject: str, *, together: bool) -> Flight:
        """Receives are posted before sends, so that data finds its place on arrival, and the word leaves soon.

        Without words sends come first, for peers post theirs at the same moment.
        """
        engine = self.engine
        if engine.mpi.Is_finalized():
            check_running(engine.mpi)
        flight = MpiFlight(engine, self.habits, channel, sends, receives, subject)
        try:
            with engine.lock:
                self._make_messages(flight, asking=not together)
                for message in flight.held:
                    engine.post(message)
                flight.collect()
        except GossipError:  # nothing was posted
            raise
        except (engine.mpi.Exception, RuntimeError) as error:
            flight.fail(error)
        if flight.is_under_way():
            engine.drive(flight, awaited=together)
        return flight

    def _make_messages(self, flight: MpiFlight, asking: bool) -> None:
        engine, tag, most = self.engine, 2 * flight.channel.number, ASKED if asking else UNASKED
        marks: dict[Route, Event] = {}
        both = (True, flight.receives, flight.incoming), (False, flight.sends, flight.outgoing)
        for inward, batch, messages in both:
            for peer, tensors in batch.items():
                rank = flight.ranks[peer]
                line, eager = Line(inward, engine.places[rank], tag), 0 if rank in engine.near else most
                for tensor in tensors:
                    route = self._route(tensor)
                    if route is not None:
                        if route not in marks:
                            marks[route] = route.memory.mark()
                        messages.append(route.message(rank, line, tensor, marks[route]))
                        flight.prompt = False
                    else:
                        memory = pieces(tensor, eager)
                        flight.prompt &= tensor.nbytes <= EAGER * eager
                        plain = PlainReceive if inward else PlainSend
                        messages.append(plain(rank, line, memory, asking and len(memory) > 1))
        flight.held = [*flight.incoming, *flight.outgoing] if asking else [*flight.outgoing, *flight.incoming]
        if marks:
            flight.buffered = flight.staged = [message for message in flight.held if isinstance(message, Staged)]

    def _route(self, tensor: torch.Tensor) -> Route | None:
        """How a device's `tensor` travels; None for memory of the host, which MPI takes as it lies."""
        engine = self.engine
        if engine.routes is None and tensor.device.type != "cpu":
            engine.routes = Routes(engine.mpi, engine.comm)
        return None if engine.routes is None else engine.routes.of(tensor)

    def route(self, tensor: torch.Tensor) -> str:
        with self.engine.lock:
            route = self._route(tensor)
        return "host" if route is None else route.name

    def waiting(self) -> AbstractContextManager[object]:
        return self.engine.waiting()

    def drive(self, flight: Flight) -> Flight:
        if isinstance(flight, Relay) and torch.cuda.is_initialized():
            # On the caller's stream each step would come after all that the caller has computed meanwhile.
            device = torch.device("cuda", torch.cuda.current_device())
            stream = aside(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            flight.around = partial(on, stream, device)
            flight.join = lambda: torch.cuda.current_stream(device).wait_stream(stream)
        self.engine.drive(flight)
        return flight

    def end_job(self, code: int) -> None:
        # With fault tolerance Open MPI 5.0.11 takes an abort in jobs of four and more ranks for the death of one.
        if self.engine.outlives and (pid := pid_of_mpirun()) is not None:
            os.kill(pid, signal.SIGTERM)
        elif not self.engine.mpi.Is_finalized():
            self.engine.mpi.COMM_WORLD.Abort(code)
