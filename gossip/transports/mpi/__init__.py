"""Messages over MPI, by mpi4py.

`backend` posts batches; `flight` is a batch under way, `messages` are its tensors. `engine` has the communicator, the
lock and the progress thread. `ulfm` goes on without dead ranks, `start` begins MPI with a deadline, and `gpu/` carries
memory of devices.
May import: errors, launching, observe, transports.
"""
