"""What all ranks hold together: the mean of their models, and a state that any number of ranks goes on from.

`mean` computes it, `calls` puts it in the place of a rank's own values, for evaluation and publication, and `portable`
makes a state of an optimizer's.
May import: averagers, checks, errors, observe, state, training, transports.
"""
