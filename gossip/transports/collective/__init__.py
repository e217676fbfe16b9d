"""Calls in which all ranks of a communicator take part.

`steps` makes one flight of a sequence of batches: broadcast, barrier, gather of bytes. `sums` is the exact sum, and
`small` means, reductions and objects of a script.
May import: checks, errors, transports.
"""
