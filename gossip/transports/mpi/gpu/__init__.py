"""Memory of GPUs over MPI: `routes` asks the library how to carry it, `staging` copies through the host.

`cuda` is the device's side of it: streams, events, pinned memory.
May import: errors, transports.
"""
