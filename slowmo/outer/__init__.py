"""Outer iterations: the outer step and the wrapper that all optimizers of this package share.

`step` is the outer step, one of the averagers of a GossipOptimizer. `wrapper` is the public side. `rule` is slow
momentum, `outer_optimizer` any torch optimizer in its place. `memory` holds anchors, `rates` follows learning rates,
`buffers` acts on the base optimizer's state.
May import: gossip, slowmo.refusals.
"""
