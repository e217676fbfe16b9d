"""Arguments of an optimizer that cannot work, refused with a sentence before anything is changed.

`arguments` checks kinds of objects, `refusals` combinations, `communicating` finds optimizers that exchange values
themselves.
May import: state, averagers, recovery, world.
"""
