"""Messages over MPI, by mpi4py.

`transport` is the interface, `engine` holds the communicator and the progress thread, `flight` is a batch under way,
`parcels` are its messages; `start` and `alarm` begin MPI with a deadline. `gpu/` carries memory of devices.
May import: transports, observe, launching.
"""
