"""The update of a step: gradients, closures, and the wrapped optimizer's own step.

`update` makes it, and `gradients` averages gradients before it.
May import: errors, state, training, world.
"""
