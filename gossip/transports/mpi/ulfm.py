"""How MPI's ranks go on without the dead, under `mpirun --with-ft ulfm`.

Open MPI then tells of a dead process instead of ending the job, and the communicator can be made anew without it:
revoke, agree and shrink of MPI's user-level failure mitigation (ULFM).
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

import numpy as np

from ...observe.ending import abort
from ..carrier import Survivors
from ..deadlines import poll
from ..flight import Flight
from .engine import LAST_WAIT, Engine
from .flight import MpiFlight
from .gpu.staging import Staged
from .messages import Message

if TYPE_CHECKING:
    from mpi4py import MPI

VARIABLE = "OMPI_MCA_mpi_ft_enable"  # set to 1 by mpirun --with-ft ulfm


def is_chosen() -> bool:
    """Whether this job goes on after a death; call it before MPI starts."""
    if os.environ.get(VARIABLE) != "1":
        return False
    # MPI_Finalize otherwise ends in a barrier, which a dead process may keep from ending.
    os.environ.setdefault("OMPI_MCA_async_mpi_finalize", "1")
    return True


class Ulfm(Survivors):
    """The survivors of the engine's communicator."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        engine.over = self.is_over
        atexit.register(self._finalize)  # runs before the engine's own

    def revoke(self) -> None:
        engine = self.engine
        with engine.lock:
            if not engine.comm.Is_revoked():
                engine.comm.Revoke()
        # Now each flight ends, in an error or because it had arrived. None may stay with the progress thread, which
        # would move it along onto the next communicator, or be written into.
        late = f"rank {engine.rank} could not break off its messages in {engine.timeout:g} s after a death"
        poll(lambda: not engine.advance(), engine.timeout, lambda: late)

    def agree(self, done: bool) -> bool:
        engine, flag = self.engine, np.array([done], dtype=np.int32)
        late = (
            f"rank {engine.rank} waited {engine.timeout:g} s for the {len(engine.places)} ranks to agree after one of "
            "them died: does every rank still call step()?"
        )

        def has_ended() -> bool:
            with engine.lock:
                return bool(request.Test())

        try:
            with engine.lock:
                request = engine.comm.Iagree(flag)
            poll(has_ended, engine.timeout, lambda: late)
        except engine.mpi.Exception:  # on all ranks alike: one of them died and did not answer
            return False
        return bool(flag[0])

    def shrink(self) -> set[int]:
        engine = self.engine
        # Ishrink of Open MPI 5.0 fails when a process has died; but all survivors are here, so this blocks briefly.
        with engine.lock, self._at_most(engine.timeout, 1, "the others to meet without the dead"):
            new = cast("MPI.Intracomm", engine.comm.Shrink())
            before, after = engine.comm.Get_group(), new.Get_group()
            kept = engine.mpi.Group.Translate_ranks(after, range(after.size), before)
            ranks = {place: rank for rank, place in engine.places.items()}
            gone = set(engine.places) - {ranks[place] for place in kept}
            engine.places = {ranks[place]: number for number, place in enumerate(kept)}
            new.Set_errhandler(engine.mpi.ERRORS_RETURN)
            engine.comm = new
            engine.queues.clear()
        return gone

    # -- what is left of a flight that was broken off ------------------------------------------------------------------

    def is_over(self, flight: Flight) -> bool:
        """Whether neither MPI nor a device touches the tensors of `flight` any more."""
        if not isinstance(flight, MpiFlight):
            return True
        with self.engine.lock:
            flight.staged = [message for message in flight.staged if not self._is_left_alone(flight, message)]
            waiting = [message for message in flight.held if not message.posted and self._waits(message)]
            plain = [message for message in (*flight.incoming, *flight.outgoing) if not message.staged]
            words = [message.word for message in plain if message.word is not None]
            requests = [*words, *(request for message in plain for request in message.requests)]
            if not self._have_ended(flight, requests) or waiting or flight.staged:
                return False
            flight.give_back()
        return True

    def _waits(self, message: Message) -> bool:
        """Whether `message` still waits for its turn, which comes unless its line has failed."""
        with suppress(self.engine.mpi.Exception):
            self.engine.dispatch(message.line)
            return self._is_queued(message)
        return False

    def _is_queued(self, message: Message) -> bool:
        return message in self.engine.queues.get(message.line, ())

    def _is_left_alone(self, flight: MpiFlight, message: Staged) -> bool:
        """Whether neither MPI nor the device touches its memory any more. It goes on where its peer is alive."""
        if message.failure is None and not (message.posted or self._is_queued(message)):
            message.failure = flight.failure  # posting broke off before it
        if message.failure is None:
            try:
                if not message.posted:
                    self.engine.dispatch(message.line)
                return message.move()
            except self.engine.mpi.Exception as error:
                message.failure = error
        return self._have_ended(flight, message.requests) and message.let_go()

    def _have_ended(self, flight: MpiFlight, requests: Sequence[MPI.Request]) -> bool:
        """Whether MPI is through with all of them, whose good ends it notes."""
        null = self.engine.mpi.REQUEST_NULL
        for request in requests:
            with suppress(self.engine.mpi.Exception):  # some end in an error, others are tested again
                if request != null and request.Test():
                    flight.ended.add(id(request))
        return all(request == null for request in requests)

    # -- calls that block ----------------------------------------------------------------------------------------------

    def _finalize(self) -> None:
        """MPI_Finalize, which may wait for a dead process for ever: then this one ends without, its work being done."""
        self.engine.stop()
        if not self.engine.mpi.Is_finalized():
            with self._at_most(LAST_WAIT, 0):
                self.engine.mpi.Finalize()

    @contextmanager
    def _at_most(self, seconds: float, code: int, whom: str = "") -> Iterator[None]:
        """Around a call of MPI that blocks: the process ends with `code` when it takes longer."""
        said = whom and f"rank {self.engine.rank} waited {seconds:g} s for {whom}"
        timer = threading.Timer(seconds, abort, (code, said), {"alone": True})
        timer.name, timer.daemon = "gossip-mpi-end", True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
