"""Gloo and NCCL, by torch.distributed.

`backend` is one class for both. `gloo` has the messages of a channel and `waiter` the threads that wait for them;
`streams` orders NCCL's batches. Ranks find one another by `rendezvous`, over a `store`, on one of the host's
`interfaces`; `joined` asks for ranks that the program has started.
May import: checks, errors, launching, observe, transports.
"""
