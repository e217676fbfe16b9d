"""Outer iterations: what all optimizers of this package share.

`outer` takes anchors and steps on parts of the model, `rule` is slow momentum, `outer_optimizer` any torch optimizer in
its place. `memory` is where anchors rest, `rates` follows learning rates, `buffers` is what happens to the base
optimizer's state, `jumps` warns of weights written by hand.
"""
