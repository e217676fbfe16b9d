"""Gloo and NCCL, by torch.distributed.

`transport` is one class for both, `waiter` waits for Gloo's batches, `streams` orders NCCL's. Ranks find one another by
`rendezvous`, over a `store`, on one of the host's `interfaces`; `joined` asks for ranks that the program has joined.
May import: transports, observe, launching.
"""
