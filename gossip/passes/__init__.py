"""Hooks into the passes of a model: a value is needed only when the module that owns it runs.

`reads` notes in which order modules read parameters, and `forward` says before which module what has to be there;
`hooks` are on the modules.
May import: errors, state, untraced. Knows nothing of rounds or optimizers.
"""
